"""Every failure that a user can cause, as one tree.

    TrinityError
    ├── UsageError                 exit code 2
    │   ├── TranscriptError
    │   ├── ContextLengthError
    │   ├── SelectionError
    │   ├── InputFileError
    │   ├── OutputExists
    │   ├── ResumeRefused
    │   ├── ParitySetupError
    │   ├── SuiteInvalid
    │   ├── SnapshotInvalid
    │   ├── FloorLowered
    │   ├── PoolInvalid
    │   ├── PolicyInvalid
    │   ├── AuthorityInvalid
    │   ├── TraceInvalid
    │   ├── SettingsInvalid
    │   ├── TableInvalid
    │   └── LiveCallRefused
    ├── EnvironmentUnavailable     exit code 3
    │   ├── UnknownProfile
    │   ├── ProfileInvalid
    │   ├── ProfileUnavailable
    │   ├── HomeUnavailable
    │   ├── FolderUnavailable
    │   ├── NotEnoughMemory
    │   ├── SecretUnavailable
    │   └── WorkersLost
    ├── ArtifactError              exit code 4
    │   ├── ArtifactNotFound
    │   ├── PinInvalid
    │   ├── FileMismatch
    │   ├── VectorInvalid
    │   ├── BundleInvalid
    │   ├── TensorFileInvalid
    │   ├── BaseInvalid
    │   ├── BaseMismatch
    │   ├── NonFiniteLogits
    │   └── LaneInvalid
    ├── ProviderError              exit code 5
    │   ├── ProviderUnreachable
    │   ├── ProviderTimeout
    │   ├── ProviderRefused
    │   ├── ProviderRateLimited
    │   ├── ProviderUnavailable
    │   ├── ReplyInvalid
    │   └── CircuitOpen
    └── BudgetExceeded             exit code 6

A message says what is wrong, with the value, and what to do next. The command line prints it and exits with the
class's ``exit_code``.
"""

from __future__ import annotations

LONGEST = 1000
"""Characters of a message: what a user's file holds may be quoted in it, and has no bound of its own."""


def bounded(text: str, limit: int = LONGEST) -> str:
    """``text``, or its beginning and its end with a count of the characters left out between them."""
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 4
    return f"{text[:head]} ... ({len(text) - head - tail} characters left out) ... {text[-tail:]}"


class TrinityError(Exception):
    """Base of every error that this package raises on purpose; a long message keeps its beginning and its end."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(bounded(message))


class UsageError(TrinityError):
    """The request itself cannot be carried out as it was made."""

    exit_code = 2


class TranscriptError(UsageError):
    """The messages are not a transcript: empty, an unknown role, content that is not text."""


class ContextLengthError(UsageError):
    """The transcript has more tokens than the base model has positions."""


class SelectionError(UsageError):
    """A selection mode, temperature, seed or list of allowed slots is out of range."""


class InputFileError(UsageError):
    """A file that the user named cannot be read as what it should be."""


class OutputExists(UsageError):
    """The output folder holds something that was not asked to be replaced."""


class ResumeRefused(UsageError):
    """An unfinished export was begun from other inputs, or what it had finished has changed since."""


class ParitySetupError(UsageError):
    """A parity check lacks what it needs: a tensor, a required stage, components, a finished bundle."""


class SuiteInvalid(UsageError):
    """A suite of evaluation cases is malformed, or does not fit the router that it is to be run against."""


class SnapshotInvalid(UsageError):
    """A snapshot of earlier routes is malformed."""


class FloorLowered(UsageError):
    """A lane would be renewed with a lower floor than it has, and nobody allowed that."""


class PoolInvalid(UsageError):
    """A provider pool is malformed, or has more slots than the router's head."""


class PolicyInvalid(UsageError):
    """A coordination policy has an unknown name or a setting out of range."""


class AuthorityInvalid(UsageError):
    """An authority for a governed run is malformed, or stands beside options that it excludes."""


class TraceInvalid(UsageError):
    """A trace file cannot be read, or its events do not follow from one another."""


class SettingsInvalid(UsageError):
    """The user's file of settings is malformed, or holds a setting that there is not."""


class TableInvalid(UsageError):
    """A table of recorded answers cannot be read, or holds too little for what is asked of it."""


class LiveCallRefused(UsageError):
    """A pool would call a provider outside this process, and nobody allowed live calls."""


class EnvironmentUnavailable(TrinityError):
    """This machine or installation cannot do what was asked."""

    exit_code = 3


class UnknownProfile(EnvironmentUnavailable):
    """No runtime profile has that name."""


class ProfileInvalid(EnvironmentUnavailable):
    """A profile's TOML file does not describe a profile."""


class ProfileUnavailable(EnvironmentUnavailable):
    """The profile exists, but its backend or its device is missing here."""


class HomeUnavailable(EnvironmentUnavailable):
    """A file's home refuses, cannot be reached, or may not be asked because the network is not to be used."""


class FolderUnavailable(EnvironmentUnavailable):
    """A folder cannot be written to, has no room, or is in use by another process."""


class NotEnoughMemory(EnvironmentUnavailable):
    """A method or a model needs more memory than there is."""


class SecretUnavailable(EnvironmentUnavailable):
    """A pool refers to a key that is not where the reference says."""


class WorkersLost(EnvironmentUnavailable):
    """The processes or machines that share a piece of work have died, and none can take it over."""


class ArtifactError(TrinityError):
    """A base, a bundle or one of its files is missing or not what it says it is."""

    exit_code = 4


class ArtifactNotFound(ArtifactError):
    """No artifact, folder or repository of that name."""


class PinInvalid(ArtifactError):
    """A pin file, or the record of what was fetched, is not one."""


class FileMismatch(ArtifactError):
    """A file's bytes are not the ones that its pin names."""


class VectorInvalid(ArtifactError):
    """A trained vector's file is malformed, or its numbers do not add up to this base and these agents."""


class BundleInvalid(ArtifactError):
    """A bundle's manifest, or a file that it names, does not hold up."""


class TensorFileInvalid(ArtifactError):
    """A safetensors file is truncated, corrupt, or lacks a tensor or a shape that is needed."""


class BaseInvalid(ArtifactError):
    """A base model's folder is incomplete, or its configuration is not a plain Qwen3."""


class BaseMismatch(ArtifactError):
    """The adapter was made for another base model."""


class NonFiniteLogits(ArtifactError):
    """The router produced NaN or infinity, so no choice can be made from it."""


class LaneInvalid(ArtifactError):
    """A lane's file is malformed."""


class ProviderError(TrinityError):
    """An agent's provider did not give an answer.

    Attributes:
        status: the HTTP status, where there was one.
        retryable: whether the same request may succeed later.
        retry_after_s: how many seconds the provider asks to wait, where it said so.
        request_id: the provider's own name for the request, where it gave one.
    """

    exit_code = 5
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retryable = type(self).retryable if retryable is None else retryable
        self.retry_after_s = retry_after_s
        self.request_id = request_id


class ProviderUnreachable(ProviderError):
    """No connection: the name does not resolve, nobody listens, TLS fails, or the line broke."""

    retryable = True


class ProviderTimeout(ProviderError):
    """No whole answer within the agent's time."""

    retryable = True


class ProviderRefused(ProviderError):
    """The provider rejects the request itself: the key, the model's name, the payload."""


class ProviderRateLimited(ProviderError):
    """The provider asks to send less."""

    retryable = True


class ProviderUnavailable(ProviderError):
    """The provider failed on its side, or is overloaded."""

    retryable = True


class ReplyInvalid(ProviderError):
    """The provider answered, but not with a usable reply: empty, malformed, too large, an error in disguise."""

    retryable = True


class CircuitOpen(ProviderError):
    """An agent failed several times in a row and is given a rest before it is called again."""


class BudgetExceeded(TrinityError):
    """A run reached one of its limits.

    Attributes:
        kind: which limit, as in ``wall_time``.
        limit: its value.
        observed: the value that was seen.
    """

    exit_code = 6

    def __init__(self, kind: str, limit: float, observed: float) -> None:
        super().__init__(f"the run exceeds its limit of {kind}: {observed:g} of {limit:g}")
        self.kind = kind
        self.limit = limit
        self.observed = observed

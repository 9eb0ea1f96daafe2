"""Every failure that a user can cause, as one tree.

    TrinityError
    ├── UsageError                 exit code 2
    │   ├── TranscriptError
    │   ├── ContextLengthError
    │   ├── SelectionError
    │   ├── InputFileError
    │   ├── OutputExists
    │   ├── ResumeRefused
    │   └── ParitySetupError
    ├── EnvironmentUnavailable     exit code 3
    │   ├── UnknownProfile
    │   ├── ProfileInvalid
    │   ├── ProfileUnavailable
    │   ├── HomeUnavailable
    │   ├── FolderUnavailable
    │   └── NotEnoughMemory
    └── ArtifactError              exit code 4
        ├── ArtifactNotFound
        ├── PinInvalid
        ├── FileMismatch
        ├── VectorInvalid
        ├── BundleInvalid
        ├── TensorFileInvalid
        ├── BaseInvalid
        ├── BaseMismatch
        └── NonFiniteLogits

A message says what is wrong, with the value, and what to do next. The command line prints it and exits with the
class's ``exit_code``.
"""

from __future__ import annotations


class TrinityError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 1


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
    """A method needs more memory than this machine has."""


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

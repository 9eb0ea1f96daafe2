"""One transcript on two profiles: the same tokens, the same head, how far hidden vectors and logits are apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts.access import Hub
from ..contracts.artifact import Base, Bundle
from ..contracts.backend import Backend, Segment
from ..contracts.errors import ContextLengthError, TranscriptError
from ..contracts.routing import Choice, RouteLogits
from ..contracts.transcript import Transcript
from ..files.hashing import FileHashes
from ..files.safetensors import read_float32
from ..profiles.backends import load_backend
from ..profiles.registry import ProfileRegistry
from ..routing.leases import REGISTRY
from ..routing.loading import open_artifact
from ..routing.reader import needed_tokens
from ..routing.tokenizer import Tokenizer
from ..rules.choice import choose
from ..rules.distance import Distance

SCHEMA = "trinity-mlx.parity.routes"
VERSION = 1


@dataclass(frozen=True)
class Bounds:
    """What two profiles may differ by: the published limits between kernel stacks and number types."""

    min_cosine: float
    max_relative: float

    def hold(self, distance: Distance) -> bool:
        """Whether ``distance`` is within them; NaN is not."""
        return distance.cosine >= self.min_cosine and distance.relative_l2 <= self.max_relative

    def report(self, distance: Distance) -> dict[str, Any]:
        """A distance beside the limits, for JSON."""
        named = {"cosine": distance.cosine, "relative": distance.relative_l2, "max_abs": distance.largest}
        return named | {"limits": vars(self)}


HIDDEN_BOUNDS = Bounds(0.99, 0.12)
LOGITS_BOUNDS = Bounds(0.99, 0.10)


@dataclass(frozen=True)
class RouteTrace:
    """Everything on the way from a transcript to a choice on one profile."""

    profile: str
    backend: str
    versions: dict[str, str]
    device: str
    dtype: str
    token_ids: tuple[int, ...]
    head_sha256: str
    hidden: tuple[float, ...]
    logits: RouteLogits
    choice: Choice

    def to_dict(self) -> dict[str, Any]:
        """For a JSON report, hidden vector included."""
        return {
            "profile": self.profile,
            "backend": self.backend,
            "versions": self.versions,
            "device": self.device,
            "dtype": self.dtype,
            "token_count": len(self.token_ids),
            "token_ids": list(self.token_ids),
            "token_ids_sha256": token_ids_sha256(self.token_ids),
            "head_sha256": self.head_sha256,
            "hidden_sha256": hashlib.sha256(np.asarray(self.hidden, "<f4").tobytes()).hexdigest(),
            "hidden": list(self.hidden),
            "agent_logits": list(self.logits.agent),
            "role_logits": list(self.logits.role),
            "slot": self.choice.slot,
            "role": self.choice.role.label,
            "agent_margin": self.choice.margins.agent,
            "role_margin": self.choice.margins.role,
        }


@dataclass(frozen=True)
class RouteComparison:
    """Two traces of one transcript, and what must hold between them."""

    transcript: Transcript
    artifact: str
    a: RouteTrace
    b: RouteTrace

    @property
    def hidden(self) -> Distance:
        """Of the hidden vectors."""
        return Distance.between(self.b.hidden, self.a.hidden)

    @property
    def logits(self) -> Distance:
        """Of all logits together."""
        return Distance.between(self.b.logits.row, self.a.logits.row)

    @property
    def checks(self) -> dict[str, bool]:
        """What must hold, by name."""
        return {
            "token_ids": self.a.token_ids == self.b.token_ids,
            "head": self.a.head_sha256 == self.b.head_sha256,
            "hidden": HIDDEN_BOUNDS.hold(self.hidden),
            "logits": LOGITS_BOUNDS.hold(self.logits),
            "slot": self.a.choice.slot == self.b.choice.slot,
            "role": self.a.choice.role == self.b.choice.role,
        }

    @property
    def passed(self) -> bool:
        """Whether all of it holds."""
        return all(self.checks.values())

    def to_dict(self) -> dict[str, Any]:
        """The JSON report (docs/parity.md)."""
        pairs = zip(self.a.logits.row, self.b.logits.row, strict=True)
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "passed": self.passed,
            "checks": self.checks,
            "artifact": self.artifact,
            "transcript_hash": self.transcript.sha256,
            "hidden": HIDDEN_BOUNDS.report(self.hidden),
            "logits": LOGITS_BOUNDS.report(self.logits) | {"differences": [b - a for a, b in pairs]},
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
        }


@dataclass(frozen=True)
class Tracer:
    """Traces transcripts with one artifact on any profile.

    Raises:
        ArtifactNotFound, BundleInvalid, TensorFileInvalid, BaseInvalid, BaseMismatch: as ``routing.load_router``.
    """

    bundle: Bundle
    base: Base
    profiles: ProfileRegistry

    @classmethod
    def open(
        cls,
        artifact: str | Path,
        base: str | Path | None = None,
        *,
        config_dir: Path | None = None,
        hash_memory: Path | None = None,
        hub: Callable[[], Hub] = Hub,
    ) -> Tracer:
        """The artifact and its base, held against each other."""
        bundle, source = open_artifact(artifact, base, FileHashes(hash_memory), hub=hub)
        return cls(bundle, source, ProfileRegistry(config_dir))

    def compare(self, transcript: Transcript, a: str, b: str) -> RouteComparison:
        """``transcript`` on the profiles ``a`` and ``b``, one after the other."""
        return RouteComparison(transcript, self.bundle.name, self.trace(transcript, a), self.trace(transcript, b))

    def trace(self, transcript: Transcript, profile: str) -> RouteTrace:
        """``transcript`` on one profile.

        Raises:
            UnknownProfile, ProfileUnavailable: the profile cannot be used.
            TranscriptError, ContextLengthError: there is nothing to read, or too much.
        """
        chosen, device = self.profiles.resolve(profile)
        backend = load_backend(chosen.backend)
        tokens = self._encode(transcript)
        hidden, row = self._read(backend, device, chosen.dtype, tokens)
        logits, info = RouteLogits.split(row, self.bundle.head.kinds is not None), backend.info()
        return RouteTrace(
            profile=chosen.name,
            backend=info.backend_id,
            versions=info.versions,
            device=device,
            dtype=chosen.dtype,
            token_ids=tokens,
            head_sha256=_head_sha256(self.bundle),
            hidden=hidden,
            logits=logits,
            choice=choose(logits, None, None, draw_key=transcript.sha256),
        )

    def _encode(self, transcript: Transcript) -> tuple[int, ...]:
        text = self.bundle.text_format.render(transcript, self.bundle.part_format)
        tokens = Tokenizer(self.base.tokenizer).encode(text)
        if not tokens:
            raise TranscriptError("the transcript gives no token at all, so there is nothing to read")
        if len(tokens) > self.base.config.max_positions:
            raise ContextLengthError(
                f"the transcript has {len(tokens)} tokens, and the base reads at most "
                f"{self.base.config.max_positions}: shorten it"
            )
        return tokens

    def _read(
        self, backend: Backend, device: str, dtype: str, tokens: tuple[int, ...]
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The hidden vector that routes ``tokens``, and its row of logits."""
        lease = REGISTRY.lease(
            backend, self.base, self.bundle.adapter, self.bundle.head, device=device, dtype=dtype, merged=False
        )
        try:
            model = lease.value.model
            segments = [Segment(needed_tokens(tokens, self.bundle.head.position))]
            return tuple(model.values(model.read(segments))[0]), model.logits(segments)[0][0]
        finally:
            lease.release()


def token_ids_sha256(tokens: Sequence[int]) -> str:
    """sha256 over the token ids as a compact JSON list, ``[1,2,3]``."""
    return hashlib.sha256(("[" + ",".join(map(str, tokens)) + "]").encode()).hexdigest()


def _head_sha256(bundle: Bundle) -> str:
    """sha256 over the head's float32 values, little-endian, in row order, the first matrix of a low-rank one first."""
    tensors = [*([bundle.head.elu.tensor] if bundle.head.elu else []), bundle.head.tensor]
    return hashlib.sha256(b"".join(read_float32(each).astype("<f4").tobytes() for each in tensors)).hexdigest()

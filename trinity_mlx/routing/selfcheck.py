"""Does this machine's device compute what it should? Answered by reading with a small base of Qwen3's own shapes.

Frameworks' fused kernels are sometimes wrong on some hardware, and say nothing: attention lets positions see the
future, or one query over a long past is corrupt. So four laws are held against the device itself, at the lengths where
kernels change their ways:

- fused kernels give what the same composed from plain operations gives;
- causality: what a past holds does not depend on what came after it;
- a batch gives what each of its sequences gives alone;
- a sequence that continues gives what it gives read afresh.

It needs nothing but the backend's usual protocol, and random weights from a fixed seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..contracts.artifact import BackboneConfig, Base, Head
from ..contracts.backend import Backend, Kernels, RoutingModel, Segment, Variant
from ..contracts.errors import TrinityError
from ..files.safetensors import read_header
from ..files.safetensors_writer import write_float32

SHAPES = BackboneConfig(
    vocab_size=64,
    hidden_size=128,
    intermediate_size=128,
    num_layers=2,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    rms_norm_eps=1e-6,
    rope_theta=1e6,
    max_positions=2048,
    tied_embeddings=True,
)
"""Two layers with the heads of Qwen3-0.6B; everything else is small, since kernels of attention do not see it."""

LENGTHS = (1, 2, 63, 64, 65, 1023, 1025)
"""Lengths of sequences: on either side of where kernels change."""

CONTINUED = ((1, 1), (1, 64), (64, 1), (1024, 1), (960, 65))
"""Lengths of pasts, and of what continues them; together they are among ``LENGTHS``, so that nothing is read twice."""

SHORT = 130
"""The longest sequence of a short check: enough for every law, on devices whose kernels have no known border."""

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.06, "float16": 0.01}
"""Relative difference of logits that rounding explains; a position that sees the future moves them by half and more."""

BROKEN = 1e9
"""The difference that stands for a kernel that raises, or gives no number."""

SLOTS = 7
_HEAD = "head"
Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What a device was seen to do: each law with the largest relative difference of a logit, and what failed."""

    differences: Mapping[str, float]
    failures: tuple[str, ...]
    seconds: float

    @property
    def kernels(self) -> Kernels:
        """The kernels to use."""
        return "composed" if self.failures else "fused"


def check_device(backend: Backend, device: str, dtype: str, longest: int = LENGTHS[-1]) -> SelfCheck:
    """Hold the laws of reading against ``device`` in ``dtype``, at lengths up to ``longest``.

    A kernel that raises has failed too. Composed kernels are the standard that fused ones are held to.

    Raises:
        TrinityError: the device cannot load the small base at all.
    """
    started = time.perf_counter()
    with TemporaryDirectory(prefix="trinity-mlx-check-") as folder:
        base, head = _random_base(Path(folder))
        load = _loader(backend, base, head, device, dtype)
        fused, composed = load("fused"), load("composed")
        differences = {law: _measured(find) for law, find in _Laws(fused, composed, longest).by_name().items()}
    failures = tuple(law for law, found in differences.items() if not found <= TOLERANCE[dtype])
    return SelfCheck(differences, failures, round(time.perf_counter() - started, 3))


@dataclass(frozen=True)
class _Laws:
    """The laws of reading for a model on fused kernels, each giving how far it is from kept."""

    fused: RoutingModel
    composed: RoutingModel
    longest: int

    def by_name(self) -> dict[str, Callable[[], float]]:
        alone = cache(self._one_by_one)
        together = cache(lambda: np.concatenate(list(alone().values())))
        batch = self._batch
        return {
            "fused kernels compute what composed ones do": lambda: _apart(together(), _rows(self.composed, batch)),
            "a later token never moves an earlier one": self._sees_the_future,
            "a batch gives what each sequence gives alone": lambda: _apart(_rows(self.fused, batch), together()),
            "what continues gives what it gives read afresh": lambda: _apart(
                self._continued(), np.concatenate([alone()[past + more] for past, more in self._pasts])
            ),
        }

    @property
    def _batch(self) -> list[Segment]:
        return [Segment(_tokens(length)) for length in LENGTHS if length <= self.longest]

    @property
    def _pasts(self) -> list[tuple[int, int]]:
        return [(past, more) for past, more in CONTINUED if past + more <= self.longest]

    def _one_by_one(self) -> dict[int, np.ndarray]:
        return {len(segment.tokens): _rows(self.fused, [segment]) for segment in self._batch}

    def _continued(self) -> np.ndarray:
        return np.concatenate([_rows(self.fused, [_after(self.fused, *lengths)]) for lengths in self._pasts])

    def _sees_the_future(self) -> float:
        """How far two pasts differ in what follows from their common beginning, after different tokens."""
        shared = [length for length in (2, 64, 980) if length < self.longest]
        ones, others = ([_beside(self.fused, length, later) for length in shared] for later in (3, 5))
        return _apart(np.concatenate(ones), np.concatenate(others))


def _measured(find: Callable[[], float]) -> float:
    try:
        return round(find(), 9)
    except TrinityError:
        raise
    except Exception:  # whatever a broken kernel raises
        return BROKEN


def _after(model: RoutingModel, past: int, more: int) -> Segment:
    """``more`` tokens after a past of so many."""
    tokens = _tokens(past + more)
    _, pasts = model.logits([Segment(tokens[:past], keep=True)])
    return Segment(tokens, pasts[0], past)


def _beside(model: RoutingModel, shared: int, later: int) -> np.ndarray:
    """What one token gives after the first ``shared`` of a past that went on with the token ``later``, 40 times."""
    tokens = _tokens(shared)
    _, pasts = model.logits([Segment((*tokens, *[later] * 40), keep=True)])
    return _rows(model, [Segment((*tokens, 1), pasts[0], shared)])


def _rows(model: RoutingModel, segments: Sequence[Segment]) -> np.ndarray:
    return np.array(model.logits(segments)[0], dtype=np.float64)


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of a row, relative to its length; ``BROKEN`` where a value is none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        distances = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return min(float(distances.max()), BROKEN) if np.isfinite(distances).all() else BROKEN


def _tokens(length: int) -> Tokens:
    return tuple(np.random.default_rng(7).integers(0, SHAPES.vocab_size, length).tolist())


def _loader(backend: Backend, base: Base, head: Head, device: str, dtype: str) -> Callable[[Kernels], RoutingModel]:
    return lambda kernels: backend.load_base(base, device=device, dtype=dtype, variant=Variant(kernels)).attach(
        None, head
    )


def _random_base(folder: Path) -> tuple[Base, Head]:
    """A base and a head with random weights in float32."""
    draw = np.random.default_rng(0)
    arrays = {name: _random(draw, shape) for name, shape in SHAPES.backbone_shapes().items()}
    arrays[_HEAD] = _random(draw, (SLOTS + 3, SHAPES.hidden_size))
    path = folder / "model.safetensors"
    write_float32(path, arrays)
    tensors = read_header(path)
    head = Head(tensors.pop(_HEAD), tuple(f"slot-{slot}" for slot in range(SLOTS)), ref=_HEAD)
    return Base(folder, SHAPES, tensors, folder / "tokenizer.json", ref="self-check"), head


def _random(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A norm near one, or a matrix that keeps the size of what it is multiplied by."""
    values = draw.uniform(0.5, 1.5, shape) if len(shape) == 1 else draw.normal(0.0, shape[1] ** -0.5, shape)
    return values.astype(np.float32)

"""Many candidates on one base, on MLX: what they share is read once, and a candidate is a vector of gains.

A candidate multiplies singular values. For a tall matrix ``x @ W'.T = ((x @ V) * gains) @ (W @ V).T``, for a wide one
``((x @ (U.T @ W).T) * gains) @ U.T``: both are two products with a vector between them, and neither product depends
on the candidate ("docs/method.md", section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from trinity_mlx.contracts.backend import Pull, Segment
from trinity_mlx.factorization.adapted import EMBEDDING, first_changed_layer, layer_names

from . import ops
from .kernels import DIFFERENTIABLE, KernelSet
from .owner import MlxThread
from .qwen3 import Backbone, Layer, Packing


@dataclass(frozen=True)
class Spectral:
    """A matrix in two factors, its singular values multiplied by ``gains`` between them."""

    inner: mx.array
    outer: mx.array
    gains: mx.array

    @classmethod
    def of(cls, weight: mx.array, vectors: np.ndarray) -> Spectral:
        """``weight`` [out, in] by the singular ``vectors`` of its smaller side, as columns; gains of one.

        Products run in float64 on the host and are stored in the number type of ``weight``.
        """
        exact = np.array(ops.cast(weight, mx.float32)).astype(np.float64)
        is_tall = exact.shape[0] >= exact.shape[1]
        inner, outer = (vectors, exact @ vectors) if is_tall else (exact.T @ vectors, vectors)
        factors = [ops.cast(mx.array(each.astype(np.float32)), weight.dtype) for each in (inner, outer.T)]
        return cls(factors[0], factors[1], ops.ones((1,), dtype=weight.dtype))

    def __call__(self, x: mx.array) -> mx.array:
        """[tokens, in] to [tokens, out]."""
        product: mx.array = ops.matmul(ops.multiply(ops.matmul(x, self.inner), self.gains), self.outer)
        return product


class MlxPopulation:
    """Candidates that differ in gains alone, on one backbone; made and run by the thread that owns the base."""

    def __init__(
        self,
        backbone: Backbone,
        vectors: Mapping[str, np.ndarray],
        weights: Mapping[str, mx.array],
        owner: MlxThread,
    ) -> None:
        self.first_layer = first_changed_layer(vectors)
        self._backbone = backbone
        self._owner = owner
        self._spectral = {
            name: Spectral.of(_identity(weights[name]) if name == EMBEDDING else weights[name], columns)
            for name, columns in vectors.items()
        }

    def trunk(self, segments: Sequence[Segment]) -> np.ndarray:
        """Hidden states of all tokens before the first changed layer, float32 [tokens, hidden]."""
        return self._owner.run(lambda _: _floats(self._backbone.trunk(Packing.of(segments), self.first_layer)))

    def hidden(self, segments: Sequence[Segment], trunk: np.ndarray, gains: Mapping[str, np.ndarray]) -> np.ndarray:
        """Hidden vectors of every candidate, float32 [candidates, segments, hidden]; ``gains`` [candidates, side]."""
        return self._owner.run(lambda _: self._hidden(segments, trunk, gains))

    def pullback(
        self, segments: Sequence[Segment], trunk: np.ndarray, gains: Mapping[str, np.ndarray], pull: Pull
    ) -> dict[str, np.ndarray]:
        """The gradient with respect to one candidate's ``gains`` [side], float32; see the protocol."""
        hidden = self.hidden(segments, trunk, {name: row[None] for name, row in gains.items()})[0]
        slope = pull(hidden)
        return self._owner.run(lambda _: self._pullback(segments, trunk, gains, slope))

    def _hidden(self, segments: Sequence[Segment], trunk: np.ndarray, gains: Mapping[str, np.ndarray]) -> np.ndarray:
        packing, states = Packing.of(segments), self._array(trunk)
        count = len(next(iter(gains.values())))
        candidates = ({name: self._array(rows[index]) for name, rows in gains.items()} for index in range(count))
        return np.stack([_floats(self._rest(states, packing, candidate)) for candidate in candidates])

    def _pullback(
        self, segments: Sequence[Segment], trunk: np.ndarray, gains: Mapping[str, np.ndarray], slope: np.ndarray
    ) -> dict[str, np.ndarray]:
        packing, states, names = Packing.of(segments), self._array(trunk), list(gains)

        def rest(*rows: mx.array) -> mx.array:
            return self._rest(states, packing, dict(zip(names, rows, strict=True)), DIFFERENTIABLE)

        slopes = ops.pulled_back(rest, [self._array(gains[name]) for name in names], self._array(slope))
        return {name: _floats(each) for name, each in zip(names, slopes, strict=True)}

    def _rest(
        self, states: mx.array, packing: Packing, gains: Mapping[str, mx.array], kernels: KernelSet | None = None
    ) -> mx.array:
        """Hidden vectors of one candidate, by other ``kernels`` than the base's where that is said."""
        scaled = {name: replace(self._spectral[name], gains=row) for name, row in gains.items()}
        if EMBEDDING in scaled:
            states = scaled[EMBEDDING](states)
        layers = tuple(_scaled(layer, index, scaled) for index, layer in enumerate(self._backbone.layers))
        if kernels:
            layers = tuple(replace(layer, kernels=kernels) for layer in layers)
        return replace(self._backbone, layers=layers).rest(states, packing, self.first_layer)

    def _array(self, values: np.ndarray) -> mx.array:
        return ops.cast(mx.array(np.asarray(values, dtype=np.float32)), self._backbone.norm.weight.dtype)


def _scaled(layer: Layer, index: int, scaled: Mapping[str, Spectral]) -> Layer:
    """``layer`` with those of its matrices replaced that ``scaled`` holds."""
    own = {short: scaled[name] for short, name in layer_names(index).items() if name in scaled}
    return replace(layer, **own) if own else layer  # type: ignore[arg-type]


def _identity(embedding: mx.array) -> mx.array:
    """What takes the place of the embedding's matrix: its change acts on rows that have already been looked up."""
    identity: mx.array = ops.eye(embedding.shape[1], dtype=embedding.dtype)
    return identity


def _floats(array: mx.array) -> np.ndarray:
    return np.array(ops.cast(array, mx.float32))

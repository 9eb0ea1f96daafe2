"""The routing head: from hidden vectors to logits, in float32 on the CPU.

It runs there whatever the model's device: ten rows cost nothing, and no hardware shortens the products.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx

from trinity_mlx.contracts.artifact import Head


class Projection:
    """``hidden @ W.T``, or ``elu(hidden @ V.T) @ W.T`` for a low-rank head (docs/method.md, section 1).

    Args:
        head: what the head is.
        tensors: its matrices in float32, by name.
    """

    def __init__(self, head: Head, tensors: Mapping[str, mx.array]) -> None:
        self._matrix = tensors[head.tensor.name]
        self._first = tensors[head.elu.tensor.name] if head.elu else None
        self._alpha = head.elu.alpha if head.elu else 1.0
        self._kinds = tensors[head.kinds.name] if head.kinds else None

    @property
    def nbytes(self) -> int:
        """Bytes of its matrices."""
        return sum(each.nbytes for each in (self._matrix, self._first, self._kinds) if each is not None)

    def __call__(self, hidden: mx.array) -> mx.array:
        """Logits in float32 [segments, slots + 3] of ``hidden``, float32 [segments, hidden].

        Where the head knows kinds, the square of the distance from the nearest follows.
        """
        logits = self._logits(hidden)
        if self._kinds is None:
            return logits
        return mx.concatenate([logits, _smallest_square(hidden, self._kinds)], axis=-1, stream=mx.cpu)

    def _logits(self, values: mx.array) -> mx.array:
        if self._first is not None:
            values = _elu(_product(values, self._first), self._alpha)
        return _product(values, self._matrix)


def _smallest_square(hidden: mx.array, kinds: mx.array) -> mx.array:
    length = mx.linalg.norm(hidden, axis=-1, keepdims=True, stream=mx.cpu)
    unit = mx.divide(hidden, mx.maximum(length, 1e-12, stream=mx.cpu), stream=mx.cpu)
    slopes, constants = mx.split(kinds, [hidden.shape[-1]], axis=-1, stream=mx.cpu)
    squares = mx.add(_product(unit, slopes), mx.squeeze(constants, -1, stream=mx.cpu), stream=mx.cpu)
    return mx.min(squares, axis=-1, keepdims=True, stream=mx.cpu)


def _product(values: mx.array, matrix: mx.array) -> mx.array:
    return mx.matmul(values, mx.transpose(matrix, stream=mx.cpu), stream=mx.cpu)


def _elu(values: mx.array, alpha: float) -> mx.array:
    negative = mx.multiply(mx.expm1(mx.minimum(values, 0.0, stream=mx.cpu), stream=mx.cpu), alpha, stream=mx.cpu)
    return mx.add(mx.maximum(values, 0.0, stream=mx.cpu), negative, stream=mx.cpu)

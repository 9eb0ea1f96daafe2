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

    @property
    def nbytes(self) -> int:
        """Bytes of its matrices."""
        return self._matrix.nbytes + (0 if self._first is None else self._first.nbytes)

    def __call__(self, hidden: mx.array) -> mx.array:
        """Logits in float32 [segments, slots + 3] of ``hidden``, float32 [segments, hidden]."""
        if self._first is not None:
            hidden = _elu(_product(hidden, self._first), self._alpha)
        return _product(hidden, self._matrix)


def _product(values: mx.array, matrix: mx.array) -> mx.array:
    return mx.matmul(values, mx.transpose(matrix, stream=mx.cpu), stream=mx.cpu)


def _elu(values: mx.array, alpha: float) -> mx.array:
    negative = mx.multiply(mx.expm1(mx.minimum(values, 0.0, stream=mx.cpu), stream=mx.cpu), alpha, stream=mx.cpu)
    return mx.add(mx.maximum(values, 0.0, stream=mx.cpu), negative, stream=mx.cpu)

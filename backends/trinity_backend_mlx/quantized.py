"""Matrices in 8 or 4 bits on MLX, by its own format: groups of a row share a scale and a bias."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from trinity_mlx.contracts.errors import UsageError

from . import ops

GROUPS = (64, 32)
"""How many neighbours in a row share a scale: the first that divides the row's length."""


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix [rows, columns] as MLX quantises it: packed levels, and a scale and a bias for each group."""

    packed: mx.array
    scales: mx.array
    biases: mx.array
    group: int
    bits: int

    @classmethod
    def of(cls, matrix: mx.array, bits: int) -> QuantizedMatrix:
        """``matrix`` in ``bits`` bits, computed when this returns.

        Raises:
            UsageError: no group divides its rows.
        """
        group = next((group for group in GROUPS if matrix.shape[-1] % group == 0), None)
        if group is None:
            raise UsageError(
                f"a matrix of this base is {matrix.shape[-1]} wide, and MLX quantises groups of 64 or 32: "
                "load the base without quantisation"
            )
        packed, scales, biases = ops.quantize(matrix, group_size=group, bits=bits)
        mx.eval(packed, scales, biases)
        return cls(packed, scales, biases, group, bits)

    @property
    def nbytes(self) -> int:
        """Bytes of levels, scales and biases."""
        return self.packed.nbytes + self.scales.nbytes + self.biases.nbytes

    def product(self, x: mx.array) -> mx.array:
        """``x @ matrix.T``, in the number type of ``x``.

        On the CPU, MLX sums quantised products in their own number type: bfloat16 would lose several percent and take
        ten times as long as float32, which is taken instead.
        """
        dtype = mx.float32 if ops.is_cpu() else x.dtype
        scales, biases = ops.cast(self.scales, dtype), ops.cast(self.biases, dtype)
        exact, shape = ops.cast(x, dtype), {"group_size": self.group, "bits": self.bits}
        return ops.cast(ops.quantized_matmul(exact, self.packed, scales, biases, **shape), x.dtype)

    def rows(self, ids: mx.array) -> mx.array:
        """The rows ``ids``, multiplied out."""
        parts = (ops.rows(part, ids) for part in (self.packed, self.scales, self.biases))
        multiplied: mx.array = ops.dequantize(*parts, group_size=self.group, bits=self.bits)
        return multiplied


Matrix = mx.array | QuantizedMatrix


def times_transposed(x: mx.array, matrix: mx.array) -> mx.array:
    """``x @ matrix.T``."""
    product: mx.array = ops.matmul(x, ops.transpose(matrix))
    return product


def product(x: mx.array, matrix: Matrix) -> mx.array:
    """``x @ matrix.T``: [tokens, columns] to [tokens, rows]."""
    return times_transposed(x, matrix) if isinstance(matrix, mx.array) else matrix.product(x)


def rows(matrix: Matrix, ids: mx.array) -> mx.array:
    """The rows ``ids`` [tokens] of ``matrix``: [tokens, columns]."""
    return ops.rows(matrix, ids) if isinstance(matrix, mx.array) else matrix.rows(ids)

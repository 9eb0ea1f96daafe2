"""Matrices in 8 bits on torch: whole numbers from -127 to 127, with one scale for each row.

What this buys is memory, a quarter of float32's or half of bfloat16's, and no speed: a product first multiplies the
matrix out again, a tile of rows at a time, so that no second copy of it is ever held. On one core, at Qwen3-0.6B's
widths, that is lost in the noise in float32; in bfloat16 one token takes twice as long, and 128 a quarter longer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 127
TILE_ROWS = 256


@dataclass(frozen=True)
class QuantizedMatrix:
    """``levels * scales``: int8 [rows, columns] times float32 [rows, 1], in the number type ``dtype``."""

    levels: Tensor
    scales: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, matrix: Tensor) -> QuantizedMatrix:
        """``matrix`` in 8 bits; the largest magnitude of a row takes the last level."""
        scales = matrix.abs().amax(1, keepdim=True).float() / LEVELS
        steps = scales.masked_fill(scales == 0, 1.0)  # a row of zeros has no largest magnitude to divide by
        tiles = zip(torch.split(matrix, TILE_ROWS), torch.split(steps, TILE_ROWS), strict=True)
        levels = torch.cat([(tile / step).round().to(torch.int8) for tile, step in tiles])
        return cls(levels, scales, matrix.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of levels and scales."""
        return self.levels.nbytes + self.scales.nbytes

    def product(self, x: Tensor) -> Tensor:
        """``x @ matrix.T``, multiplied out tile by tile."""
        tiles = zip(torch.split(self.levels, TILE_ROWS), torch.split(self.scales, TILE_ROWS), strict=True)
        return torch.cat([F.linear(x, self._multiply_out(*tile)) for tile in tiles], dim=-1)

    def rows(self, ids: Tensor) -> Tensor:
        """The rows ``ids``."""
        return self._multiply_out(self.levels[ids], self.scales[ids])

    def _multiply_out(self, levels: Tensor, scales: Tensor) -> Tensor:
        return levels.float().mul_(scales).to(self.dtype)


Matrix = Tensor | QuantizedMatrix


def product(x: Tensor, matrix: Matrix) -> Tensor:
    """``x @ matrix.T``: [tokens, columns] to [tokens, rows]."""
    return F.linear(x, matrix) if isinstance(matrix, Tensor) else matrix.product(x)


def rows(matrix: Matrix, ids: Tensor) -> Tensor:
    """The rows ``ids`` [tokens] of ``matrix``: [tokens, columns]."""
    return F.embedding(ids, matrix) if isinstance(matrix, Tensor) else matrix.rows(ids)

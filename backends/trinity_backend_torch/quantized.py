"""Matrices in 8 bits on torch: whole numbers from -127 to 127, with one scale for each row.

Where oneDNN multiplies 8-bit numbers, a matrix is packed for it, and activations come in 8 bits too. Each token has a
scale of its own, so that nothing about one depends on the others. What 8 bits leave over of a token is multiplied as
rows more: two in float32, which so keeps its accuracy, one in float16, and one in bfloat16 for tokens with an entry
that stands far out. (Models of this family carry a few that are hundreds of times the rest, and one scale alone would
wipe out that rest.)

Elsewhere a product multiplies the matrix out again, a tile of rows at a time, which buys memory and no speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 127
TILE_ROWS = 256
STANDS_OUT = 32.0
"""A token's largest magnitude over its mean one from which its rest gets a row: values after a gate have about 10."""

_NO_FUSION: tuple[str, list[Any], str] = ("none", [], "")


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


@dataclass(frozen=True)
class DynamicMatrix:
    """A quantised matrix packed for products with 8-bit activations; ``blocks`` no other operator reads."""

    blocks: Tensor
    scales: Tensor
    zeros: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, matrix: QuantizedMatrix) -> DynamicMatrix:
        """``matrix`` in oneDNN's layout."""
        scales = matrix.scales.flatten()
        zeros = torch.zeros(len(scales), dtype=torch.int32)
        return cls(torch.ops.onednn.qlinear_prepack(matrix.levels, None), scales, zeros, matrix.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of levels and scales."""
        return self.blocks.nbytes + self.scales.nbytes

    def product(self, x: Tensor) -> Tensor:
        """``x @ matrix.T`` with ``x`` in 8 bits, and what that leaves over of it where it matters."""
        return self.wide_product(x).to(self.dtype)

    def wide_product(self, x: Tensor) -> Tensor:
        """The product before it is rounded, in float32, for what goes on with it."""
        exact = x.float()
        sizes = exact.abs()
        peaks = sizes.amax(1, keepdim=True)
        chosen, depth = self._rest(sizes, peaks)
        scales = (peaks / LEVELS).clamp_min_(torch.finfo(torch.float32).tiny)
        finer = scales.reciprocal()
        levels = torch.mul(exact, finer, out=sizes).round_()
        if not depth:
            return self._whole_numbers(levels.to(torch.int8)).mul_(scales)
        rests = _rests(exact[chosen] * finer[chosen] - levels[chosen], depth)
        rows = [each.to(torch.int8) for each in (levels, *rests)]
        products = self._whole_numbers(torch.cat(rows))
        product, *more = torch.split(products, [len(each) for each in rows])
        for power, part in enumerate(more, 1):
            product[chosen] += part.mul_((2 * LEVELS) ** -power)
        return product.mul_(scales)

    def _rest(self, sizes: Tensor, peaks: Tensor) -> tuple[Any, int]:
        """Which tokens' rest is multiplied too, and in how many rows more."""
        if self.dtype is not torch.bfloat16:
            return slice(None), 2 if self.dtype is torch.float32 else 1
        outliers = (peaks > sizes.mean(1, keepdim=True) * STANDS_OUT).flatten().nonzero().flatten()
        return outliers, min(len(outliers), 1)

    def _whole_numbers(self, levels: Tensor) -> Tensor:
        """The product of whole numbers, times the matrix's scales, in float32."""
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            levels,
            1.0,
            0,
            self.blocks,
            self.scales,
            self.zeros,
            None,
            1.0,
            0,
            torch.float32,
            *_NO_FUSION,
        )
        return product


def gated(x: Tensor, gate_up: DynamicMatrix) -> Tensor:
    """``silu(x @ gate.T) * (x @ up.T)`` in float32, since the next product brings it to 8 bits anyway."""
    gate, up = gate_up.wide_product(x).chunk(2, dim=-1)
    return F.silu(gate, inplace=True).mul_(up)


def _rests(rest: Tensor, depth: int) -> Iterator[Tensor]:
    """``rest``, at most half a level, in ``depth`` rows of whole numbers, each 254 times as fine as the one before."""
    for _ in range(depth):
        finer = rest * (2 * LEVELS)
        whole = finer.round()
        yield whole
        rest = finer - whole


def quantize(matrix: Tensor) -> QuantizedMatrix | DynamicMatrix:
    """``matrix`` in 8 bits, for products: packed where that works here."""
    quantized = QuantizedMatrix.of(matrix)
    return DynamicMatrix.of(quantized) if matrix.device.type == "cpu" and multiplies_8_bits() else quantized


@cache
def multiplies_8_bits() -> bool:
    """Whether this torch multiplies 8-bit numbers on this processor, and rightly."""
    draw = torch.Generator().manual_seed(0)
    matrix, x = (torch.randn(rows, 192, generator=draw) for rows in (160, 5))
    quantized = QuantizedMatrix.of(matrix)
    try:
        found = DynamicMatrix.of(quantized).product(x)
    except (AttributeError, RuntimeError, TypeError):
        return False
    expected = quantized.product(x)
    return bool((found - expected).norm() <= 1e-4 * expected.norm())

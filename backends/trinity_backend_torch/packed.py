"""Matrices laid out once as oneDNN multiplies them, instead of anew at every product; on the CPU.

What follows a product (a sum, a product entry by entry, SiLU) is done while its result is at hand, in float32, and
saves a pass over memory: a tenth of a prompt's time. The operators are torch's own but not public, so they are tried
once in a process, against plain ones: where one is missing or wrong, matrices stay plain tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 1 << 18
"""Entries from which a layout pays; a smaller product is over before it matters."""

_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
_NO_FUSION: tuple[str, list[Any], str] = ("none", [], "")


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix [rows, columns] in oneDNN's layout, which no other operator reads."""

    blocks: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> PackedMatrix:
        """A packed copy of ``matrix``."""
        return cls(torch.ops.mkldnn._reorder_linear_weight(matrix.contiguous()))

    @property
    def nbytes(self) -> int:
        """Bytes of the entries."""
        return self.blocks.nbytes

    def product(self, x: Tensor) -> Tensor:
        """``x @ matrix.T``; differentiable in ``x``."""
        if torch.is_grad_enabled() and x.requires_grad:
            return F.linear(x, self.blocks.to_dense())
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.blocks, None, *_NO_FUSION)
        return product

    def product_plus(self, x: Tensor, other: Tensor) -> Tensor:
        """``x @ matrix.T + other``, rounded once; not differentiable."""
        total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.blocks, None, "add")
        return total


def gated(x: Tensor, gate: PackedMatrix, up: PackedMatrix) -> Tensor:
    """``silu(x @ gate.T) * (x @ up.T)``; not differentiable."""
    opened = torch.ops.mkldnn._linear_pointwise(x, gate.blocks, None, "swish", [], "")
    product: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, opened, up.blocks, None, "mul")
    return product


def pack(matrix: Tensor) -> Tensor | PackedMatrix:
    """``matrix`` packed where that pays and works here, else itself."""
    return PackedMatrix.of(matrix) if pays(matrix.device, matrix.dtype, matrix.numel()) else matrix


def pays(device: torch.device, dtype: torch.dtype, entries: int) -> bool:
    """Whether a matrix of so many entries is packed."""
    return device.type == "cpu" and entries >= SMALLEST and packs(dtype)


@cache
def packs(dtype: torch.dtype) -> bool:
    """Whether this torch packs matrices of ``dtype`` on this processor, and multiplies by them rightly."""
    if dtype not in _TOLERANCE:
        return False
    draw = torch.Generator().manual_seed(0)
    matrix, other, x = (torch.randn(rows, 192, generator=draw).to(dtype) for rows in (192, 192, 5))
    try:
        by_matrix, by_other = PackedMatrix.of(matrix), PackedMatrix.of(other)
        found = by_matrix.product(x), by_matrix.product_plus(x, x), gated(x, by_matrix, by_other)
    except (AttributeError, RuntimeError, TypeError):
        return False
    exact, through, beside = x.float(), x.float() @ matrix.float().T, x.float() @ other.float().T
    expected = through, through + exact, F.silu(through) * beside
    return all(_near(*pair, _TOLERANCE[dtype]) for pair in zip(found, expected, strict=True))


def _near(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found.float() - expected).norm() <= tolerance * expected.norm())

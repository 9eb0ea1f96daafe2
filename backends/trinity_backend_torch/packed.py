"""Matrices laid out once as oneDNN multiplies them, instead of anew at every product; on the CPU.

The two operators are torch's own but not public, so they are tried once in a process, against a plain product: where
one is missing or wrong, matrices stay plain tensors.
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


def pack(matrix: Tensor) -> Tensor | PackedMatrix:
    """``matrix`` packed where that pays and works here, else itself."""
    if matrix.device.type != "cpu" or matrix.numel() < SMALLEST or not packs(matrix.dtype):
        return matrix
    return PackedMatrix.of(matrix)


@cache
def packs(dtype: torch.dtype) -> bool:
    """Whether this torch packs matrices of ``dtype`` on this processor, and multiplies by them rightly."""
    if dtype not in _TOLERANCE:
        return False
    draw = torch.Generator().manual_seed(0)
    matrix, x = (torch.randn(rows, 192, generator=draw).to(dtype) for rows in (160, 5))
    try:
        found = PackedMatrix.of(matrix).product(x).float()
    except (AttributeError, RuntimeError, TypeError):
        return False
    expected = x.float() @ matrix.float().T
    return bool((found - expected).norm() <= _TOLERANCE[dtype] * expected.norm())

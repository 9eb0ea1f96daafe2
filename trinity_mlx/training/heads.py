"""Kinds of heads: how many numbers each takes, and the matrix [rows, hidden] that they stand for.

All of them are linear in the hidden vector, so each is stored and routed with as a plain routing matrix. The published
system compares these kinds at 10 rows and 1,024 hidden numbers (docs/training.md, "Heads").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np


@dataclass(frozen=True)
class HeadKind:
    """One kind.

    Attributes:
        size: how many numbers a head of [rows, hidden] takes.
        matrix: from those numbers to the matrix, float64 [rows, hidden].
        fitted: the numbers whose matrix is nearest to a given one.
        pulled: from the slope at the matrix [rows, hidden], and the numbers, to the slope at the numbers.
    """

    size: Callable[[int, int], int]
    matrix: Callable[[np.ndarray, int, int], np.ndarray]
    fitted: Callable[[np.ndarray], np.ndarray]
    pulled: Callable[[np.ndarray, np.ndarray], np.ndarray]


def _mask(blocks: int, rows: int, hidden: int) -> np.ndarray:
    """Where a block-diagonal matrix is not zero: each of ``blocks`` groups of rows sees its own part of the vector."""
    row_block = np.arange(rows) * blocks // rows
    column_block = np.arange(hidden) * blocks // hidden
    mask: np.ndarray = row_block[:, None] == column_block[None, :]
    return mask


def _linear() -> HeadKind:
    return HeadKind(
        size=lambda rows, hidden: rows * hidden,
        matrix=lambda numbers, rows, hidden: numbers.reshape(rows, hidden),
        fitted=lambda matrix: matrix.ravel().copy(),
        pulled=lambda slope, numbers: slope.ravel(),
    )


def _block_diagonal(blocks: int) -> HeadKind:
    def matrix(numbers: np.ndarray, rows: int, hidden: int) -> np.ndarray:
        full = np.zeros((rows, hidden))
        full[_mask(min(blocks, rows), rows, hidden)] = numbers
        return full

    return HeadKind(
        size=lambda rows, hidden: int(_mask(min(blocks, rows), rows, hidden).sum()),
        matrix=matrix,
        fitted=lambda matrix: matrix[_mask(min(blocks, len(matrix)), *matrix.shape)],
        pulled=lambda slope, numbers: slope[_mask(min(blocks, len(slope)), *slope.shape)],
    )


def _sparse() -> HeadKind:
    """A matrix with a gate for each hidden number; the half of the gates that are smallest are shut."""

    def parts(numbers: np.ndarray, rows: int, hidden: int) -> tuple[np.ndarray, np.ndarray]:
        gates = numbers[rows * hidden :]
        open_ = np.abs(gates) >= np.median(np.abs(gates))
        return numbers[: rows * hidden].reshape(rows, hidden), np.where(open_, gates, 0.0)

    def matrix(numbers: np.ndarray, rows: int, hidden: int) -> np.ndarray:
        weights, gates = parts(numbers, rows, hidden)
        gated: np.ndarray = weights * gates
        return gated

    def fitted(matrix: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(matrix, axis=0)
        gates = np.maximum(norms, 1e-3) if norms.any() else np.ones_like(norms)
        return np.concatenate([(matrix / gates).ravel(), gates])

    def pulled(slope: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        weights, gates = parts(numbers, *slope.shape)
        return np.concatenate([(slope * gates).ravel(), (slope * weights).sum(0) * (gates != 0.0)])

    return HeadKind(lambda rows, hidden: rows * hidden + hidden, matrix, fitted, pulled)


HEADS: Mapping[str, HeadKind] = MappingProxyType(
    {
        "linear": _linear(),
        "sparse": _sparse(),
        "block-diagonal-2": _block_diagonal(2),
        "block-diagonal-10": _block_diagonal(10),
    }
)

"""Kinds of heads by name, as the published system compares them (docs/training.md, "Heads").

All but one are linear in the hidden vector, so they are stored and routed with as a plain routing matrix; a low-rank
head is stored as its two matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from .head import Head, HeadKind
from .low_rank import RANK, LowRank


@dataclass(frozen=True)
class LinearKind:
    """A family of matrices.

    Attributes:
        numbers: how many a matrix of [rows, hidden] takes.
        matrix: from those numbers to the matrix, float64 [rows, hidden].
        nearest: the numbers whose matrix is nearest to a given one.
        slope: from the slope at the matrix [rows, hidden], and the numbers, to the slope at the numbers.
    """

    numbers: Callable[[int, int], int]
    matrix: Callable[[np.ndarray, int, int], np.ndarray]
    nearest: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def size(self, rows: int, hidden: int) -> int:
        """How many numbers a head of ``rows`` logits takes."""
        return self.numbers(rows, hidden)

    def head(self, numbers: np.ndarray, rows: int, hidden: int) -> Head:
        """The head that ``numbers`` stand for."""
        return Head(self.matrix(numbers, rows, hidden))

    def fitted(self, head: Head) -> np.ndarray:
        """The numbers whose matrix is nearest to that of ``head``, which is linear."""
        return self.nearest(head.matrix)

    def pulled(self, slope: np.ndarray, hidden: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """From the slope at the logits [n, rows] of ``hidden`` [n, hidden] to the slope at ``numbers``."""
        return self.slope(slope.T @ hidden, numbers)

    def unit(self, length: float) -> float:
        """A hidden vector's own length stands between a number and a logit."""
        return 1.0 / max(length, 1e-12)


def _mask(blocks: int, rows: int, hidden: int) -> np.ndarray:
    """Where a block-diagonal matrix is not zero: each of ``blocks`` groups of rows sees its own part of the vector."""
    row_block = np.arange(rows) * blocks // rows
    column_block = np.arange(hidden) * blocks // hidden
    mask: np.ndarray = row_block[:, None] == column_block[None, :]
    return mask


def _linear() -> LinearKind:
    return LinearKind(
        numbers=lambda rows, hidden: rows * hidden,
        matrix=lambda numbers, rows, hidden: numbers.reshape(rows, hidden),
        nearest=lambda matrix: matrix.ravel().copy(),
        slope=lambda slope, numbers: slope.ravel(),
    )


def _block_diagonal(blocks: int) -> LinearKind:
    def matrix(numbers: np.ndarray, rows: int, hidden: int) -> np.ndarray:
        full = np.zeros((rows, hidden))
        full[_mask(min(blocks, rows), rows, hidden)] = numbers
        return full

    return LinearKind(
        numbers=lambda rows, hidden: int(_mask(min(blocks, rows), rows, hidden).sum()),
        matrix=matrix,
        nearest=lambda matrix: matrix[_mask(min(blocks, len(matrix)), *matrix.shape)],
        slope=lambda slope, numbers: slope[_mask(min(blocks, len(slope)), *slope.shape)],
    )


def _sparse() -> LinearKind:
    """A matrix with a gate for each hidden number; the half of the gates that are smallest are shut."""

    def parts(numbers: np.ndarray, rows: int, hidden: int) -> tuple[np.ndarray, np.ndarray]:
        gates = numbers[rows * hidden :]
        open_ = np.abs(gates) >= np.median(np.abs(gates))
        return numbers[: rows * hidden].reshape(rows, hidden), np.where(open_, gates, 0.0)

    def matrix(numbers: np.ndarray, rows: int, hidden: int) -> np.ndarray:
        weights, gates = parts(numbers, rows, hidden)
        gated: np.ndarray = weights * gates
        return gated

    def nearest(matrix: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(matrix, axis=0)
        gates = np.maximum(norms, 1e-3) if norms.any() else np.ones_like(norms)
        return np.concatenate([(matrix / gates).ravel(), gates])

    def at_numbers(slope: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        weights, gates = parts(numbers, *slope.shape)
        return np.concatenate([(slope * gates).ravel(), (slope * weights).sum(0) * (gates != 0.0)])

    return LinearKind(lambda rows, hidden: rows * hidden + hidden, matrix, nearest, at_numbers)


LOW_RANK = "low-rank"
_LINEAR: Mapping[str, LinearKind] = MappingProxyType(
    {
        "linear": _linear(),
        "sparse": _sparse(),
        "block-diagonal-2": _block_diagonal(2),
        "block-diagonal-10": _block_diagonal(10),
    }
)
HEADS = (*_LINEAR, LOW_RANK)
"""Every name that ``head_kind`` knows, the default first."""


def head_kind(name: str, *, rank: int = RANK, length: float = 1.0, seed: int = 0) -> HeadKind:
    """The kind ``name``; the rest is a low-rank head's (see ``LowRank``)."""
    return LowRank(rank, length, seed) if name == LOW_RANK else _LINEAR[name]

"""Singular-value fine-tuning as one small factor (facts.md, section 3).

For ``W = U diag(S) V^T`` and offsets ``d``, the adapted matrix is

    W' = norm * U diag(S * (1 + d)) V^T,    norm = sum(S) / sum(S * (1 + d))

Two identities reduce it to a product with a matrix of the smaller side, and need neither ``U`` of a tall matrix nor
a division by a small singular value:

    tall (rows >= columns):  W' = W @ R,   R = norm * V diag(1 + d) V^T
    wide (rows <  columns):  W' = L @ W,   L = norm * U diag(1 + d) U^T

``V`` and ``S^2`` are the eigenpairs of ``W^T W`` (for a wide matrix, ``U`` and ``S^2`` of ``W W^T``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..contracts.artifact import Execution

_TILE_ROWS = 4096


@dataclass(frozen=True)
class Factor:
    """``R`` [columns, columns] or ``L`` [rows, rows] in float64, and the side on which it is applied."""

    execution: Execution
    matrix: np.ndarray

    def apply(self, weight: np.ndarray) -> np.ndarray:
        """The adapted matrix ``W'`` of the shape of ``weight``, in float64."""
        right = self.execution is Execution.RIGHT
        adapted: np.ndarray = weight @ self.matrix if right else self.matrix @ weight
        return adapted


def svf_factor(weight: np.ndarray, offsets: np.ndarray) -> Factor:
    """The factor that adapts ``weight`` by ``offsets``.

    Args:
        weight: [rows, columns], any float type.
        offsets: [min(rows, columns)], one for each singular value in descending order.

    Raises:
        ValueError: the number of offsets is not the smaller side, or they make the scaled values sum to zero.
    """
    rows, columns = weight.shape
    if offsets.shape != (min(rows, columns),):
        raise ValueError(f"a {rows} x {columns} matrix takes {min(rows, columns)} offsets, not {offsets.shape}")
    tall = rows >= columns
    singular, vectors = _eigenpairs(gram_matrix(weight if tall else weight.T))
    gains = 1.0 + offsets.astype(np.float64)
    total = float(np.sum(singular * gains))
    if total == 0.0:
        raise ValueError("the offsets bring the sum of the scaled singular values to zero: nothing to normalise by")
    norm = float(np.sum(singular)) / total
    return Factor(Execution.RIGHT if tall else Execution.LEFT, norm * (vectors * gains) @ vectors.T)


def gram_matrix(matrix: np.ndarray) -> np.ndarray:
    """``matrix^T @ matrix`` [columns, columns], summed tile by tile of rows in float64."""
    total = np.zeros((matrix.shape[1], matrix.shape[1]))
    for start in range(0, matrix.shape[0], _TILE_ROWS):
        tile = matrix[start : start + _TILE_ROWS].astype(np.float64)
        total += tile.T @ tile
    return total


def _eigenpairs(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Singular values in descending order, and the vectors that belong to them as columns."""
    squares, vectors = np.linalg.eigh(gram)
    return np.sqrt(np.clip(squares[::-1], 0.0, None)), vectors[:, ::-1]

"""Singular-value fine-tuning as one small factor (docs/method.md, section 3).

For ``W = U diag(S) V^T`` and offsets ``d``, the adapted matrix is

    W' = norm * U diag(S * (1 + d)) V^T,    norm = sum(S) / sum(S * (1 + d))

Two identities reduce it to a product with a matrix of the smaller side, and need neither ``U`` of a tall matrix nor
a division by a small singular value:

    tall (rows >= columns):  W' = W @ R,   R = norm * V diag(1 + d) V^T
    wide (rows <  columns):  W' = L @ W,   L = norm * U diag(1 + d) U^T

``V`` and ``S^2`` are the eigenpairs of ``W^T W`` (for a wide matrix, ``U`` and ``S^2`` of ``W W^T``). Since ``V`` is
square, ``R = I + V diag(norm * (1 + d) - 1) V^T``: the change ``R - I`` is small, so a product with it in float32 loses
little, and at zero offsets it is exactly zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..contracts.artifact import Execution
from .gram import Spectrum, gram_matrix, spectrum_of


@dataclass(frozen=True)
class Factor:
    """``R - I`` [columns, columns] or ``L - I`` [rows, rows], float64, and the side on which the factor is applied."""

    execution: Execution
    change: np.ndarray

    @property
    def matrix(self) -> np.ndarray:
        """``R`` or ``L`` in float64."""
        matrix: np.ndarray = np.eye(len(self.change)) + self.change
        return matrix

    def apply(self, weight: np.ndarray) -> np.ndarray:
        """The adapted matrix ``W'`` of the shape of ``weight``, in float64."""
        right = self.execution is Execution.RIGHT
        adapted: np.ndarray = weight + (weight @ self.change if right else self.change @ weight)
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
    spectrum = spectrum_of(gram_matrix(weight))
    return Factor(execution_for(weight.shape), change_of(spectrum, gains(spectrum.singular, offsets)))


def execution_for(shape: tuple[int, ...]) -> Execution:
    """The side on which a matrix of ``shape`` takes its factor: the smaller one."""
    return Execution.RIGHT if shape[0] >= shape[1] else Execution.LEFT


def gains(singular: np.ndarray, *offsets: np.ndarray) -> np.ndarray:
    """What each singular value is multiplied by: ``norm * (1 + d)``, in the order of ``singular``; float64 [side].

    Several ``offsets`` adapt one after the other. Each belongs to the descending order of the values that the one
    before has left. Vectors stay the same, so the second needs no decomposition of the first one's result.

    Raises:
        ValueError: the scaled values sum to zero.
    """
    total = np.ones_like(singular)
    for each in offsets:
        values = np.abs(singular * total)
        step = np.empty_like(total)
        step[np.argsort(-values, kind="stable")] = 1.0 + each.astype(np.float64)
        total *= step * _norm(values, values * step)
    return total


def change_of(spectrum: Spectrum, gain: np.ndarray) -> np.ndarray:
    """``R - I`` (or ``L - I``): vectors times ``gain - 1`` times vectors transposed, [side, side] in float64."""
    change: np.ndarray = (spectrum.vectors * (gain - 1.0)) @ spectrum.vectors.T
    return change


def _norm(singular: np.ndarray, scaled: np.ndarray) -> float:
    """``sum(S) / sum(scaled)``."""
    total = float(np.sum(scaled))
    if total == 0.0:
        raise ValueError(
            "the sum of the scaled singular values is zero (the offsets cancel it, or the matrix is zero): "
            "nothing to normalise by"
        )
    return float(np.sum(singular)) / total

"""The numbers that a search moves and the head that they stand for: a step in any of them does about as much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from .head import Head, HeadKind

_SHRINKAGE = 0.1
"""Added to each eigenvalue, of the median one: directions that hardly occur are not blown up."""


@dataclass(frozen=True, eq=False)
class Coordinates:
    """From numbers [size] to the head that they stand for, and back to the numbers nearest to a head."""

    head: Callable[[np.ndarray], Head]
    numbers: Callable[[Head], np.ndarray]


def scaled(kind: HeadKind, rows: int, hidden: np.ndarray) -> Coordinates:
    """The numbers of any ``kind`` of head with ``rows`` logits, at one scale, for vectors like ``hidden`` [n, side]."""
    unit = kind.unit(float(np.sqrt((hidden**2).sum(1).mean())))
    side = hidden.shape[1]
    return Coordinates(lambda numbers: kind.head(numbers * unit, rows, side), lambda head: kind.fitted(head) / unit)


def whitened(rows: int, hidden: np.ndarray) -> Coordinates:
    """A linear head's, in directions of ``hidden`` [n, hidden] that vary apart, each scaled to vary as much as any.

    A separable strategy has a scale for each coordinate and none for pairs of them: this is where it needs none.
    """
    moments, directions = np.linalg.eigh(hidden.T @ hidden / len(hidden))
    floor = max(_SHRINKAGE * float(np.median(moments)), 1e-9 * float(moments.max()), 1e-300)
    lengths = np.sqrt((np.maximum(moments, 0.0) + floor) * hidden.shape[1])
    there, back = directions / lengths, directions * lengths
    return Coordinates(
        lambda numbers: Head(numbers.reshape(rows, -1) @ there.T),
        lambda head: cast(np.ndarray, (head.matrix @ back).ravel()),
    )

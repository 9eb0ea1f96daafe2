"""Optimisers that ask for scores of candidates: one small protocol, found by name through an entry point."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Protocol

import numpy as np

from ...contracts.errors import UsageError

ENTRY_POINT_GROUP = "trinity_mlx.optimizers"


class Optimizer(Protocol):
    """Looks for the vector with the highest score. What it draws depends on its seed and on what it was told alone."""

    def ask(self) -> np.ndarray:
        """The next candidates, float64 [candidates, size]; asking twice without telling is not allowed."""

    def tell(self, candidates: np.ndarray, scores: np.ndarray) -> None:
        """How good what ``ask`` gave is, higher is better: [candidates]; neither array is kept or changed.

        Raises:
            ValueError: a score is not finite.
        """

    @property
    def best(self) -> np.ndarray:
        """The vector that it would settle for now, float64 [size]."""

    def state(self) -> Mapping[str, np.ndarray]:
        """All that the next ``ask`` depends on, as arrays."""

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what ``state`` gave."""


class OptimizerFactory(Protocol):
    """What an entry point of the group names."""

    def __call__(self, start: np.ndarray, step: float, population: int | None, seed: int) -> Optimizer:
        """An optimiser that begins at ``start`` [size] and looks about ``step`` around it."""


def optimizer_names() -> list[str]:
    """The optimisers that are installed, in alphabetic order."""
    return sorted(entry_points(group=ENTRY_POINT_GROUP).names)


def load_optimizer(name: str) -> OptimizerFactory:
    """The optimiser of that name.

    Raises:
        UsageError: there is none, or its package cannot be imported.
    """
    found = tuple(entry_points(group=ENTRY_POINT_GROUP, name=name))
    if not found:
        raise UsageError(f"no optimiser {name!r}: there are {', '.join(optimizer_names())}")
    try:
        factory: OptimizerFactory = found[0].load()
    except ImportError as error:
        raise UsageError(f"optimiser {name} cannot be imported: {error}") from None
    return factory


def require_finite(scores: np.ndarray) -> None:
    """Make sure that every score is a number.

    Raises:
        ValueError: one is NaN or infinite; to take it for a good or a bad one would both be made up.
    """
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {scores.size} candidates have no finite score")

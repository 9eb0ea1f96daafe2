"""Intervals and paired tests by resampling rows: nothing is assumed of how scores are distributed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

DRAWS = 2000
MOST_NUMBERS = 20_000_000
_SEED = 0
"""Fixes what is drawn, so that the same scores give the same interval."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its standard error and its interval of 95 per cent."""

    mean: float
    error: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Plain values for JSON."""
        return {"mean": self.mean, "standard_error": self.error, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Difference:
    """How much higher one mean is than another on the same rows; ``p`` is two-sided."""

    estimate: Estimate
    p: float

    def to_dict(self) -> dict[str, float]:
        """Plain values for JSON."""
        return {**self.estimate.to_dict(), "p": self.p}


def estimate(values: np.ndarray, draws: int = DRAWS) -> Estimate:
    """The mean of ``values`` [rows], with its bootstrap interval over rows."""
    means = _resampled(values, draws)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(means.std()), float(low), float(high))


def paired_difference(one: np.ndarray, other: np.ndarray) -> Difference:
    """``one`` less ``other`` row by row; ``p`` by flipping the sign of each row's difference at random.

    Args:
        one: [rows], the score that one method has on each row.
        other: [rows], another's on the same rows.
    """
    gaps = one - other
    flipped = _signs(len(gaps), _affordable(len(gaps), DRAWS)) @ gaps
    extreme = int((np.abs(flipped) >= abs(float(gaps.sum())) - 1e-9).sum())
    return Difference(estimate(gaps), (1 + extreme) / (1 + len(flipped)))


def _resampled(values: np.ndarray, draws: int) -> np.ndarray:
    means: np.ndarray = _counts(len(values), _affordable(len(values), draws)) @ values / len(values)
    return means


def _affordable(count: int, draws: int) -> int:
    """Fewer draws where there are very many rows, whose mean is known well in any case."""
    return max(200, min(draws, MOST_NUMBERS // max(count, 1)))


@lru_cache(maxsize=2)
def _counts(count: int, draws: int) -> np.ndarray:
    """How often each row is drawn, float64 [draws, rows]: the same draws for every method on the same rows."""
    drawn: np.ndarray = np.random.default_rng(_SEED).multinomial(count, np.full(count, 1.0 / count), draws)
    return drawn.astype(np.float64)


@lru_cache(maxsize=2)
def _signs(count: int, draws: int) -> np.ndarray:
    """1 or -1 for each row, float64 [draws, rows]."""
    signs: np.ndarray = np.random.default_rng([_SEED, 1]).choice((-1.0, 1.0), (draws, count))
    return signs

"""Intervals and paired tests by resampling rows: nothing is assumed of how scores are distributed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DRAWS = 2000


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


def estimate(values: np.ndarray, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """The mean of ``values`` [rows], with its bootstrap interval over rows."""
    means = _resampled(values, seed, draws)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(means.std()), float(low), float(high))


def paired_difference(one: np.ndarray, other: np.ndarray, seed: int = 0, draws: int = DRAWS) -> Difference:
    """``one`` less ``other`` row by row; ``p`` by flipping the sign of each row's difference at random.

    Args:
        one: [rows], the score that one method has on each row.
        other: [rows], another's on the same rows.
        seed: fixes what is drawn; 0 is a seed as any other.
        draws: how often.
    """
    gaps = one - other
    moved = gaps[gaps != 0.0]
    draw = np.random.default_rng(seed)
    flipped = np.array([float(moved @ draw.choice((-1.0, 1.0), len(moved))) for _ in range(draws)])
    extreme = int((np.abs(flipped) >= abs(float(moved.sum())) - 1e-12).sum())
    return Difference(estimate(gaps, seed, draws), (1 + extreme) / (1 + draws))


def _resampled(values: np.ndarray, seed: int, draws: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    count = len(values)
    return np.array([values[draw.integers(0, count, count)].mean() for _ in range(draws)])

"""Separable CMA-ES: the library ``cmaes``, wrapped.

The library changes the mean that it is given and the list that it is told, ranks NaN without a word, and loses its
random state when it is copied; none of that passes this wall. Candidates are drawn here, from numpy's generator, so
that the whole state is a handful of arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cmaes import SepCMA  # type: ignore[import-untyped]

from . import require_finite
from .random_state import packed, unpacked

_VECTORS = ("_mean", "_C", "_p_sigma", "_pc", "_funhist_values")


class SepCmaEs:
    """A normal distribution with a scale for each coordinate, moved towards the better half of each generation."""

    def __init__(self, start: np.ndarray, step: float, population: int | None = None, seed: int = 0) -> None:
        self._inner: Any = SepCMA(mean=np.array(start, dtype=np.float64), sigma=step, population_size=population)
        self._draw = np.random.default_rng(seed)

    def ask(self) -> np.ndarray:
        """The next generation, [population, size]."""
        deviation = self._inner._sigma * np.sqrt(np.maximum(self._inner._C, 0.0))
        normal = self._draw.standard_normal((self._inner.population_size, self._inner.dim))
        candidates: np.ndarray = self._inner._mean + deviation * normal
        return candidates

    def tell(self, candidates: np.ndarray, scores: np.ndarray) -> None:
        """Move the distribution; higher scores are better."""
        require_finite(scores)
        self._inner.tell([(row.copy(), -float(score)) for row, score in zip(candidates, scores, strict=True)])

    @property
    def best(self) -> np.ndarray:
        """The mean of the distribution."""
        mean: np.ndarray = self._inner._mean.copy()
        return mean

    def state(self) -> Mapping[str, np.ndarray]:
        """Mean, scales, paths, step, generation and random state."""
        vectors = {name: getattr(self._inner, name).copy() for name in _VECTORS}
        numbers = np.array([self._inner._sigma, self._inner._g], dtype=np.float64)
        return {**vectors, "step_and_generation": numbers, "random": packed(self._draw)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from ``state``."""
        for name in _VECTORS:
            setattr(self._inner, name, np.array(state[name], dtype=np.float64))
        step, generation = state["step_and_generation"]
        self._inner._sigma, self._inner._g, self._inner._D = float(step), int(generation), None
        self._draw = unpacked(state["random"])

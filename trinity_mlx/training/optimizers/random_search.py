"""Random search: vectors drawn around the start, evenly from -0.5 to 0.5 in each coordinate; the best one stays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from . import require_finite
from .random_state import packed, unpacked

POPULATION = 32


class RandomSearch:
    """Independent draws; ``step`` widens or narrows them, where 0.5 is the published range."""

    def __init__(self, start: np.ndarray, step: float = 0.5, population: int | None = None, seed: int = 0) -> None:
        self._start = np.array(start, dtype=np.float64)
        self._step = step
        self._population = population or POPULATION
        self._draw = np.random.default_rng(seed)
        self._best, self._score = self._start.copy(), -np.inf

    def ask(self) -> np.ndarray:
        """The next draws, [population, size]."""
        offsets = self._draw.uniform(-self._step, self._step, (self._population, len(self._start)))
        candidates: np.ndarray = self._start + offsets
        return candidates

    def tell(self, candidates: np.ndarray, scores: np.ndarray) -> None:
        """Keep the best candidate so far; the earlier one among equals."""
        require_finite(scores)
        index = int(np.argmax(scores))
        if scores[index] > self._score:
            self._best, self._score = candidates[index].copy(), float(scores[index])

    @property
    def best(self) -> np.ndarray:
        """The best vector seen; the start before anything was told."""
        return self._best.copy()

    def state(self) -> Mapping[str, np.ndarray]:
        """The best vector, its score, and the random state."""
        return {"best": self._best.copy(), "score": np.array([self._score]), "random": packed(self._draw)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from ``state``."""
        self._best, self._score = np.array(state["best"]), float(state["score"][0])
        self._draw = unpacked(state["random"])

"""Ridge regression as a stage."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..closed_form import PENALTIES, ridge_head
from ..head import Head
from ..problem import Candidate, Problem, worth
from . import State


class RidgeStage:
    """Ridge regression in closed form, a penalty a generation."""

    name = "ridge"
    generations = len(PENALTIES)

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._done = 0

    def begin(self, start: Candidate) -> None:
        """Start from the offsets of ``start``."""
        self._start, self._done = start, 0
        self._hidden = self._problem.hidden_at(start.offsets)

    def again(self, problem: Problem, number: int) -> Head:
        """The head of generation ``number`` (from 1), fitted on ``problem``'s rows."""
        return problem.shaped(ridge_head(problem.hidden, problem.utility, PENALTIES[number - 1]))

    def step(self) -> tuple[Candidate, float]:
        """The head of the next penalty."""
        head = self._problem.shaped(ridge_head(self._hidden, self._problem.utility, PENALTIES[self._done]))
        self._done += 1
        return Candidate(self._start.offsets, head), worth(self._problem, self._hidden, head)

    def state(self) -> State:
        """How many penalties are done."""
        return {"done": np.array([self._done], dtype=np.float64)}

    def resume(self, start: Candidate, state: Mapping[str, np.ndarray]) -> None:
        """Go on after the penalties that are done."""
        self.begin(start)
        self._done = int(state["done"][0])

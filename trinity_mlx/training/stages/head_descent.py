"""Descent on the head alone, towards smoothed scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..descent import Adam, cross_entropy
from ..head import Head
from ..problem import Candidate, Problem, worth
from ..target import Target
from . import State

ROUNDS, STEPS = 6, 75
"""Generations for each target, and steps of Adam in each of them."""
RATE, DECAY = 0.02, 0.7
"""Adam's rate in the first round, and what it is multiplied by from one round to the next."""
PENALTY = 1e-4
"""On the square of the head's numbers, so that it stays small where the rows say nothing."""


class HeadDescent:
    """Adam on the head alone, on all train rows at once, for one target after the other from the same start.

    A row's own score is one throw of a coin: the mean over the rows that the base holds for alike says more. That mean
    is what nearest neighbours predict, so a head that learns it is a nearest-neighbour router in a few rows.
    """

    def __init__(self, problem: Problem, name: str, targets: Sequence[Target]) -> None:
        self.name = name
        self._problem = problem
        self._targets = tuple(targets)
        self._aims: dict[int, np.ndarray] = {}

    @property
    def generations(self) -> int:
        """Rounds of steps for each target."""
        return ROUNDS * len(self._targets)

    def begin(self, start: Candidate) -> None:
        """Start from the offsets of ``start``, and a head of zeros."""
        self._start, self._done = start, 0
        self._hidden = self._problem.hidden_at(start.offsets)
        self._numbers, self._adam = self._fresh()

    def again(self, problem: Problem, number: int) -> Head:
        """The head of generation ``number`` (from 1), fitted on ``problem``'s rows."""
        index, rounds = divmod(number - 1, ROUNDS)
        other = HeadDescent(problem, self.name, self._targets[index : index + 1])
        other.begin(problem.nothing())
        return [other.step()[0].head for _ in range(rounds + 1)][-1]

    def step(self) -> tuple[Candidate, float]:
        """Some steps of Adam."""
        index, round_ = divmod(self._done, ROUNDS)
        if round_ == 0:
            self._numbers, self._adam = self._fresh()
        self._adam.rate = RATE * DECAY**round_
        for _ in range(STEPS):
            self._numbers = self._adam.step(self._numbers, self._slope(self._aim(index)))
        self._done += 1
        head = self._problem.head(self._numbers)
        return Candidate(self._start.offsets, head), worth(self._problem, self._hidden, head)

    def state(self) -> State:
        """The numbers, Adam's moments, and how many rounds are done."""
        return {"numbers": self._numbers, "done": np.array([self._done], dtype=np.float64), **self._adam.state()}

    def resume(self, start: Candidate, state: Mapping[str, np.ndarray]) -> None:
        """Go on from ``state``."""
        self.begin(start)
        self._numbers, self._done = np.array(state["numbers"]), int(state["done"][0])
        self._adam.restore(state)

    def _fresh(self) -> tuple[np.ndarray, Adam]:
        """Numbers of a head of zeros that can still be moved, and Adam for them."""
        numbers = self._problem.kind.fitted(self._problem.nothing().head)
        return numbers, Adam(len(numbers), RATE)

    def _aim(self, index: int) -> np.ndarray:
        if index not in self._aims:
            self._aims = {index: self._targets[index].of(self._problem)}
        return self._aims[index]

    def _slope(self, aim: np.ndarray) -> np.ndarray:
        _, slope = cross_entropy(self._problem.head(self._numbers).logits(self._hidden), aim)
        return self._problem.kind.pulled(slope, self._hidden, self._numbers) + PENALTY * self._numbers

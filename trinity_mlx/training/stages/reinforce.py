"""REINFORCE as a stage."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..descent import Adam, reinforce
from ..optimizers.random_state import packed, unpacked
from ..problem import Candidate, Problem, worth
from . import State

BATCH, RATE = 512, 0.02
"""Rows of a batch, and Adam's rate."""


class ReinforceStage:
    """REINFORCE on the head alone, from zero; ``rounds`` batches."""

    name = "reinforce"

    def __init__(self, problem: Problem, *, rounds: int) -> None:
        self.generations = rounds
        self._problem = problem

    def begin(self, start: Candidate) -> None:
        """Start from zero."""
        self._start = start
        self._hidden = self._problem.hidden_at(start.offsets)
        self._numbers = self._problem.kind.fitted(self._problem.nothing().head)
        self._adam = Adam(len(self._numbers), RATE)
        self._draw = np.random.default_rng(self._problem.seed)

    def step(self) -> tuple[Candidate, float]:
        """One batch."""
        rows = self._draw.choice(len(self._hidden), min(BATCH, len(self._hidden)), replace=False)
        hidden, utility = self._hidden[rows], self._problem.utility[rows]
        _, slope = reinforce(self._problem.head(self._numbers).logits(hidden), utility, self._draw)
        self._numbers = self._adam.step(self._numbers, self._problem.kind.pulled(slope, hidden, self._numbers))
        head = self._problem.head(self._numbers)
        return Candidate(self._start.offsets, head), worth(self._problem, self._hidden, head)

    def state(self) -> State:
        """Numbers, moments and the random state."""
        return {"numbers": self._numbers, "random": packed(self._draw), **self._adam.state()}

    def resume(self, start: Candidate, state: Mapping[str, np.ndarray]) -> None:
        """Go on from ``state``."""
        self.begin(start)
        self._numbers, self._draw = np.array(state["numbers"]), unpacked(state["random"])
        self._adam.restore(state)

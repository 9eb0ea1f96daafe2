"""Descent on offsets and head together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..descent import Adam, cross_entropy
from ..optimizers.random_state import packed, unpacked
from ..problem import Candidate, Problem
from ..target import Target
from . import State

BATCHES, BATCH, RATE = 6, 128, 0.001
"""Batches of a generation, rows of a batch, and Adam's rate."""


class OffsetDescent:
    """Adam on offsets and head together, in batches, through the layers that the offsets change."""

    name = "offsets"
    generations = 3

    def __init__(self, problem: Problem, target: Target) -> None:
        self._problem = problem
        self._target = target

    def begin(self, start: Candidate) -> None:
        """Start from ``start`` as it is."""
        self._aim = self._target.of(self._problem)
        self._offsets = self._problem.layout.joined(start.offsets)
        self._numbers = self._problem.kind.fitted(start.head)
        self._adams = Adam(len(self._offsets), RATE), Adam(len(self._numbers), RATE)
        self._draw = np.random.default_rng(self._problem.seed)

    def step(self) -> tuple[Candidate, float]:
        """Some batches; their mean loss, with the sign turned, stands for the worth on train."""
        losses = [self._descend() for _ in range(BATCHES)]
        head = self._problem.head(self._numbers)
        return Candidate(self._problem.layout.split(self._offsets), head), -float(np.mean(losses))

    def _descend(self) -> float:
        """One step of Adam; gives the loss before it."""
        problem, layout = self._problem, self._problem.layout
        count = len(problem.train)
        rows = np.sort(self._draw.choice(count, min(BATCH, count), replace=False))
        slope = _HeadSlope(
            problem, self._numbers, dict(zip(problem.train[rows].tolist(), self._aim[rows], strict=True))
        )
        offsets = layout.split(self._offsets)
        gains = {name: values[0] for name, values in layout.gains(offsets).items()}
        slopes = problem.features.pullback(problem.train[rows], gains, slope)
        self._offsets = self._adams[0].step(self._offsets, layout.joined(layout.offset_slopes(offsets, slopes)))
        self._numbers = self._adams[1].step(self._numbers, slope.at_numbers)
        return slope.loss

    def state(self) -> State:
        """Numbers, moments and the random state."""
        moments = {
            f"{part}.{name}": values
            for part, adam in zip(("offsets", "head"), self._adams, strict=True)
            for name, values in adam.state().items()
        }
        return {"offsets": self._offsets, "numbers": self._numbers, "random": packed(self._draw), **moments}

    def resume(self, start: Candidate, state: Mapping[str, np.ndarray]) -> None:
        """Go on from ``state``."""
        self.begin(start)
        self._offsets, self._numbers = np.array(state["offsets"]), np.array(state["numbers"])
        self._draw = unpacked(state["random"])
        for part, adam in zip(("offsets", "head"), self._adams, strict=True):
            adam.restore({name: state[f"{part}.{name}"] for name in ("first", "second", "steps")})


class _HeadSlope:
    """The slope of the loss at hidden vectors, batch by batch, with the head's slope gathered on the way."""

    def __init__(self, problem: Problem, numbers: np.ndarray, aims: Mapping[int, np.ndarray]) -> None:
        self.at_numbers = np.zeros_like(numbers)
        self.loss = 0.0
        self._problem = problem
        self._numbers = numbers
        self._aims = aims

    def __call__(self, hidden: np.ndarray, batch: list[int]) -> np.ndarray:
        exact, head = hidden.astype(np.float64), self._problem.head(self._numbers)
        loss, slope = cross_entropy(head.logits(exact), np.stack([self._aims[index] for index in batch]))
        share = len(batch) / len(self._aims)
        self.loss += loss * share
        self.at_numbers += self._problem.kind.pulled(share * slope, exact, self._numbers)
        return head.pulled(share * slope, exact)

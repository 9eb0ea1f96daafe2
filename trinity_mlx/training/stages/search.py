"""A search by an optimiser that asks for scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..coordinates import scaled, whitened
from ..head import all_logits
from ..objective import choose_allowed
from ..optimizers import Optimizer, OptimizerFactory
from ..optimizers.random_state import packed, unpacked
from ..problem import Candidate, Problem
from . import State


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """How a search goes.

    Attributes:
        generations: how many it has at most.
        step: how far it looks at first.
        population: candidates of a generation.
        rows: how many train rows each generation sees; all by default.
        offsets: whether it moves offsets too, or the head alone.
        start_at_zero: whether it starts from nothing, or from the best candidate so far.
        whiten: whether a step moves the logits by as much in every direction of the hidden vectors.
    """

    generations: int
    step: float
    population: int = 32
    rows: int | None = None
    offsets: bool = False
    start_at_zero: bool = False
    whiten: bool = False


class Search:
    """An optimiser that asks for scores: of heads alone, or of offsets and head together.

    All candidates of one generation see the same rows and may choose from the same agents. Coordinates of the head are
    scaled so that one step moves a logit by about as much as the step says, whatever the size of the hidden vectors;
    where the plan says ``whiten``, which linear heads alone allow, in every direction of them alike (``coordinates``).
    """

    def __init__(self, problem: Problem, name: str, factory: OptimizerFactory, plan: SearchPlan) -> None:
        self.name = name
        self.generations = plan.generations
        self._problem = problem
        self._factory = factory
        self._plan = plan
        self._with_offsets = plan.offsets and problem.layout.size > 0

    def begin(self, start: Candidate) -> None:
        """Start from ``start``, or from zero."""
        problem, plan = self._problem, self._plan
        self._start = problem.nothing() if plan.start_at_zero else start
        self._hidden = problem.hidden_at(self._start.offsets)
        rows = problem.head_shape[0]
        self._coordinates = whitened(rows, self._hidden) if plan.whiten else scaled(problem.kind, rows, self._hidden)
        numbers = self._coordinates.numbers(self._start.head)
        if self._with_offsets:
            numbers = np.concatenate([problem.layout.joined(self._start.offsets), numbers])
        self._optimizer: Optimizer = self._factory(numbers, plan.step, plan.population, problem.seed)
        self._draw = np.random.default_rng([problem.seed, 1])

    def step(self) -> tuple[Candidate, float]:
        """One generation."""
        problem = self._problem
        rows = self._rows()
        allowed = problem.objective.allowed(problem.head_shape[0], self._draw)
        candidates = self._optimizer.ask()
        logits = self._logits([self._candidate(row) for row in candidates], rows)
        scores = problem.objective.value(choose_allowed(logits, allowed), problem.utility[rows])
        self._optimizer.tell(candidates, scores)
        return self._candidate(self._optimizer.best), float(np.mean(scores))

    def _rows(self) -> np.ndarray:
        """The rows of this generation, in ascending order."""
        count, wanted = len(self._problem.train), self._plan.rows
        return np.arange(count) if wanted is None else np.sort(self._draw.choice(count, min(wanted, count), False))

    def state(self) -> State:
        """The optimiser's state, and what draws rows and agents."""
        inner = {f"optimizer.{name}": values for name, values in self._optimizer.state().items()}
        return {"random": packed(self._draw), **inner}

    def resume(self, start: Candidate, state: Mapping[str, np.ndarray]) -> None:
        """Go on from ``state``."""
        self.begin(start)
        self._draw = unpacked(state["random"])
        inner = {name.removeprefix("optimizer."): values for name, values in state.items() if name != "random"}
        self._optimizer.restore(inner)

    def _candidate(self, numbers: np.ndarray) -> Candidate:
        problem = self._problem
        size = problem.layout.size if self._with_offsets else 0
        offsets = problem.layout.split(numbers[:size]) if size else self._start.offsets
        return Candidate(offsets, self._coordinates.head(numbers[size:]))

    def _logits(self, candidates: Sequence[Candidate], rows: np.ndarray) -> np.ndarray:
        """[candidates, rows, agents]."""
        heads = [candidate.head for candidate in candidates]
        if not self._with_offsets:
            return all_logits(heads, self._hidden[rows])
        gains = self._problem.layout.gains(*(candidate.offsets for candidate in candidates))
        hidden = self._problem.features.hidden(self._problem.train[rows], gains)
        return np.stack([head.logits(each) for head, each in zip(heads, hidden, strict=True)])

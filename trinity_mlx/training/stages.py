"""The stages of a training: each proposes one candidate a generation, and keeps its state in plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .closed_form import PENALTIES, nearest_rows, ridge_head
from .coordinates import scaled, whitened
from .descent import Adam, cross_entropy, hard_labels, reinforce, soft_targets
from .features import Features
from .head import Head, HeadKind, all_logits
from .objective import Objective, choose_allowed
from .optimizers import Optimizer, OptimizerFactory
from .optimizers.random_state import packed, unpacked
from .vector_layout import Layout, Offsets

State = dict[str, np.ndarray]


@dataclass(frozen=True)
class Candidate:
    """Offsets by tensor, and the part of a head that chooses the agent."""

    offsets: Offsets
    head: Head


@dataclass(frozen=True)
class Problem:
    """What every stage works on: the train split, its hidden vectors, and what each choice there is worth.

    Attributes:
        features: hidden vectors of all rows, as offsets change.
        train: indices of the train rows.
        utility: float64 [train rows, agents].
        hidden: hidden vectors of the train rows without offsets, float64 [train rows, hidden].
        layout: the offsets that may be trained.
        kind: the kind of head.
        objective: what counts besides the score.
        seed: fixes all that is drawn; 0 is a seed as any other.
    """

    features: Features
    train: np.ndarray
    utility: np.ndarray
    hidden: np.ndarray
    layout: Layout
    kind: HeadKind
    objective: Objective
    seed: int

    @property
    def head_shape(self) -> tuple[int, int]:
        """Agents and hidden numbers."""
        return self.utility.shape[1], self.hidden.shape[1]

    def nothing(self) -> Candidate:
        """No offsets and a head of zeros."""
        return Candidate(self.layout.zero(), Head(np.zeros(self.head_shape)))

    def shaped(self, matrix: np.ndarray) -> Head:
        """The head of this kind that is nearest to the linear one of ``matrix`` [agents, hidden]."""
        return self.head(self.kind.fitted(Head(matrix)))

    def head(self, numbers: np.ndarray) -> Head:
        """The head that ``numbers`` of this kind stand for."""
        return self.kind.head(numbers, *self.head_shape)

    def hidden_at(self, offsets: Offsets) -> np.ndarray:
        """Hidden vectors of the train rows under ``offsets``, float64 [train rows, hidden]."""
        if not any(values.any() for values in offsets.values()):
            return self.hidden
        hidden: np.ndarray = self.features.hidden(self.train, self.layout.gains(offsets))[0].astype(np.float64)
        return hidden


class Stage(Protocol):
    """One way to improve on a candidate."""

    name: str

    @property
    def generations(self) -> int:
        """How many it has at most."""

    def begin(self, start: Candidate) -> None:
        """Start from the best candidate so far."""

    def step(self) -> tuple[Candidate, float]:
        """One generation: a candidate, and what it is worth on train."""

    def state(self) -> State:
        """All that the next step depends on."""

    def resume(self, start: Candidate, state: Mapping[str, np.ndarray]) -> None:
        """Begin from ``start``, and go on from ``state``."""


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


@dataclass(frozen=True, slots=True)
class Target:
    """What a descent aims at: scores, smoothed over a row's nearest neighbours, through a softmax.

    ``neighbours`` of 0 takes the row's own scores; ``temperature`` of 0 takes the best agent alone.
    """

    neighbours: int
    temperature: float

    def of(self, problem: Problem) -> np.ndarray:
        """Shares of the agents that sum to one, [train rows, agents]."""
        scores = problem.utility
        if self.neighbours:
            nearest = nearest_rows(problem.hidden, problem.hidden, min(self.neighbours + 1, len(scores)))
            scores = scores[nearest].mean(1)
        return soft_targets(scores, self.temperature) if self.temperature else hard_labels(scores)


NEIGHBOUR_TARGETS = (Target(20, 0.03), Target(20, 0.015), Target(10, 0.015), Target(40, 0.015))


class HeadDescent:
    """Adam on the head alone, on all train rows at once, for one target after the other from the same start.

    A row's own score is one throw of a coin: the mean over the rows that the base holds for alike says more. That mean
    is what nearest neighbours predict, so a head that learns it is a nearest-neighbour router in a few rows.
    """

    def __init__(
        self,
        problem: Problem,
        name: str,
        targets: Sequence[Target],
        *,
        rounds: int = 6,
        steps: int = 75,
        rate: float = 0.02,
        penalty: float = 1e-4,
    ) -> None:
        self.name = name
        self._problem = problem
        self._targets = tuple(targets)
        self._rounds = rounds
        self._steps = steps
        self._rate = rate
        self._penalty = penalty
        self._aims: dict[int, np.ndarray] = {}

    @property
    def generations(self) -> int:
        """Rounds of steps for each target."""
        return self._rounds * len(self._targets)

    def begin(self, start: Candidate) -> None:
        """Start from the offsets of ``start``, and a head of zeros."""
        self._start, self._done = start, 0
        self._hidden = self._problem.hidden_at(start.offsets)
        self._numbers, self._adam = self._fresh()

    def again(self, problem: Problem, number: int) -> Head:
        """The head of generation ``number`` (from 1), fitted on ``problem``'s rows."""
        index, rounds = divmod(number - 1, self._rounds)
        other = HeadDescent(
            problem,
            self.name,
            self._targets[index : index + 1],
            rounds=self._rounds,
            steps=self._steps,
            rate=self._rate,
            penalty=self._penalty,
        )
        other.begin(problem.nothing())
        return [other.step()[0].head for _ in range(rounds + 1)][-1]

    def step(self) -> tuple[Candidate, float]:
        """Some steps of Adam."""
        index, round_ = divmod(self._done, self._rounds)
        if round_ == 0:
            self._numbers, self._adam = self._fresh()
        self._adam.rate = self._rate * 0.7**round_
        for _ in range(self._steps):
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
        return numbers, Adam(len(numbers), self._rate)

    def _aim(self, index: int) -> np.ndarray:
        if index not in self._aims:
            self._aims = {index: self._targets[index].of(self._problem)}
        return self._aims[index]

    def _slope(self, aim: np.ndarray) -> np.ndarray:
        _, slope = cross_entropy(self._problem.head(self._numbers).logits(self._hidden), aim)
        return self._problem.kind.pulled(slope, self._hidden, self._numbers) + self._penalty * self._numbers


class ReinforceStage:
    """REINFORCE on the head alone, from zero; batches and rounds as published."""

    name = "reinforce"

    def __init__(self, problem: Problem, *, rounds: int = 60, batch: int = 512, rate: float = 0.02) -> None:
        self.generations = rounds
        self._problem = problem
        self._batch = batch
        self._rate = rate

    def begin(self, start: Candidate) -> None:
        """Start from zero."""
        self._start = start
        self._hidden = self._problem.hidden_at(start.offsets)
        self._numbers = self._problem.kind.fitted(self._problem.nothing().head)
        self._adam = Adam(len(self._numbers), self._rate)
        self._draw = np.random.default_rng(self._problem.seed)

    def step(self) -> tuple[Candidate, float]:
        """One batch."""
        rows = self._draw.choice(len(self._hidden), min(self._batch, len(self._hidden)), replace=False)
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


class OffsetDescent:
    """Adam on offsets and head together, in batches, through the layers that the offsets change."""

    name = "offsets"

    def __init__(
        self,
        problem: Problem,
        target: Target,
        *,
        rounds: int = 3,
        batches: int = 6,
        batch: int = 128,
        rate: float = 0.001,
    ) -> None:
        self.generations = rounds
        self._batches = batches
        self._problem = problem
        self._target = target
        self._batch = batch
        self._rate = rate

    def begin(self, start: Candidate) -> None:
        """Start from ``start`` as it is."""
        self._aim = self._target.of(self._problem)
        self._offsets = self._problem.layout.joined(start.offsets)
        self._numbers = self._problem.kind.fitted(start.head)
        self._adams = Adam(len(self._offsets), self._rate), Adam(len(self._numbers), self._rate)
        self._draw = np.random.default_rng(self._problem.seed)

    def step(self) -> tuple[Candidate, float]:
        """Some batches; their mean loss, with the sign turned, stands for the worth on train."""
        losses = [self._descend() for _ in range(self._batches)]
        head = self._problem.head(self._numbers)
        return Candidate(self._problem.layout.split(self._offsets), head), -float(np.mean(losses))

    def _descend(self) -> float:
        """One step of Adam; gives the loss before it."""
        problem, layout = self._problem, self._problem.layout
        count = len(problem.train)
        rows = np.sort(self._draw.choice(count, min(self._batch, count), replace=False))
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


class Search:
    """An optimiser that asks for scores: of heads alone, or of offsets and head together.

    All candidates of one generation see the same rows and may choose from the same agents. Coordinates of the head are
    scaled so that one step moves a logit by about as much as the step says, whatever the size of the hidden vectors;
    with ``whiten``, which linear heads alone allow, in every direction of them alike (``coordinates``).
    """

    def __init__(
        self,
        problem: Problem,
        name: str,
        factory: OptimizerFactory,
        *,
        generations: int,
        step: float,
        population: int | None = None,
        rows: int | None = None,
        offsets: bool = False,
        start_at_zero: bool = False,
        whiten: bool = False,
    ) -> None:
        self.name = name
        self.generations = generations
        self._whiten = whiten
        self._problem = problem
        self._factory = factory
        self._step = step
        self._population = population
        self._rows = rows
        self._with_offsets = offsets and problem.layout.size > 0
        self._zero = start_at_zero

    def begin(self, start: Candidate) -> None:
        """Start from ``start``, or from zero."""
        problem = self._problem
        self._start = problem.nothing() if self._zero else start
        self._hidden = problem.hidden_at(self._start.offsets)
        rows = problem.head_shape[0]
        self._coordinates = whitened(rows, self._hidden) if self._whiten else scaled(problem.kind, rows, self._hidden)
        numbers = self._coordinates.numbers(self._start.head)
        if self._with_offsets:
            numbers = np.concatenate([problem.layout.joined(self._start.offsets), numbers])
        self._optimizer: Optimizer = self._factory(numbers, self._step, self._population, problem.seed)
        self._draw = np.random.default_rng([problem.seed, 1])

    def step(self) -> tuple[Candidate, float]:
        """One generation."""
        problem = self._problem
        count = len(problem.train)
        rows = np.arange(count) if self._rows is None else self._draw.choice(count, min(self._rows, count), False)
        allowed = problem.objective.allowed(problem.head_shape[0], self._draw)
        candidates = self._optimizer.ask()
        logits = self._logits([self._candidate(row) for row in candidates], np.sort(rows))
        scores = problem.objective.value(choose_allowed(logits, allowed), problem.utility[np.sort(rows)])
        self._optimizer.tell(candidates, scores)
        return self._candidate(self._optimizer.best), float(np.mean(scores))

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


def worth(problem: Problem, hidden: np.ndarray, head: Head) -> float:
    """What the choices of ``head`` on the train rows are worth."""
    return problem.objective.worth(head.logits(hidden), problem.utility)


def typical_length(hidden: np.ndarray) -> float:
    """The length of a row of ``hidden`` [rows, hidden], as a root of the mean square."""
    return float(np.sqrt((hidden**2).sum(1).mean()))

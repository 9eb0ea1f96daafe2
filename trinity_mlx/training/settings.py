"""What a training is asked to do, and the stages that this comes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..contracts.errors import UsageError
from .head import HeadKind
from .heads import HEADS, LOW_RANK, head_kind
from .low_rank import RANK
from .objective import Objective
from .optimizers import load_optimizer, optimizer_names
from .problem import Problem
from .stages import Stage
from .stages.head_descent import HeadDescent
from .stages.offset_descent import OffsetDescent
from .stages.reinforce import ReinforceStage
from .stages.ridge import RidgeStage
from .stages.search import Search, SearchPlan
from .target import NEIGHBOUR_TARGETS, Target

STAGED = "staged"
PAPER_POPULATION, PAPER_ITERATIONS, PAPER_STEP = 32, 60, 0.03


@dataclass(frozen=True)
class Settings:
    """One training.

    Attributes:
        algorithm: a name of ``algorithm_names``; ``staged`` is the default recipe.
        head: a name of ``heads.HEADS``.
        rank: of a low-rank head.
        offsets: whether singular values are trained too, or the head alone.
        embedding: whether the embedding's are among them; every candidate then has layers of its own from the first on.
        layers: decoder layers whose matrices may be changed; the second-to-last by default.
        iterations: generations of a search; by default the algorithm's own.
        population: candidates of a generation; by default the algorithm's own.
        step: how far a search looks at first; by default the algorithm's own.
        rows: how many train rows each generation of a search sees; all by default.
        objective: what is trained for.
        seed: fixes all that is drawn; 0 is a seed as any other.
        refit: whether the default recipe, once all is chosen, fits its head on train and val together.
        patience: generations of a search without a gain on the validation split before its stage ends.

    Raises:
        UsageError: a name is unknown, or a number out of range.
    """

    algorithm: str = STAGED
    head: str = "linear"
    rank: int = RANK
    offsets: bool = True
    embedding: bool = False
    layers: tuple[int, ...] | None = None
    iterations: int | None = None
    population: int | None = None
    step: float | None = None
    rows: int | None = None
    objective: Objective = field(default_factory=Objective)
    seed: int = 0
    refit: bool = True
    patience: int = 30

    def __post_init__(self) -> None:
        if self.algorithm not in algorithm_names():
            raise UsageError(f"no algorithm {self.algorithm!r}: there are {', '.join(algorithm_names())}")
        if self.head not in HEADS:
            raise UsageError(f"no head {self.head!r}: there are {', '.join(HEADS)}")
        least = {"rank": 2, "iterations": 1, "population": 2, "rows": 1, "step": 1e-12}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and not value >= bound:
                raise UsageError(f"{name} is {value}, and at least {bound} is needed")
        if self.seed < 0 or self.patience < 1:
            raise UsageError(f"a seed is at least 0 and patience at least 1, not {self.seed} and {self.patience}")

    def check(self, hidden_size: int) -> None:
        """Whether these settings fit a base with hidden vectors of ``hidden_size`` numbers.

        Raises:
            UsageError: a low-rank head would have more units than the hidden vector has numbers.
        """
        if self.head == LOW_RANK and self.rank > hidden_size:
            raise UsageError(f"rank is {self.rank}, and a hidden vector of this base has {hidden_size} numbers")

    @property
    def refits(self) -> bool:
        """Whether the head is fitted anew on train and val: by the default recipe, unless told not to."""
        return self.refit and self.algorithm == STAGED

    @property
    def head_name(self) -> str:
        """The head's name, with its rank where it has one."""
        return f"{self.head}, rank {self.rank}" if self.head == LOW_RANK else self.head

    def head_kind(self, length: float) -> HeadKind:
        """The kind of head, for hidden vectors of about ``length``."""
        return head_kind(self.head, rank=self.rank, length=length, seed=self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def algorithm_names() -> list[str]:
    """Every name that ``Settings.algorithm`` takes, the default first."""
    return [STAGED, *_ALGORITHMS, *(name for name in optimizer_names() if name not in _ALGORITHMS)]


def stages_for(settings: Settings, problem: Problem) -> list[Stage]:
    """The stages of ``settings``, in order.

    Raises:
        UsageError: the algorithm is an optimiser of another package, which cannot be imported.
    """
    if settings.algorithm == STAGED:
        return _staged(settings, problem)
    make = _ALGORITHMS.get(settings.algorithm)
    return [make(settings, problem) if make else _from_zero(settings, problem, settings.algorithm, step=0.1)]


def _staged(settings: Settings, problem: Problem) -> list[Stage]:
    offsets: list[Stage] = [OffsetDescent(problem, NEIGHBOUR_TARGETS[0])] if settings.offsets else []
    evolved = _search(settings, problem, "sep-cma-es", SearchPlan(PAPER_ITERATIONS, 0.01))
    return [RidgeStage(problem), HeadDescent(problem, "neighbour-targets", NEIGHBOUR_TARGETS), *offsets, evolved]


def _paper(settings: Settings, problem: Problem) -> Stage:
    """The published settings, from zero: population 32, step 0.03, 60 iterations, offsets and head together."""
    plan = SearchPlan(PAPER_ITERATIONS, PAPER_STEP, offsets=settings.offsets, start_at_zero=True)
    return _search(settings, problem, "sep-cma-es", plan)


def _from_zero(settings: Settings, problem: Problem, name: str, step: float, *, whiten: bool = False) -> Stage:
    """A long search from nothing; it moves offsets where a generation sees some of the rows, and so can afford it."""
    plan = SearchPlan(
        300,
        step,
        offsets=settings.offsets and settings.rows is not None,
        start_at_zero=True,
        whiten=whiten and settings.head == HEADS[0],
    )
    return _search(settings, problem, name, plan)


def _search(settings: Settings, problem: Problem, name: str, plan: SearchPlan) -> Search:
    """The search of that name as ``plan`` has it, where ``settings`` do not say otherwise."""
    own = replace(
        plan,
        generations=settings.iterations or plan.generations,
        step=settings.step or plan.step,
        population=settings.population or PAPER_POPULATION,
        rows=settings.rows,
    )
    return Search(problem, name, load_optimizer(name), own)


_ALGORITHMS: dict[str, Callable[[Settings, Problem], Stage]] = {
    "paper": _paper,
    "sep-cma-es": lambda settings, problem: _from_zero(settings, problem, "sep-cma-es", step=0.1, whiten=True),
    "soft-targets": lambda _, problem: HeadDescent(problem, "soft-targets", [Target(0, 0.1), Target(0, 0.3)]),
    "hard-labels": lambda _, problem: HeadDescent(problem, "hard-labels", [Target(0, 0.0)]),
    "knn": lambda _, problem: HeadDescent(problem, "knn", NEIGHBOUR_TARGETS),
    "ridge": lambda _, problem: RidgeStage(problem),
    "reinforce": lambda settings, problem: ReinforceStage(problem, rounds=settings.iterations or PAPER_ITERATIONS),
    "random-search": lambda settings, problem: _from_zero(settings, problem, "random-search", step=0.5),
}

"""A floor under prompts that nothing like was seen of: whom to ask there, learned by leaving kinds of prompts out.

What is in the validation split is like what is in the train split, so it cannot say what happens to anything else. So
heads are fitted without some kinds of prompts, and how far from the rest a prompt may lie is chosen by what becomes of
those that were left out (docs/method.md, section 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from .head import Head
from .problem import Problem

FOLDS = 5
KINDS = 40
"""Into how many kinds prompts are parted to leave some out: about as many as there are templates in a large table."""
CENTRES = 128
"""How many kinds a guard knows at most: more of them than templates, so that each is narrow."""
_LEAST_ROWS = 16
SHARES = (1.0, 0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
"""How many of the prompts of kinds that were seen may be followed, the most first."""
MEAN_LOSS, WORST_LOSS = 0.005, 0.01
"""What routing may lose against the best single agent on kinds left out: in the mean of all folds, and in the worst."""
_ROUNDS = 25


@dataclass(frozen=True, eq=False)
class KnownKinds:
    """What was trained on: centres of hidden vectors at length 1 [kinds, hidden], and the spread about each [kinds]."""

    centres: np.ndarray
    spreads: np.ndarray

    @classmethod
    def of(cls, hidden: np.ndarray, seed: int = 0, count: int = CENTRES) -> KnownKinds:
        """Of ``hidden`` [rows, hidden]. A kind of few rows has half of its spread from what is usual."""
        unit, kinds = _unit(hidden), kinds_of(hidden, seed, max(1, min(count, len(hidden) // _LEAST_ROWS)))
        names = np.unique(kinds)
        centres = np.stack([unit[kinds == name].mean(0) for name in names])
        squares = np.array(
            [((unit[kinds == name] - centre) ** 2).sum(1).mean() for name, centre in zip(names, centres, strict=True)]
        )
        usual = float(np.median(squares)) or 1e-6
        return cls(centres, np.sqrt((squares + usual) / 2.0))

    @property
    def rows(self) -> np.ndarray:
        """As a bundle holds them [kinds, hidden + 1]: with a 1 after a vector of length 1, squares of distances."""
        constants = 1.0 + (self.centres**2).sum(1, keepdims=True)
        rows: np.ndarray = np.concatenate([-2.0 * self.centres, constants], axis=1) / self.spreads[:, None] ** 2
        return rows

    def distances(self, hidden: np.ndarray) -> np.ndarray:
        """How far each row of ``hidden`` [n, hidden] is from the nearest kind, in spreads: [n]."""
        squares = np.concatenate([_unit(hidden), np.ones((len(hidden), 1))], axis=1) @ self.rows.T
        distances: np.ndarray = np.sqrt(np.maximum(squares.min(1), 0.0))
        return distances


@dataclass(frozen=True, slots=True)
class Trial:
    """What a limit came to that follows ``share`` of what is seen: gains over the best single agent.

    ``seen`` is the mean on validation rows of the kinds that were fitted on, ``unseen`` that on kinds left out, and
    ``worst`` the least of a fold of these.
    """

    share: float
    seen: float
    unseen: float
    worst: float

    @property
    def holds(self) -> bool:
        """Whether unseen kinds lose as little as they may."""
        return self.unseen >= -MEAN_LOSS and self.worst >= -WORST_LOSS


@dataclass(frozen=True, eq=False)
class Guard:
    """Ask ``slot`` where a prompt is farther than ``limit`` from all ``kinds``; ``chosen`` is one of ``trials``."""

    slot: int
    limit: float
    kinds: KnownKinds
    chosen: Trial
    trials: tuple[Trial, ...]

    def choose(self, logits: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """The choice for each row of ``logits`` [rows, agents] of ``hidden`` [rows, hidden]."""
        return np.where(self.kinds.distances(hidden) > self.limit, self.slot, logits.argmax(1))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the kinds themselves."""
        return {
            "slot": self.slot,
            "distance": self.limit,
            "kinds": len(self.kinds.centres),
            "chosen": asdict(self.chosen),
            "holds": self.chosen.holds,
            "trials": [asdict(trial) for trial in self.trials],
        }


def learn_guard(
    train: Problem, validation: Problem, fit: Callable[[Problem], Head], groupings: Sequence[np.ndarray] = ()
) -> Guard | None:
    """The guard for a router that ``fit`` gives; None where there is one kind of prompts alone, or one agent.

    Kinds are parted into folds; each fold is routed by a head fitted on the train rows of the others, and a limit
    follows a share of the validation rows of those. The highest share is taken that holds with all lower ones.

    Args:
        train: the train split, with the hidden vectors that will be routed by.
        validation: the same for the validation split.
        fit: gives a head from some rows of ``train``.
        groupings: kinds of the rows of train and validation, besides those that their hidden vectors make.
    """
    if train.utility.shape[1] < 2:
        return None
    hidden = np.concatenate([train.hidden, validation.hidden])
    parted = [kinds for kinds in (kinds_of(hidden, train.seed), *groupings) if len(np.unique(kinds)) > 1]
    folds = [fold for kinds in parted for fold in _folds(train, validation, fit, kinds)]
    if not folds:
        return None
    trials = tuple(_trial(folds, share) for share in SHARES)
    holding = next((place for place in range(len(trials)) if all(each.holds for each in trials[place:])), None)
    chosen = max(trials, key=lambda trial: trial.worst) if holding is None else trials[holding]
    kinds = KnownKinds.of(train.hidden, train.seed)
    limit = float(np.quantile(kinds.distances(validation.hidden), chosen.share))
    return Guard(int(train.utility.mean(0).argmax()), limit, kinds, chosen, trials)


def kinds_of(hidden: np.ndarray, seed: int = 0, count: int = KINDS) -> np.ndarray:
    """Which of ``count`` kinds each row of ``hidden`` [rows, hidden] is of, by k-means on directions: int [rows].

    Categories are often too broad: one may hold several kinds of prompts, and a new kind may come in any of them.
    """
    unit = _unit(hidden)
    draw = np.random.default_rng([seed, 3])
    centres = unit[draw.choice(len(unit), min(count, len(unit)), replace=False)]
    kinds = np.zeros(len(unit), dtype=int)
    for _ in range(_ROUNDS):
        kinds = (unit @ centres.T - 0.5 * (centres**2).sum(1)).argmax(1)
        held = np.unique(kinds)
        centres[held] = [unit[kinds == kind].mean(0) for kind in held]
    return kinds


@dataclass(frozen=True, eq=False)
class _Fold:
    """Rows that a head was tried on, seen or left out: how far from what it was fitted on, and what it gains."""

    seen_distances: np.ndarray
    seen_gains: np.ndarray
    distances: np.ndarray
    gains: np.ndarray

    def under(self, share: float) -> tuple[float, float]:
        """Mean gains on what is seen and on what is not, with the limit that follows ``share`` of what is seen."""
        limit = np.quantile(self.seen_distances, share)
        seen = (self.seen_gains * (self.seen_distances <= limit)).mean()
        return float(seen), float((self.gains * (self.distances <= limit)).mean())


def _folds(train: Problem, validation: Problem, fit: Callable[[Problem], Head], kinds: np.ndarray) -> Iterator[_Fold]:
    """One fold after the other, each with rows on both sides."""
    names = np.random.default_rng([train.seed, 4]).permutation(np.unique(kinds))
    number = {name: index % FOLDS for index, name in enumerate(names.tolist())}
    fold_of = np.array([number[kind] for kind in kinds.tolist()])
    of_train, of_validation = np.split(fold_of, [len(train.train)])
    for fold in np.unique(fold_of):
        others, seen = of_train != fold, of_validation != fold
        if others.sum() < 2 or not seen.any() or (others.all() and seen.all()):
            continue
        fitted = _rows(train, others)
        known, head, slot = KnownKinds.of(fitted.hidden, train.seed), fit(fitted), int(fitted.utility.mean(0).argmax())
        left = [(_rows(train, ~others)), _rows(validation, ~seen)]
        tried = _rows(validation, seen)
        yield _Fold(
            known.distances(tried.hidden),
            _gains(tried, head, slot),
            np.concatenate([known.distances(each.hidden) for each in left]),
            np.concatenate([_gains(each, head, slot) for each in left]),
        )


def _gains(problem: Problem, head: Head, slot: int) -> np.ndarray:
    """What routing by ``head`` gains over always asking ``slot``, for each row."""
    rows = np.arange(len(problem.utility))
    gains: np.ndarray = problem.utility[rows, head.logits(problem.hidden).argmax(1)] - problem.utility[:, slot]
    return gains


def _trial(folds: Sequence[_Fold], share: float) -> Trial:
    seen, unseen = np.array([fold.under(share) for fold in folds]).T
    return Trial(share, float(seen.mean()), float(unseen.mean()), float(unseen.min()))


def _unit(hidden: np.ndarray) -> np.ndarray:
    unit: np.ndarray = hidden / np.maximum(np.linalg.norm(hidden, axis=1, keepdims=True), 1e-12)
    return unit


def _rows(problem: Problem, chosen: np.ndarray) -> Problem:
    return replace(problem, train=problem.train[chosen], utility=problem.utility[chosen], hidden=problem.hidden[chosen])

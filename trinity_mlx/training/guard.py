"""A floor under prompts that nothing like was seen of: whom to ask where no agent leads clearly, learned on train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .head import Head
from .stages import Problem

FOLDS = 5
KINDS = 40
LEVELS = 40
_ROUNDS = 25


@dataclass(frozen=True, slots=True)
class Guard:
    """Ask ``slot`` where the router's margin is below ``margin``: a policy's ``default_slot`` and ``floor_margin``.

    ``unguarded`` and ``guarded`` are what routing came to on kinds of prompts that it had not been fitted on, less what
    the best single agent came to there.
    """

    slot: int
    margin: float
    unguarded: float
    guarded: float

    def choose(self, logits: np.ndarray) -> np.ndarray:
        """The choice for each row of ``logits`` [rows, agents]."""
        return np.where(margins(logits) < self.margin, self.slot, logits.argmax(1))


def learn_guard(problem: Problem, kinds: np.ndarray, fit: Callable[[Problem], Head]) -> Guard | None:
    """The guard for a router that ``fit`` gives; None where there is one kind of prompts alone, or one agent.

    The kinds are parted into folds; each fold is routed by a head fitted on the others. The margin is the one with the
    highest mean score there, and where several are level, the largest: on what is unseen, caution costs nothing.

    Args:
        problem: the train split.
        kinds: the kind of each of its rows.
        fit: gives a head from some of its rows.
    """
    names = np.unique(kinds)
    if len(names) < 2 or problem.utility.shape[1] < 2:
        return None
    fold_of = dict(zip(names.tolist(), (np.arange(len(names)) % FOLDS).tolist(), strict=True))
    folds = np.array([fold_of[kind] for kind in kinds.tolist()])
    logits, single = np.zeros_like(problem.utility), np.zeros(len(kinds))
    for fold in np.unique(folds):
        held = folds == fold
        others = _rows(problem, ~held)
        logits[held] = fit(others).logits(problem.hidden[held])
        single[held] = problem.utility[held, others.utility.mean(0).argmax()]
    return _best(problem, logits, single)


def kinds_of(hidden: np.ndarray, seed: int = 0, count: int = KINDS) -> np.ndarray:
    """Which of ``count`` kinds each row of ``hidden`` [rows, hidden] is of, by k-means on directions: int [rows].

    Categories are often too broad: one may hold several kinds of prompts, and a new kind may come in any of them.
    """
    unit = hidden / np.maximum(np.linalg.norm(hidden, axis=1, keepdims=True), 1e-12)
    draw = np.random.default_rng([seed, 3])
    centres = unit[draw.choice(len(unit), min(count, len(unit)), replace=False)]
    kinds = np.zeros(len(unit), dtype=int)
    for _ in range(_ROUNDS):
        kinds = (unit @ centres.T - 0.5 * (centres**2).sum(1)).argmax(1)
        held = np.unique(kinds)
        centres[held] = [unit[kinds == kind].mean(0) for kind in held]
    return kinds


def margins(logits: np.ndarray) -> np.ndarray:
    """Largest logit less the second largest, [rows]."""
    ordered = np.sort(logits, axis=1)
    lead: np.ndarray = ordered[:, -1] - ordered[:, -2]
    return lead


def _best(problem: Problem, logits: np.ndarray, single: np.ndarray) -> Guard:
    rows = np.arange(len(single))
    routed, lead = problem.utility[rows, logits.argmax(1)], margins(logits)
    levels = [0.0, *np.quantile(lead, np.linspace(0.0, 1.0, LEVELS)), float(lead.max()) * 1.001]
    worth = [float(np.where(lead < level, single, routed).mean()) for level in levels]
    best = max(range(len(levels)), key=lambda index: (worth[index], index))
    slot, level = int(problem.utility.mean(0).argmax()), float(single.mean())
    return Guard(slot, float(levels[best]), worth[0] - level, worth[best] - level)


def _rows(problem: Problem, chosen: np.ndarray) -> Problem:
    return replace(problem, train=problem.train[chosen], utility=problem.utility[chosen], hidden=problem.hidden[chosen])

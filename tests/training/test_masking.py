"""A router that can lose an agent without a new training: trained with some agents left out at random."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np

from trinity_mlx.training.objective import Objective, choose_allowed
from trinity_mlx.training.problem import Problem
from trinity_mlx.training.settings import Settings, stages_for
from trinity_mlx.training.trainer import Trainer

from .test_trainer import problem

AGENTS = 4


def one_better_everywhere(each: Problem) -> Problem:
    """One agent leads on every row, and among the others it depends on the row."""
    utility = 0.5 * each.utility
    utility[:, 0] = 0.9
    return replace(each, utility=utility)


def without_the_leader(objective: Objective, seed: int) -> float:
    """The share of the gap, among the agents that are left, that a router closes which was trained with all of them."""
    train, val = (one_better_everywhere(problem(seed=each)) for each in (0, 5))
    train = replace(train, objective=objective, seed=seed)
    settings = Settings("sep-cma-es", offsets=False, iterations=250, patience=250, seed=seed, objective=objective)
    progress = Trainer(train, replace(val, objective=objective), stages_for(settings, train)).run()
    test = one_better_everywhere(problem(seed=77, rows=800))
    allowed = np.array([False, True, True, True])
    choices = choose_allowed(progress.best.head.logits(test.hidden), allowed)
    found = float(Objective().value(choices, test.utility))
    single, best = test.utility[:, 1:].mean(0).max(), test.utility[:, 1:].max(1).mean()
    return float((found - single) / (best - single))


def test_a_router_trained_with_masks_chooses_well_among_those_that_are_left() -> None:
    masked = [without_the_leader(Objective(keep=2), seed) for seed in range(2)]
    whole = [without_the_leader(Objective(), seed) for seed in range(2)]
    assert min(masked) >= 0.7
    assert min(masked) > max(whole)


def test_worth_is_the_mean_over_who_may_be_there() -> None:
    draw = np.random.default_rng(0)
    logits, utility = draw.normal(size=(50, 4)), draw.random((50, 4))
    each = [
        np.take_along_axis(utility[:, list(pair)], logits[:, list(pair)].argmax(1)[:, None], 1).mean()
        for pair in combinations(range(4), 2)
    ]
    assert np.isclose(Objective(keep=2).worth(logits, utility), np.mean(each))
    assert np.isclose(Objective().worth(logits, utility), utility[np.arange(50), logits.argmax(1)].mean())
    many = Objective(keep=8)
    logits, utility = draw.normal(size=(50, 16)), draw.random((50, 16))
    assert many.worth(logits, utility) == many.worth(logits, utility) < Objective().worth(utility, utility)

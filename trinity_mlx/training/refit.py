"""The last word of the default recipe: once val has chosen, its rows may teach as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .head import Head, head_of
from .problem import Candidate, Problem
from .stages import Stage
from .stages.head_descent import HeadDescent
from .stages.ridge import RidgeStage
from .trainer import Progress

Fitted = RidgeStage | HeadDescent
"""The stages whose heads can be fitted again on other rows."""


def refitted(progress: Progress, stages: Sequence[Stage], train: Problem, validation: Problem) -> Candidate:
    """The best candidate with its head fitted again, by the same settings, on train and val together.

    Offsets stay as they are, and so does what later stages added to the fitted head: to its matrix, or to both of a
    low-rank one, whose units mean about the same in both fits, since both begin at the same place. A candidate that no
    fitted stage had a part in is given back.
    """
    best = progress.best
    chosen = chosen_fit(progress, stages)
    if chosen is None:
        return best
    stage, number = chosen
    train, validation = (replace(each, hidden=each.hidden_at(best.offsets)) for each in (train, validation))
    before, after = stage.again(train, number), stage.again(_union(train, validation), number)
    return Candidate(best.offsets, _moved(after, before, best.head))


def _moved(head: Head, before: Head, after: Head) -> Head:
    """``head`` with what leads from ``before`` to ``after`` added to each of its matrices."""
    start, end = before.arrays(), after.arrays()
    return head_of({name: values + (end[name] - start[name]) for name, values in head.arrays().items()})


def chosen_fit(progress: Progress, stages: Sequence[Stage]) -> tuple[Fitted, int] | None:
    """The last fitted stage that was kept, with its generation that was best on val; None where none was kept."""
    fitted = [stage for stage in stages if stage.name in progress.kept and isinstance(stage, Fitted)]
    return (fitted[-1], _best_generation(progress, fitted[-1].name)) if fitted else None


def _best_generation(progress: Progress, name: str) -> int:
    """The first generation of the stage with its highest score on val."""
    of_stage = [each for each in progress.history if each.stage == name]
    return max(of_stage, key=lambda each: each.val).number


def _union(train: Problem, validation: Problem) -> Problem:
    return replace(
        train,
        train=np.concatenate([train.train, validation.train]),
        utility=np.concatenate([train.utility, validation.utility]),
        hidden=np.concatenate([train.hidden, validation.hidden]),
    )

"""What a descent aims at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .closed_form import nearest_rows
from .descent import hard_labels, soft_targets
from .problem import Problem


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

"""What every stage of a training works on, and what each of them proposes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .features import Features
from .head import Head, HeadKind
from .objective import Objective
from .vector_layout import Layout, Offsets


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


def worth(problem: Problem, hidden: np.ndarray, head: Head) -> float:
    """What the choices of ``head`` on the train rows are worth."""
    return problem.objective.worth(head.logits(hidden), problem.utility)


def typical_length(hidden: np.ndarray) -> float:
    """The length of a row of ``hidden`` [rows, hidden], as a root of the mean square."""
    return float(np.sqrt((hidden**2).sum(1).mean()))

"""What a router is trained for: the score of the agent that it chooses, less what else counts against it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..contracts.errors import TableInvalid, UsageError
from .answers import Answers


@dataclass(frozen=True)
class Objective:
    """Weights of what counts.

    Attributes:
        cost: taken off for each unit of a chosen answer's cost.
        seconds: taken off for each second of it.
        entropy_floor: the least entropy of the shares of agents, in nats; what is missing is taken off.
        keep: how many agents, drawn at random in each generation, may be chosen from; all by default. A router trained
            so can lose an agent without a new training.

    Raises:
        UsageError: a weight is negative, or ``keep`` is below 1.
    """

    cost: float = 0.0
    seconds: float = 0.0
    entropy_floor: float = 0.0
    keep: int | None = None

    def __post_init__(self) -> None:
        if min(self.cost, self.seconds, self.entropy_floor) < 0.0 or (self.keep is not None and self.keep < 1):
            raise UsageError(f"an objective's weights are at least 0, and it keeps at least 1 agent: {self}")

    def utility(self, answers: Answers) -> np.ndarray:
        """What choosing each agent is worth, float64 [rows, agents]; what is unknown is the agent's mean on train.

        Raises:
            TableInvalid: a cost or a time is asked for, and the table has none.
        """
        utility = answers.filled()
        for name, weight, values in (("costs", self.cost, answers.costs), ("seconds", self.seconds, answers.seconds)):
            if weight and np.isnan(values).all():
                raise TableInvalid(f"the objective weighs {name}, and the table has none")
            if weight:
                known = np.nanmean(values, axis=0)
                utility = utility - weight * np.where(np.isnan(values), known, values)
        return utility

    def value(self, choices: np.ndarray, utility: np.ndarray) -> np.ndarray:
        """The worth of ``choices`` [..., rows] under ``utility`` [rows, agents]: [...]."""
        gained = np.take_along_axis(
            np.broadcast_to(utility, (*choices.shape, utility.shape[1])), choices[..., None], -1
        )[..., 0].mean(-1)
        if not self.entropy_floor:
            return np.asarray(gained)
        missing = np.maximum(self.entropy_floor - _entropy(choices, utility.shape[1]), 0.0)
        return np.asarray(gained - missing)

    def allowed(self, agents: int, draw: np.random.Generator) -> np.ndarray:
        """Which agents may be chosen in a generation: bool [agents]."""
        mask = np.ones(agents, dtype=bool)
        if self.keep is not None and self.keep < agents:
            mask[draw.permutation(agents)[self.keep :]] = False
        return mask


def choose_allowed(logits: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """The allowed agent with the largest logit; the lowest index among equals: [...] from [..., agents]."""
    choices: np.ndarray = np.where(allowed, logits, -np.inf).argmax(-1)
    return choices


def _entropy(choices: np.ndarray, agents: int) -> np.ndarray:
    shares = (choices[..., None] == np.arange(agents)).mean(-2)
    entropy: np.ndarray = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(-1)
    return entropy

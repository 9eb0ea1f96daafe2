"""What a router is trained for: the score of the agent that it chooses, less what else counts against it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..contracts.errors import TableInvalid, UsageError
from .answers import Answers
from .closed_form import mean_by_column

_MOST_MASKS = 36


@dataclass(frozen=True)
class Objective:
    """Weights of what counts.

    Attributes:
        cost: taken off for each unit of a chosen answer's cost.
        seconds: taken off for each second of it.
        turns: taken off for each turn of it.
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
    turns: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.cost, self.seconds, self.turns, self.entropy_floor)
        if min(weights) < 0.0 or (self.keep is not None and self.keep < 1):
            raise UsageError(f"an objective's weights are at least 0, and it keeps at least 1 agent: {self}")

    def utility(self, answers: Answers) -> np.ndarray:
        """What choosing each agent is worth, float64 [rows, agents]; what is unknown is the agent's mean on train.

        Raises:
            TableInvalid: something is weighed that the table does not have for an agent.
            UsageError: so many agents cannot be kept, or their shares cannot have so much entropy.
        """
        self._check(len(answers.agents))
        utility = answers.filled()
        for weight, name in ((self.cost, "costs"), (self.seconds, "seconds"), (self.turns, "turns")):
            if weight:
                utility = utility - weight * _known(answers, name)
        return utility

    def _check(self, agents: int) -> None:
        if self.keep is not None and self.keep > agents:
            raise UsageError(f"the objective keeps {self.keep} agents of {agents}")
        if self.entropy_floor > math.log(agents):
            raise UsageError(
                f"the entropy floor is {self.entropy_floor:g} nats: shares of {agents} agents have at most "
                f"{math.log(agents):.4f}"
            )

    def value(self, choices: np.ndarray, utility: np.ndarray) -> np.ndarray:
        """The worth of ``choices`` [..., rows] under ``utility`` [rows, agents]: [...]."""
        gained = np.take_along_axis(
            np.broadcast_to(utility, (*choices.shape, utility.shape[1])), choices[..., None], -1
        )[..., 0].mean(-1)
        if not self.entropy_floor:
            return np.asarray(gained)
        missing = np.maximum(self.entropy_floor - _entropy(choices, utility.shape[1]), 0.0)
        return np.asarray(gained - missing)

    def worth(self, logits: np.ndarray, utility: np.ndarray) -> float:
        """What the choices from ``logits`` [rows, agents] are worth: in the mean over which agents there may be."""
        choices = np.stack([choose_allowed(logits, mask) for mask in self._masks(logits.shape[1])])
        return float(self.value(choices, utility).mean())

    def _masks(self, agents: int) -> np.ndarray:
        """Each way to keep ``keep`` agents, or an even draw of them where they are many: bool [masks, agents]."""
        keep = agents if self.keep is None else min(self.keep, agents)
        if math.comb(agents, keep) > _MOST_MASKS:
            draw = np.random.default_rng(0)
            return np.stack([self.allowed(agents, draw) for _ in range(_MOST_MASKS)])
        kept = list(combinations(range(agents), keep))
        masks = np.zeros((len(kept), agents), dtype=bool)
        np.put_along_axis(masks, np.array(kept), True, 1)
        return masks

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


def _known(answers: Answers, name: str) -> np.ndarray:
    """The table's ``costs``, ``seconds`` or ``turns``, with what is unknown at the agent's mean on train."""
    values: np.ndarray = getattr(answers, name)
    train = values[answers.where("train")]
    for agent, column in zip(answers.agents, train.T, strict=True):
        if np.isnan(column).all():
            raise TableInvalid(f"the objective weighs {name}, and the train rows have none for {agent[:80]}")
    return np.where(np.isnan(values), mean_by_column(train), values)


def _entropy(choices: np.ndarray, agents: int) -> np.ndarray:
    shares = (choices[..., None] == np.arange(agents)).mean(-2)
    entropy: np.ndarray = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(-1)
    return entropy

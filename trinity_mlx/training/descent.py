"""Losses on logits with their slopes, and Adam with its state in plain arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Slope = tuple[float, np.ndarray]
"""A mean loss, and its slope at each logit [rows, agents]."""


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis; what is minus infinity gets nothing."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    shares: np.ndarray = shifted / shifted.sum(-1, keepdims=True)
    return shares


def soft_targets(scores: np.ndarray, temperature: float) -> np.ndarray:
    """``softmax(scores / temperature)`` [rows, agents]."""
    return softmax(scores / temperature)


def hard_labels(scores: np.ndarray) -> np.ndarray:
    """All on the best agent; evenly on the best ones where several are [rows, agents]."""
    best = scores >= scores.max(-1, keepdims=True) - 1e-12
    labels: np.ndarray = best / best.sum(-1, keepdims=True)
    return labels


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> Slope:
    """Against ``targets`` that sum to one in each row."""
    shares = softmax(logits)
    loss = -(targets * np.log(np.maximum(shares, 1e-12))).sum(-1).mean()
    return float(loss), (shares - targets) / len(logits)


def reinforce(logits: np.ndarray, rewards: np.ndarray, draw: np.random.Generator) -> Slope:
    """REINFORCE: an agent drawn for each row, its reward against the mean; the loss is minus the mean reward."""
    shares = softmax(logits)
    chosen = (shares.cumsum(-1) > draw.random(len(logits))[:, None]).argmax(-1)
    gained = np.take_along_axis(rewards, chosen[:, None], 1)[:, 0]
    taken = np.zeros_like(shares)
    np.put_along_axis(taken, chosen[:, None], 1.0, 1)
    advantage = gained - gained.mean()
    return -float(gained.mean()), (shares - taken) * advantage[:, None] / len(logits)


class Adam:
    """Adam for one array of numbers."""

    def __init__(self, size: int, rate: float) -> None:
        self.rate = rate
        self._first = np.zeros(size)
        self._second = np.zeros(size)
        self._steps = 0

    def step(self, numbers: np.ndarray, slope: np.ndarray) -> np.ndarray:
        """The numbers after one step downhill."""
        self._steps += 1
        self._first = 0.9 * self._first + 0.1 * slope
        self._second = 0.999 * self._second + 0.001 * slope**2
        mean = self._first / (1 - 0.9**self._steps)
        spread = self._second / (1 - 0.999**self._steps)
        moved: np.ndarray = numbers - self.rate * mean / (np.sqrt(spread) + 1e-8)
        return moved

    def state(self) -> dict[str, np.ndarray]:
        """Moments and the number of steps."""
        return {"first": self._first, "second": self._second, "steps": np.array([self._steps], dtype=np.float64)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from ``state``."""
        self._first, self._second = np.array(state["first"]), np.array(state["second"])
        self._steps = int(state["steps"][0])

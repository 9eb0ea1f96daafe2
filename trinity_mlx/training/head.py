"""A head in training: what turns hidden vectors into logits, and its slopes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

ALPHA = 0.1
"""Of the ELU of low-rank heads, as published (docs/method.md, section 1)."""
FAITHFUL = 0.05
"""How far the activations of a linear map may reach that is written as a low-rank one: less is nearer to linear."""


@dataclass(frozen=True, eq=False)
class Head:
    """``matrix @ hidden``, or ``matrix @ elu(inner @ hidden)`` where there is an ``inner`` [rank, hidden].

    ``matrix`` is float64 [rows, hidden], or [rows, rank].
    """

    matrix: np.ndarray
    inner: np.ndarray | None = None

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """Of ``hidden`` [..., hidden]: [..., rows]."""
        values = hidden if self.inner is None else elu(hidden @ self.inner.T)
        logits: np.ndarray = values @ self.matrix.T
        return logits

    def pulled(self, slope: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """From the slope at the logits [n, rows] of ``hidden`` [n, hidden] to the slope at ``hidden``."""
        outer = slope @ self.matrix
        if self.inner is None:
            return cast(np.ndarray, outer)
        return cast(np.ndarray, (outer * elu_slope(hidden @ self.inner.T)) @ self.inner)

    def arrays(self) -> dict[str, np.ndarray]:
        """Its matrices by name; ``Head(**arrays)`` is the same head."""
        return {"matrix": self.matrix} | ({} if self.inner is None else {"inner": self.inner})


class HeadKind(Protocol):
    """A family of heads that numbers stand for."""

    def size(self, rows: int, hidden: int) -> int:
        """How many numbers a head of ``rows`` logits takes."""

    def head(self, numbers: np.ndarray, rows: int, hidden: int) -> Head:
        """The head that ``numbers`` [size] stand for."""

    def fitted(self, head: Head) -> np.ndarray:
        """The numbers whose head is nearest to ``head``; of a head of zeros, ones that can still be moved."""

    def pulled(self, slope: np.ndarray, hidden: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """From the slope at the logits [n, rows] of ``hidden`` [n, hidden] to the slope at ``numbers``."""

    def unit(self, length: float) -> float:
        """By how much a number moves a logit by about 1, where hidden vectors have ``length``."""


def elu(values: np.ndarray) -> np.ndarray:
    """``x`` where it is positive, ``ALPHA * (exp(x) - 1)`` elsewhere."""
    activated: np.ndarray = np.maximum(values, 0.0) + ALPHA * np.expm1(np.minimum(values, 0.0))
    return activated


def elu_slope(values: np.ndarray) -> np.ndarray:
    """The slope of ``elu`` at ``values``."""
    return np.where(values > 0.0, 1.0, ALPHA * np.exp(np.minimum(values, 0.0)))


def all_logits(heads: Sequence[Head], hidden: np.ndarray) -> np.ndarray:
    """Of heads of one shape, in one product: [heads, n, rows] for ``hidden`` [n, hidden]."""
    first = np.concatenate([head.matrix if head.inner is None else head.inner for head in heads])
    values = (hidden @ first.T).reshape(len(hidden), len(heads), -1).swapaxes(0, 1)
    if heads[0].inner is None:
        return cast(np.ndarray, values)
    return cast(np.ndarray, elu(values) @ np.stack([head.matrix for head in heads]).swapaxes(1, 2))


def paired(matrix: np.ndarray, left: np.ndarray, reach: float) -> Head:
    """A low-rank head that stands for ``left @ matrix``: each row of ``matrix`` [k, hidden] as two units.

    ``elu(x) - elu(-x)`` is odd, grows with ``x``, and is ``(1 + ALPHA) * x`` where ``x`` is small. So with ``left`` the
    identity, the largest logit stays the largest whatever the ``reach``, which scales the longest row.
    """
    longest = float(np.linalg.norm(matrix, axis=1).max(initial=0.0))
    scale = reach / longest if longest else 1.0
    outer = left / (scale * (1.0 + ALPHA))
    return Head(np.concatenate([outer, -outer], axis=1), scale * np.concatenate([matrix, -matrix]))


def stacked(upper: Head, lower: Head, length: float) -> Head:
    """One head with the logits of both, ``upper``'s first; linear where both are.

    ``length`` is that of a hidden vector: a linear part beside a low-rank one is written as units that stay small.
    """
    if upper.inner is None and lower.inner is None:
        return Head(np.concatenate([upper.matrix, lower.matrix]))
    parts = [_low_rank(part, length) for part in (upper, lower)]
    widths = [part.matrix.shape[1] for part in parts]
    above = np.pad(parts[0].matrix, ((0, 0), (0, widths[1])))
    below = np.pad(parts[1].matrix, ((0, 0), (widths[0], 0)))
    return Head(np.concatenate([above, below]), np.concatenate([cast(np.ndarray, part.inner) for part in parts]))


def head_of(arrays: Mapping[str, np.ndarray]) -> Head:
    """The head whose ``arrays`` these are."""
    return Head(arrays["matrix"], arrays.get("inner"))


def _low_rank(head: Head, length: float) -> Head:
    if head.inner is not None:
        return head
    rows, hidden = head.matrix.shape
    if not head.matrix.any():
        return Head(np.zeros((rows, 0)), np.zeros((0, hidden)))
    return paired(head.matrix, np.eye(rows), FAITHFUL / length)

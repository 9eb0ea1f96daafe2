"""The published non-linear head: two matrices with an ELU between them (docs/method.md, section 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .head import Head, elu, elu_slope, paired

RANK = 20
"""The rank at which the published count of parameters comes out."""
REACH = 1.0
"""How far the activations of a head reach that begins as a linear one."""


@dataclass(frozen=True)
class LowRank:
    """Heads ``W elu(V h)`` of one rank.

    Its numbers are ``V * length`` and ``W``, so that all of them are about 1.

    Attributes:
        rank: rows of ``V``.
        length: that of a hidden vector.
        seed: fixes the directions of units that stand for nothing yet.
    """

    rank: int = RANK
    length: float = 1.0
    seed: int = 0

    def size(self, rows: int, hidden: int) -> int:
        """Two matrices without biases."""
        return self.rank * (rows + hidden)

    def head(self, numbers: np.ndarray, rows: int, hidden: int) -> Head:
        """The numbers of ``V`` come first."""
        inner, matrix = np.split(numbers, [self.rank * hidden])
        return Head(matrix.reshape(rows, self.rank), inner.reshape(self.rank, hidden) / self.length)

    def fitted(self, head: Head) -> np.ndarray:
        """Of a linear head: its rows, or as many of its main directions as the rank has room for, in pairs of units.

        What units are left begin in directions drawn at random, with no say in any logit.
        """
        if head.inner is None:
            head = self._filled(paired(*self._parted(head.matrix), REACH / self.length))
        inner, matrix = head.arrays()["inner"], head.matrix
        if len(inner) != self.rank:
            raise ValueError(f"a head of rank {len(inner)} is none of rank {self.rank}")
        return np.concatenate([(inner * self.length).ravel(), matrix.ravel()])

    def pulled(self, slope: np.ndarray, hidden: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Through both matrices."""
        head = self.head(numbers, slope.shape[1], hidden.shape[1])
        before = hidden @ head.arrays()["inner"].T
        inner = ((slope @ head.matrix) * elu_slope(before)).T @ hidden / self.length
        return np.concatenate([inner.ravel(), (slope.T @ elu(before)).ravel()])

    def unit(self, length: float) -> float:
        """1: the length is in the numbers already."""
        return 1.0

    def _parted(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``right`` [k, hidden] and ``left`` [rows, k] whose product is as near to ``matrix`` as the rank allows."""
        if len(matrix) <= self.rank // 2:
            return matrix, np.eye(len(matrix))
        left, singular, right = np.linalg.svd(matrix, full_matrices=False)
        kept = self.rank // 2
        return singular[:kept, None] * right[:kept], left[:, :kept]

    def _filled(self, head: Head) -> Head:
        inner = head.arrays()["inner"]
        missing = self.rank - len(inner)
        drawn = np.random.default_rng([self.seed, 4]).normal(size=(missing, inner.shape[1])) * REACH
        idle = np.zeros((len(head.matrix), missing))
        return Head(np.hstack([head.matrix, idle]), np.concatenate([inner, drawn / self.length]))

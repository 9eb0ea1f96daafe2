"""The stages of singular-value fine-tuning, one block of a matrix at a time, so that two systems can be compared.

With ``W = U diag(S) V^T`` [rows, columns] and offsets ``d`` [k], ``k = min(rows, columns)``:

    scaled_s            S * (1 + d)
    normalization       sum(S) / sum(scaled_s)
    u_scaled            U * scaled_s                      column by column
    matmul_pre_norm     u_scaled @ V^T
    zero_source_f32     (U * S) @ V^T                     the source again, were arithmetic exact
    adapted_source_f32  normalization * matmul_pre_norm

A block is all columns of some rows of a tall matrix, or all rows of some columns of a wide one. Large products are left
to a ``Product``, so the same stages run in numpy and on any device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np

from ..files.safetensors_writer import Block

Product = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``left @ right``, [n, k] and [k, m] to [n, m], in a number type of its own choice."""

Stages = dict["Stage", np.ndarray]


class Stage(StrEnum):
    """The stages by their published names, in the order in which they follow from each other."""

    SOURCE = "source_f32"
    OFFSETS = "offsets_f32"
    SCALED_S = "scaled_s"
    NORMALIZATION = "normalization"
    U_SCALED = "u_scaled"
    PRE_NORM = "matmul_pre_norm"
    ZERO = "zero_source_f32"
    ADAPTED = "adapted_source_f32"
    FINAL = "final_f32"
    FINAL_BF16 = "final_bf16"


@dataclass(frozen=True)
class Components:
    """``W = u @ diag(s) @ v.T`` in one float type: ``u`` [rows, k], ``s`` [k] descending, ``v`` [columns, k]."""

    u: np.ndarray
    s: np.ndarray
    v: np.ndarray


@dataclass(frozen=True)
class Scaling:
    """What offsets do to singular values: ``gains = 1 + d`` and ``scaled`` [k], and the normalization."""

    gains: np.ndarray
    scaled: np.ndarray
    norm: np.floating

    @classmethod
    def of(cls, singular: np.ndarray, offsets: np.ndarray) -> Scaling:
        """Computed in the float type of ``singular``.

        Raises:
            ValueError: the counts differ, or the scaled values sum to zero.
        """
        if singular.shape != offsets.shape:
            raise ValueError(f"{singular.size} singular values take {singular.size} offsets, not {offsets.size}")
        gains = 1 + offsets.astype(singular.dtype)
        scaled = singular * gains
        total = scaled.sum()
        if total == 0:
            raise ValueError("the offsets bring the sum of the scaled singular values to zero: nothing to normalise by")
        return cls(gains, scaled, singular.sum() / total)


class StageMaker(Protocol):
    """A way to the stages of one matrix."""

    @property
    def scaling(self) -> Scaling:
        """The scaled singular values and the normalization."""

    def block(self, source: np.ndarray, block: Block) -> Stages:
        """``U_SCALED``, ``PRE_NORM``, ``ZERO`` and ``ADAPTED`` of ``source``, which is ``W[block]``.

        All are shaped as ``source``, but for ``U_SCALED``: [rows of the block, k].
        """


@dataclass(frozen=True)
class FromComponents:
    """Stages from a decomposition that somebody made, by their definitions; the source plays no part."""

    components: Components
    scaling: Scaling
    product: Product

    def block(self, source: np.ndarray, block: Block) -> Stages:
        """See ``StageMaker.block``."""
        u, v = self.components.u[block[0]], self.components.v[block[1]]
        u_scaled = u * self.scaling.scaled
        pre_norm = self.product(u_scaled, v.T)
        return {
            Stage.U_SCALED: u_scaled,
            Stage.PRE_NORM: pre_norm,
            Stage.ZERO: self.product(u * self.components.s, v.T),
            Stage.ADAPTED: pre_norm * pre_norm.dtype.type(self.scaling.norm),
        }


@dataclass(frozen=True)
class FromTallGram:
    """Stages of a matrix at least as tall as wide from the eigenvectors of ``W^T W`` alone.

    ``vectors`` is ``V`` [columns, k] in float64. ``U`` is never formed: ``U * S = W @ V``, summed in float64 as the
    Gram matrix is, and ``u_scaled = (W @ V) * (1 + d)``. What is made from these is left to ``product``.
    ``ADAPTED`` is what an export writes: ``W @ R = W + W @ (R - I)``, with ``change`` for ``R - I``.
    """

    vectors: np.ndarray
    change: np.ndarray
    scaling: Scaling
    product: Product

    def block(self, source: np.ndarray, block: Block) -> Stages:
        """See ``StageMaker.block``."""
        projected = source.astype(np.float64) @ self.vectors
        u_scaled = projected * self.scaling.gains
        return {
            Stage.U_SCALED: u_scaled,
            Stage.PRE_NORM: self.product(u_scaled, self.vectors.T),
            Stage.ZERO: self.product(projected, self.vectors.T),
            Stage.ADAPTED: source + self.product(source, self.change),
        }


@dataclass(frozen=True)
class FromWideGram:
    """Stages of a matrix wider than tall from the eigenvectors of ``W W^T`` alone.

    ``vectors`` is ``U`` [rows, k] in float64, so ``u_scaled`` is its definition. ``V`` is never formed:
    ``S * V^T = U^T @ W``, summed in float64 as the Gram matrix is. What is made from it is left to ``product``.
    ``ADAPTED`` is what an export writes: ``L @ W = W + (L - I) @ W``, with ``change`` for ``L - I``.
    """

    vectors: np.ndarray
    change: np.ndarray
    scaling: Scaling
    product: Product

    def block(self, source: np.ndarray, block: Block) -> Stages:
        """See ``StageMaker.block``."""
        projected = self.vectors.T @ source.astype(np.float64)
        return {
            Stage.U_SCALED: self.vectors * self.scaling.scaled,
            Stage.PRE_NORM: self.product(self.vectors * self.scaling.gains, projected),
            Stage.ZERO: self.product(self.vectors, projected),
            Stage.ADAPTED: source + self.product(self.change, source),
        }


def relative_gap(singular: np.ndarray) -> float:
    """The smallest distance of two neighbouring singular values, relative to the largest value.

    Where it is small, the two vectors are nearly arbitrary in the plane that they span. 1.0 for a single value, and 0.0
    where all are zero.
    """
    if singular.size < 2:
        return 1.0
    largest = float(singular[0])
    return float(np.min(np.abs(np.diff(singular)))) / largest if largest else 0.0

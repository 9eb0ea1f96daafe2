"""Decompositions as other programs give them, and the one factor that says the same about a base."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..contracts.artifact import Execution, TensorLocation
from ..contracts.errors import BaseMismatch, BundleInvalid
from ..factorization.gram import Spectrum
from ..factorization.stages import Components, FromComponents, Scaling, Stage
from ..factorization.svf import Factor, change_of, execution_for
from ..factorization.tiles import blocks
from ..files.safetensors import as_floats, map_tensor

TOLERANCE = 1e-3
"""How far components may be from a base, relative to its largest entry: more means another base, or another order."""


@dataclass(frozen=True)
class OffsetComponents:
    """One tensor's ``u`` [rows, k], ``s`` [k], ``v`` [columns, k], and the offset [k] of each singular value."""

    components: Components
    offsets: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Of the tensor: [rows, columns]."""
        return len(self.components.u), len(self.components.v)

    def factor(self) -> Factor:
        """The change to a base, from the given vectors and the given order, whatever another decomposition would say.

        Raises:
            ValueError: the scaled singular values sum to zero.
        """
        execution = execution_for(self.shape)
        vectors = self.components.v if execution is Execution.RIGHT else self.components.u
        singular = self.components.s.astype(np.float64)
        scaling = Scaling.of(singular, self.offsets)
        spectrum = Spectrum(singular, vectors.astype(np.float64))
        return Factor(execution, change_of(spectrum, scaling.gains * scaling.norm))


@dataclass(frozen=True)
class Fidelity:
    """Largest differences, each relative to the largest entry of what was expected.

    ``zero``: the product of the components against the base. ``adapted``: the factor applied to the base against the
    product of the components with their scaled singular values.
    """

    zero: float
    adapted: float


def faithful_factor(name: str, given: OffsetComponents, weight: TensorLocation) -> tuple[Factor, Fidelity]:
    """The factor that ``given`` stands for, and how well it and the base's tensor ``weight`` agree with ``given``.

    Raises:
        BaseMismatch: they differ by more than ``TOLERANCE``.
        BundleInvalid: the offsets leave nothing to normalise by.
    """
    try:
        factor = given.factor()
        fidelity = _compare(given, factor, weight)
    except ValueError as error:
        raise BundleInvalid(f"{name}: {error}") from None
    if not (fidelity.zero <= TOLERANCE and fidelity.adapted <= TOLERANCE):
        raise BaseMismatch(
            f"the components of {name} are not of this base: they miss it by {fidelity.zero:.1e} of its largest entry "
            f"(with offsets by {fidelity.adapted:.1e}), and at most {TOLERANCE:.0e} is taken; name the base that "
            f"was decomposed"
        )
    return factor, fidelity


def _compare(given: OffsetComponents, factor: Factor, weight: TensorLocation) -> Fidelity:
    """Both differences, block by block in float32."""
    parts = given.components
    singular = parts.s.astype(np.float32)
    stages = FromComponents(Components(parts.u, singular, parts.v), Scaling.of(singular, given.offsets), np.matmul)
    applied = Factor(factor.execution, factor.change.astype(np.float32))
    matrix, zero, adapted = map_tensor(weight), _Difference(), _Difference()
    for block in blocks(given.shape):
        source = as_floats(matrix[block])
        made = stages.block(source, block)
        zero.see(made[Stage.ZERO], source)
        adapted.see(applied.apply(source), made[Stage.ADAPTED])
    return Fidelity(zero.relative, adapted.relative)


class _Difference:
    """The largest difference seen so far, and the largest entry of what was expected; NaN stays."""

    def __init__(self) -> None:
        self._difference = 0.0
        self._scale = 0.0

    def see(self, values: np.ndarray, expected: np.ndarray) -> None:
        self._difference = float(np.maximum(self._difference, np.abs(values - expected).max()))
        self._scale = float(np.maximum(self._scale, np.abs(expected).max()))

    @property
    def relative(self) -> float:
        return self._difference / self._scale if self._scale else self._difference

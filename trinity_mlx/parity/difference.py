"""How far two tensors in files are apart, in chunks of bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import EllipsisType

import numpy as np

from ..contracts.artifact import TensorLocation
from ..factorization.tiles import spans
from ..files.safetensors import as_floats, map_tensor

Advance = Callable[[int], None]
"""Told how many numbers have been worked through."""


@dataclass(frozen=True)
class Difference:
    """How far two tensors of one shape are apart. ``differing`` counts the entries that differ in any bit.

    The largest and the mean are NaN where an entry of either side is, or where both have the same infinity.
    ``turned`` is the number of columns whose sign was changed first, None where signs were taken as they are.
    """

    max_abs: float
    mean_abs: float
    differing: int
    turned: int | None = None


def in_silence(numbers: int) -> None:
    """An ``Advance`` that tells nobody."""


def difference(
    reference: TensorLocation, candidate: TensorLocation, *, align: bool = False, advance: Advance = in_silence
) -> Difference:
    """How far two tensors of one shape are apart; with ``align`` each column of a matrix is compared up to its sign."""
    one, other = map_tensor(reference), map_tensor(candidate)
    signs = _signs(one, other) if align else np.ones(())
    largest, total, differing, count = 0.0, 0.0, 0, 0
    for rows in _parts(reference.shape):
        with np.errstate(invalid="ignore"):
            distance = np.abs(as_floats(other[rows]) * signs - as_floats(one[rows]))  # float64, as ``signs`` are
        largest = float(np.maximum(largest, distance.max(initial=0.0)))
        total += float(distance.sum())
        differing += _differing_bits(one[rows], other[rows])
        count += distance.size
        advance(distance.size)
    turned = int(np.count_nonzero(signs < 0)) if align else None
    return Difference(largest, total / max(count, 1), differing, turned)


def _signs(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """For each column +1 or -1: the sign of its inner product with the reference's column, [columns]."""
    products = np.zeros(reference.shape[-1])
    for rows in spans(*reference.shape):
        products += np.einsum("ij,ij->j", as_floats(reference[rows]), as_floats(candidate[rows]), dtype=np.float64)
    return np.where(products < 0, -1.0, 1.0)


def _parts(shape: tuple[int, ...]) -> Iterator[slice] | Iterator[EllipsisType]:
    """Tiles of a matrix; anything else is small, and taken whole."""
    return spans(*shape) if len(shape) == 2 else iter([...])


def _differing_bits(reference: np.ndarray, candidate: np.ndarray) -> int:
    if reference.dtype != candidate.dtype:
        return reference.size
    unsigned = np.dtype(f"u{reference.dtype.itemsize}")
    return int(np.count_nonzero(np.asarray(reference).view(unsigned) != np.asarray(candidate).view(unsigned)))

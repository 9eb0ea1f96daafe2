"""Singular values and vectors from a Gram matrix that is summed tile by tile.

For ``W = U diag(S) V^T`` [rows, columns] the Gram matrix of the smaller side is ``W^T W = V diag(S^2) V^T`` where ``W``
is tall, and ``W W^T = U diag(S^2) U^T`` where it is wide. Its eigenpairs are all that ``svf`` needs, and neither the
sum nor they ever take more than a tile and a few square matrices.

The sum runs in float64, on the host unless a device has float64 of its own. Float32 tiles of 256 rows, summed in
float64, are ten times too coarse where one singular value dominates (2e-5 of the largest entry after adaptation, and
float64 leaves 2e-12); and numpy's symmetric product does half of the arithmetic, so the exact sum is also no slower.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..contracts.backend import Tick
from ..files.safetensors import as_floats
from .tiles import spans


@dataclass(frozen=True)
class Spectrum:
    """Singular values in descending order [side], and the smaller side's vectors as columns [side, side]; float64."""

    singular: np.ndarray
    vectors: np.ndarray


def gram_matrix(matrix: np.ndarray, tick: Tick | None = None, tile: int | None = None) -> np.ndarray:
    """The Gram matrix of the smaller side of ``matrix``: [columns, columns] if it is tall, else [rows, rows]; float64.

    Args:
        matrix: [rows, columns] of any float type, or BF16 bits as ``uint16``; it may be memory-mapped.
        tick: told of the entries of each tile when it has been added.
        tile: entries to hold in float64 at a time, ``TILE_ELEMENTS`` by default; one row or column at the least.
    """
    rows, columns = matrix.shape
    tall, side = rows >= columns, min(rows, columns)
    total, product = np.zeros((side, side)), np.empty((side, side))
    for span in spans(max(rows, columns), side, tile):
        part = as_floats(matrix[span] if tall else matrix[:, span]).astype(np.float64)
        np.matmul(part.T, part, out=product) if tall else np.matmul(part, part.T, out=product)
        total += product
        if tick:
            tick(part.size)
    return total


def spectrum_of(gram: np.ndarray) -> Spectrum:
    """The singular values and vectors that ``gram`` [side, side] stands for.

    Raises:
        ValueError: ``gram`` holds NaN or infinity, so the matrix did too.
    """
    if not np.isfinite(gram).all():
        raise ValueError("the matrix holds NaN or infinity")
    squares, vectors = np.linalg.eigh(gram)
    return Spectrum(np.sqrt(np.clip(squares[::-1], 0.0, None)), vectors[:, ::-1])

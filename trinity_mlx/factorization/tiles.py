"""Matrices in safetensors files, memory-mapped and read tile by tile.

Numpy has no BF16, so such a matrix is mapped as ``uint16``, and a ``uint16`` tile always means BF16 bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..contracts.artifact import TensorLocation

TILE_ELEMENTS = 2**21
"""Entries of one tile: 16 MiB in float64, enough rows for matrix products to run at full speed."""
_STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def map_matrix(tensor: TensorLocation) -> np.ndarray:
    """``tensor`` [rows, columns] as it is stored, its pages the file's own; writing to the array changes no file."""
    return np.memmap(tensor.path, dtype=_STORED[tensor.dtype], mode="c", offset=tensor.start, shape=tensor.shape)


def widen(tile: np.ndarray) -> np.ndarray:
    """A copy of ``tile`` in float64, exact."""
    if tile.dtype == np.uint16:
        return (tile.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return tile.astype(np.float64)


def spans(length: int, other: int) -> Iterator[slice]:
    """Consecutive parts of an axis of ``length``, each a tile of about ``TILE_ELEMENTS`` with the ``other`` axis."""
    step = max(1, TILE_ELEMENTS // other)
    return (slice(start, min(start + step, length)) for start in range(0, length, step))

"""Arrays that can be computed again, kept as ``.npy`` files: written whole, and what is damaged is as good as none."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from ..files.atomic import write_atomically


def keep_array(path: Path, array: np.ndarray) -> None:
    """Write ``array``.

    Raises:
        OSError: it cannot be written.
    """
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_atomically(path, content.getvalue())


def kept_array(path: Path, rows: int) -> np.ndarray | None:
    """The matrix [rows, n] in a file, memory-mapped and not to be written to; None where the file holds no such one."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return np.asarray(array) if array.ndim == 2 and len(array) == rows else None

"""Matrices in parts of bounded size."""

from __future__ import annotations

from collections.abc import Iterator

from ..files.safetensors_writer import Block

TILE_ELEMENTS = 2**21
"""Entries of one tile: 16 MiB in float64, enough rows for matrix products to run at full speed."""


def spans(length: int, other: int) -> Iterator[slice]:
    """Consecutive parts of an axis of ``length``, each a tile of about ``TILE_ELEMENTS`` with the ``other`` axis."""
    step = max(1, TILE_ELEMENTS // max(1, other))
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def blocks(shape: tuple[int, ...]) -> Iterator[Block]:
    """One tile after the other of a matrix: of rows where it is at least as tall as wide, else of columns."""
    rows, columns = shape
    every = slice(None)
    if rows >= columns:
        return ((span, every) for span in spans(rows, columns))
    return ((every, span) for span in spans(columns, rows))

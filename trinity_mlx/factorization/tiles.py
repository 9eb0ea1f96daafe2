"""Matrices in parts of bounded size."""

from __future__ import annotations

from collections.abc import Iterator

from ..files.safetensors_writer import Block

TILE_ELEMENTS = 2**21
"""Entries of one tile: 16 MiB in float64, enough rows for matrix products to run at full speed."""


def spans(length: int, other: int, tile: int | None = None) -> Iterator[slice]:
    """Consecutive parts of an axis of ``length``, each about ``tile`` entries with the ``other`` axis."""
    step = max(1, (tile or TILE_ELEMENTS) // max(1, other))
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def blocks(shape: tuple[int, ...], tile: int | None = None) -> Iterator[Block]:
    """One tile after the other of a matrix: of rows where it is at least as tall as wide, else of columns."""
    rows, columns = shape
    every = slice(None)
    if rows >= columns:
        return ((span, every) for span in spans(rows, columns, tile))
    return ((every, span) for span in spans(columns, rows, tile))

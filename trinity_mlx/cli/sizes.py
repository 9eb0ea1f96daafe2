"""Sizes for people."""

from __future__ import annotations


def readable(nbytes: int) -> str:
    """``nbytes`` in the decimal unit that suits it.

    >>> readable(726), readable(1_503_300_328)
    ('726 B', '1.5 GB')
    """
    size, unit = float(nbytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"

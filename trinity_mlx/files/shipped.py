"""Data files that ship with the package: in a wheel inside it, in a checkout beside it."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def data_path(*parts: str) -> Path:
    """Path of a shipped file or folder, such as ``data_path("profiles")``; it need not exist."""
    shipped = _PACKAGE / "_data"
    return (shipped if shipped.is_dir() else _PACKAGE.parent).joinpath(*parts)

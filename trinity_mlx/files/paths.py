"""Names that users give, as folders."""

from __future__ import annotations

from pathlib import Path


def existing_folder(name: str | Path) -> Path | None:
    """The folder that ``name`` means, ``~`` expanded; None where there is none, or where no path can have that name."""
    try:
        folder = Path(name).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):
        return None

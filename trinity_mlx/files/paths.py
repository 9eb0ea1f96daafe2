"""Names that users give, as files and folders. A name that no path can have, or none at all, belongs to nothing."""

from __future__ import annotations

from pathlib import Path


def expanded(name: str | Path) -> Path:
    """The path that ``name`` means, with the home folder for a leading ``~``; as it is where that user has none."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def existing_folder(name: str | Path) -> Path | None:
    """The folder that ``name`` means, ``~`` expanded; None where there is none."""
    folder = expanded(name)
    return folder if name != "" and exists(folder) and folder.is_dir() else None


def existing_file(name: str | Path) -> Path | None:
    """What ``name`` means, ``~`` expanded, if it is there and no folder; else None."""
    path = expanded(name)
    return path if exists(path) and not path.is_dir() else None


def exists(path: Path) -> bool:
    """Whether there is anything at ``path``."""
    try:
        return path.exists()
    except (OSError, RuntimeError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether there is a regular file at ``path``."""
    return exists(path) and path.is_file()

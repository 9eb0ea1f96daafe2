"""Whole files or nothing: written under another name beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import glob
import json
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..contracts.errors import FolderUnavailable

_ABANDONED_S = 60.0


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or nothing; its folder is made where it is missing.

    What processes left beside it that were killed while they wrote goes, once it is a minute old.

    Raises:
        OSError: it cannot be written; what was there stays as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sweep(path)


def _sweep(path: Path) -> None:
    with suppress(OSError):
        for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}"):
            if left.stat().st_mtime < time.time() - _ABANDONED_S:
                left.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        FolderUnavailable: it cannot be written.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise FolderUnavailable(f"{path} cannot be written: {error.strerror or error}") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one JSON object, whole or not at all.

    Raises:
        FolderUnavailable: it cannot be written.
    """
    write_file(path, json_bytes(content))


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """``content`` as a file for people and programs: indented, in UTF-8, with a line's end.

    Half a surrogate pair (from a file's name, say), which UTF-8 has no form for, becomes a question mark.

    Raises:
        ValueError: it holds NaN or infinity, which JSON has no form for.
    """
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "replace")

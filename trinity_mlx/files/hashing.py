"""sha256 of files, remembered between runs for as long as a file's size and time stay the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from pathlib import Path


class FileHashes:
    """Lower-case sha256 of files, with an optional memory on disk.

    The memory is a convenience: where it cannot be read or written, hashes are computed again.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known: dict[str, list[object]] = _load(memory) if memory else {}

    def sha256(self, path: Path) -> str:
        """Hash of the file at ``path``, following links.

        Raises:
            OSError: the file cannot be read.
        """
        real = path.resolve()
        stat = real.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(str(real))
        if known and known[:2] == stamp and isinstance(known[-1], str):
            return known[-1]
        with real.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._remember(str(real), [*stamp, digest])
        return digest

    def _remember(self, key: str, entry: list[object]) -> None:
        self._known[key] = entry
        if self._memory:
            with contextlib.suppress(OSError):
                write_atomically(self._memory, json.dumps(self._known).encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: to a temporary name beside it, flushed, then renamed."""
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


def _load(memory: Path) -> dict[str, list[object]]:
    try:
        known = json.loads(memory.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: entry for key, entry in known.items() if isinstance(entry, list)} if isinstance(known, dict) else {}

"""sha256 of files, remembered between runs for as long as nothing about a file says that it may have changed.

A hash is remembered with the file's size, times of modification and of change, and inode. The time of modification can
be set at will, the time of change cannot. A file that changed within the last seconds is not remembered at all, since a
second change within one tick of the clock would leave the same times.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from .atomic import write_atomically
from .regular import open_regular, read_regular

_SETTLED_NS = 2_000_000_000
"""No file system's times are coarser."""


class FileHashes:
    """Lower-case sha256 of files, with an optional memory on disk.

    The memory is a convenience: where it cannot be read or written, hashes are computed again. ``clock`` gives
    the time in nanoseconds since 1970, as the file system stamps files with.
    """

    def __init__(self, memory: Path | None = None, clock: Callable[[], int] = time.time_ns) -> None:
        self._memory = memory
        self._clock = clock
        self._known: dict[str, list[object]] = _load(memory) if memory else {}

    def sha256(self, path: Path, expected: str | None = None) -> str:
        """Hash of the regular file at ``path``, following links.

        What is remembered is never held against a user: where it is not the ``expected`` hash, the file is read.

        Raises:
            OSError: the file cannot be read.
        """
        with open_regular(path) as (file, stat):
            key, stamp = str(path.resolve()), [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
            known = self._known.get(key, [])
            if known[:-1] == stamp and isinstance(known[-1], str) and expected in (None, known[-1]):
                return known[-1]
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._remember(key, [*stamp, digest], stat.st_ctime_ns)
        return digest

    def _remember(self, key: str, entry: list[object], changed_ns: int) -> None:
        self._known[key] = entry
        if self._memory and changed_ns < self._clock() - _SETTLED_NS:
            with contextlib.suppress(OSError):
                write_atomically(self._memory, json.dumps(_load(self._memory) | {key: entry}).encode())


def _load(memory: Path) -> dict[str, list[object]]:
    try:
        known = json.loads(read_regular(memory))
    except (OSError, ValueError, RecursionError):
        return {}
    return {key: entry for key, entry in known.items() if isinstance(entry, list)} if isinstance(known, dict) else {}

"""The trace of a run: one JSON object a line, appended to a file as each event happens."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from ..contracts.errors import FolderUnavailable
from ..contracts.events import SCHEMA_VERSION, Event, RunCompleted, RunFailed
from .record import event_fields
from .redaction import Redactor

TORN = b"\x18"
"""Control character (CANCEL) that closes a line which a killed writer left unfinished; JSON holds none."""


def _now() -> tuple[float, float]:
    return time.time(), time.monotonic()


class JsonlTrace:
    """A sink that appends the events of one run to a file; docs/traces.md describes the lines.

    An event is in the operating system's hands when ``emit`` returns: it survives the process, however that ends. A
    run's last event is forced to the disk (fsync) as well, and with it all before; a machine that loses its power may
    lose the latest events of a run that had not ended, since a forced write each time would cost milliseconds.

    Runs of any number of threads and processes may share a file: each holds it for the length of one write. A new file
    can be read by its owner alone. May be used by several threads.

    Args:
        path: the file; its folder must be there.
        run_id: the name of the run, different for each.
        keep_content: write the texts themselves as well, and not their hashes and lengths alone.
        secrets: what must never be written; see ``Redactor``.
        refs: names of what governs the run, repeated in each line.
        clock: seconds since 1970, and seconds of a clock that is never set.

    Raises:
        FolderUnavailable: the file cannot be opened or written.
    """

    def __init__(
        self,
        path: Path,
        run_id: str,
        *,
        keep_content: bool = False,
        secrets: Collection[str] = (),
        refs: Mapping[str, str] | None = None,
        clock: Callable[[], tuple[float, float]] = _now,
    ) -> None:
        self._redactor = Redactor(secrets)
        self._run_id = self._redactor.text(run_id)
        self._refs = {str(name): self._redactor.text(ref) for name, ref in (refs or {}).items()}
        self._keep_content = keep_content
        self._clock = clock
        self._started: float | None = None
        self._sequence = 0
        self._previous: str | None = None
        self._lock = threading.Lock()
        self._path = path
        with self._failures_named():
            self._file = FileIO(path, "a+", opener=_open_private)

    def emit(self, event: Event) -> None:
        """Append ``event``.

        Raises:
            FolderUnavailable: it cannot be written.
            ValueError: the trace is closed.
        """
        fields = event_fields(event, self._redactor, self._keep_content)
        with self._lock, self._failures_named():
            line = json.dumps(self._envelope(event.kind) | fields, separators=(",", ":"), ensure_ascii=False).encode()
            _append(self._file, line)
            self._previous = hashlib.sha256(line).hexdigest()
            self._sequence += 1
            if isinstance(event, RunCompleted | RunFailed):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; further calls do nothing."""
        self._file.close()

    def _envelope(self, kind: str) -> dict[str, Any]:
        wall, steady = self._clock()
        self._started = steady if self._started is None else self._started
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": self._run_id,
            "seq": self._sequence,
            "time": datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "elapsed_ms": round((steady - self._started) * 1000, 3),
            "previous": self._previous,
            "refs": self._refs,
            "event": kind,
        }

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FolderUnavailable(
                f"the trace {self._path} cannot be written: {error.strerror or error}; choose another file"
            ) from None


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _append(file: FileIO, line: bytes) -> None:
    """Add ``line`` as a line of its own in one write, after closing what a killed writer may have left."""
    descriptor = file.fileno()
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        size = os.fstat(descriptor).st_size
        is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = (TORN + b"\n" if is_torn else b"") + line + b"\n"
        while data:  # a write is cut short only where the disk is full, and the next one then says so
            data = data[file.write(data) :]
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)

"""The trace of a run: one JSON object a line, appended to a file as each event happens."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any, get_args

from ..contracts.errors import FolderUnavailable, UsageError
from ..contracts.events import SCHEMA_VERSION, End, Event
from .record import event_fields, line_of
from .redaction import Redactor

TORN = b"\x18"
"""Control character (CANCEL) that closes a line which a killed writer left unfinished; JSON holds none."""
LOCK_S = 10.0
"""Seconds for which a writer waits while another process holds the file."""
_LATEST_S = 16_000_000_000.0
"""Seconds since 1970 of a time in 2477; a clock that shows a later one, or one before 1970, is not believed."""


def _now() -> tuple[float, float]:
    return time.time(), time.monotonic()


class TraceWriter:
    """A trace file that is open for appending. May be used by several threads; its methods block.

    Raises:
        FolderUnavailable: the file cannot be opened.
    """

    def __init__(self, path: Path, lock_s: float = LOCK_S, fsync: Callable[[int], None] = os.fsync) -> None:
        self._path = path
        self._lock_s = lock_s
        self._fsync = fsync
        self._lock = threading.Lock()
        with self._failures_named():
            self._file = FileIO(path, "a+", opener=_open_private)

    def append(self, lines: Collection[bytes]) -> None:
        """Add ``lines``, each as a line of its own; they are in the operating system's hands afterwards.

        Raises:
            FolderUnavailable: they cannot be written.
            ValueError: the file is closed.
        """
        with self._lock, self._failures_named():
            _append(self._file, b"".join(line + b"\n" for line in lines), self._lock_s)

    def sync(self) -> None:
        """Force to the disk what was appended; a device or a pipe, which has none, is left alone.

        Raises:
            FolderUnavailable: that failed.
        """
        with self._failures_named():
            descriptor = self._file.fileno()
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                self._fsync(descriptor)

    def close(self) -> None:
        """Close the file; further calls do nothing."""
        self._file.close()

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FolderUnavailable(
                f"the trace {self._path} cannot be written: {error.strerror or error}; choose another file"
            ) from None


class RunLines:
    """The lines of one run: numbered, timed, each with the hash of the one before.

    Args:
        run_id: the name of the run, different for each.
        keep_content: write the texts themselves as well, and not their hashes and lengths alone.
        secrets: what must never be written, or a ``Redactor`` that knows it and serves several runs.
        refs: names of what governs the run, repeated in each line.
        clock: seconds since 1970, and seconds of a clock that is never set.
    """

    def __init__(
        self,
        run_id: str,
        *,
        keep_content: bool = False,
        secrets: Collection[str] | Redactor = (),
        refs: Mapping[str, str] | None = None,
        clock: Callable[[], tuple[float, float]] = _now,
    ) -> None:
        self._redactor = secrets if isinstance(secrets, Redactor) else Redactor(secrets)
        self._run_id = self._redactor.text(run_id)
        self._refs = {str(name): self._redactor.text(ref) for name, ref in (refs or {}).items()}
        self._keep_content = keep_content
        self._clock = clock
        self._started: float | None = None
        self._elapsed_ms = 0.0
        self._sequence = 0
        self._previous: str | None = None
        self._refusal = ""

    def clock(self) -> tuple[float, float]:
        """The time now, for ``line``."""
        return self._clock()

    def line(self, event: Event, now: tuple[float, float]) -> bytes:
        """The next line, which records ``event`` at the time ``now``.

        Raises:
            UsageError: the event does not fit its own types; or one before it did not, and this one is not the run's
                end, which alone may follow a gap.
        """
        if self._refusal and not is_end(event):
            raise UsageError(self._refusal)
        try:
            line = line_of(self._envelope(event.kind, *now), event_fields(event, self._redactor, self._keep_content))
        except UsageError as error:
            self._refusal = str(error)
            raise
        self._previous = hashlib.sha256(line).hexdigest()
        self._sequence += 1
        return line

    def _envelope(self, kind: str, wall: float, steady: float) -> dict[str, Any]:
        self._started = steady if self._started is None else self._started
        self._elapsed_ms = max(self._elapsed_ms, round((steady - self._started) * 1000, 3))
        moment = datetime.fromtimestamp(min(max(wall, 0.0), _LATEST_S), UTC).isoformat(timespec="milliseconds")
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": self._run_id,
            "seq": self._sequence,
            "time": moment.replace("+00:00", "Z"),
            "elapsed_ms": self._elapsed_ms,
            "previous": self._previous,
            "refs": self._refs,
            "event": kind,
        }


class JsonlTrace:
    """A sink that appends the events of one run to a file; docs/traces.md describes the lines.

    An event is in the operating system's hands when ``emit`` returns: it survives the process, however that ends. A
    run's last event is forced to the disk (fsync) as well, and with it all before; a machine that loses its power may
    lose the latest events of a run that had not ended, since a forced write each time would cost milliseconds.

    Runs of any number of threads and processes may share a file: each holds it for the length of one write. A new file
    can be read by its owner alone. May be used by several threads. ``emit`` blocks; a coordinator's own ``trace`` does
    the same work on a thread (``TraceLog``).

    Args:
        path: the file; its folder must be there.
        run_id: the name of the run, different for each.
        options: as those of ``RunLines``.

    Raises:
        FolderUnavailable: the file cannot be opened or written.
    """

    def __init__(self, path: Path, run_id: str, **options: Any) -> None:
        self._lines = RunLines(run_id, **options)
        self._lock = threading.Lock()
        self._writer = TraceWriter(path)

    def emit(self, event: Event) -> None:
        """Append ``event``.

        Raises:
            FolderUnavailable: it cannot be written.
            UsageError: it does not fit its own types.
            ValueError: the trace is closed.
        """
        with self._lock:
            self._writer.append([self._lines.line(event, self._lines.clock())])
            if is_end(event):
                self._writer.sync()

    def close(self) -> None:
        """Close the file; further calls do nothing."""
        self._writer.close()


def is_end(event: Event) -> bool:
    """Whether nothing of its run follows ``event``."""
    return isinstance(event, get_args(End))


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _append(file: FileIO, data: bytes, lock_s: float) -> None:
    """Add ``data`` in one write, after closing what a killed writer may have left."""
    descriptor = file.fileno()
    _take_lock(descriptor, lock_s)
    try:
        size = os.fstat(descriptor).st_size
        is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = (TORN + b"\n" if is_torn else b"") + data
        while data:  # a write is cut short only where the disk is full, and the next one then says so
            data = data[file.write(data) :]
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _take_lock(descriptor: int, lock_s: float) -> None:
    """Hold the file against other writers.

    Raises:
        OSError: another one holds it for longer than ``lock_s`` seconds.
    """
    wait_s, ends_at = 0.001, time.monotonic() + lock_s
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= ends_at:
                raise OSError(f"another program has held it for {lock_s:g} s") from None
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, 0.01)

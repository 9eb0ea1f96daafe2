"""One trace file for many runs: written by a thread, so that no disk and no lock ever stops an event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contracts.events import Event
from .jsonl import RunLines, TraceWriter, is_end

_LINES_IN_A_ROW = 4
"""Lines after which the event loop is given the interpreter, which takes as long as a line: one run tells no more at
once."""


@dataclass(slots=True)
class _Entry:
    """An event on its way to the disk, and who waits for it: in which loop, by which future."""

    lines: RunLines
    event: Event
    now: tuple[float, float]
    loop: asyncio.AbstractEventLoop
    written: asyncio.Future[None]

    def settle(self, error: Exception | None) -> None:
        if self.written.done():
            return
        if error is None:
            self.written.set_result(None)
        else:
            self.written.set_exception(error)


def _acknowledge(entries: Iterable[_Entry], error: Exception | None = None) -> None:
    """Tell who waits for ``entries``, with one call into each event loop, since waking one takes as long as a line."""
    waiting: dict[asyncio.AbstractEventLoop, list[_Entry]] = {}
    for entry in entries:
        waiting.setdefault(entry.loop, []).append(entry)
    for loop, theirs in waiting.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, theirs, error)


def _settle(entries: list[_Entry], error: Exception | None) -> None:
    for entry in entries:
        entry.settle(error)


class TraceLog:
    """A trace file that runs share; open while at least one of them is under way.

    An event is acknowledged once it is in the operating system's hands, and a run's last event once it was forced to
    the disk. Two threads do that: one writes, with one write for all events that have come in the meantime; the other
    forces to the disk, once for all runs that have ended in the meantime. So a file holds one descriptor for any number
    of runs.

    Args:
        path: the file; its folder must be there.
        open_writer: opens it, as a seam for tests.
    """

    def __init__(self, path: Path, open_writer: Callable[[Path], TraceWriter] = TraceWriter) -> None:
        self._path = path
        self._open_writer = open_writer
        self._lock = threading.Lock()
        self._threads: _Threads | None = None
        self._runs = 0

    @asynccontextmanager
    async def run(self, run_id: str, **options: Any) -> AsyncIterator[RunTrace]:
        """A sink for one run; ``options`` as those of ``RunLines``.

        Raises:
            FolderUnavailable: the file cannot be opened.
        """
        threads = await asyncio.to_thread(self._lease)
        try:
            yield RunTrace(RunLines(run_id, **options), threads)
        finally:
            self._release()

    def _lease(self) -> _Threads:
        with self._lock:
            if self._threads is None:
                self._threads = _Threads(self._open_writer(self._path))
            self._runs += 1
            return self._threads

    def _release(self) -> None:
        with self._lock:
            self._runs -= 1
            if self._runs == 0 and self._threads is not None:
                threads, self._threads = self._threads, None
                threads.stop()


class RunTrace:
    """A sink for the events of one run; what ``emit`` gives may be awaited when several have been told."""

    def __init__(self, lines: RunLines, threads: _Threads) -> None:
        self._lines = lines
        self._threads = threads

    def emit(self, event: Event) -> asyncio.Future[None]:
        """Hand ``event`` to the writer; the future is done once it is where it survives.

        The future raises:
            FolderUnavailable: it cannot be written.
            UsageError: it does not fit its own types, or one before it did not.
        """
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        self._threads.write(_Entry(self._lines, event, self._lines.clock(), loop, written))
        return written

    def close(self) -> None:
        """Nothing: the file is closed with its last run."""


class _Threads:
    """The thread that writes and the one that forces to the disk; each takes all that has come for it at once."""

    def __init__(self, writer: TraceWriter) -> None:
        self._writer = writer
        self._syncing = _Worker("trace-sync", self._sync, on_stop=writer.close)
        self._writing = _Worker("trace-write", self._write, on_stop=self._syncing.stop)

    def write(self, entry: _Entry) -> None:
        self._writing.add(entry)

    def stop(self) -> None:
        """End both threads once they have done what has come, and close the file."""
        self._writing.stop()

    def _write(self, entries: list[_Entry]) -> None:
        lines: list[bytes] = []
        written: list[_Entry] = []
        for number, entry in enumerate(entries):
            if number and number % _LINES_IN_A_ROW == 0:
                time.sleep(0)
            try:
                lines.append(entry.lines.line(entry.event, entry.now))
                written.append(entry)
            except Exception as error:
                _acknowledge([entry], error)
        try:
            if lines:
                self._writer.append(lines)
        except Exception as error:
            _acknowledge(written, error)
            return
        _acknowledge(entry for entry in written if not is_end(entry.event))
        for entry in written:
            if is_end(entry.event):
                self._syncing.add(entry)

    def _sync(self, entries: list[_Entry]) -> None:
        failure: Exception | None = None
        try:
            self._writer.sync()
        except Exception as error:
            failure = error
        _acknowledge(entries, failure)


class _Worker:
    """A thread that hands everything which has come since the last time to ``work``, until it is stopped."""

    def __init__(self, name: str, work: Callable[[list[_Entry]], None], on_stop: Callable[[], None]) -> None:
        self._work = work
        self._on_stop = on_stop
        self._entries: deque[_Entry] = deque()
        self._is_stopped = False
        self._wake = threading.Condition()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def add(self, entry: _Entry) -> None:
        with self._wake:
            self._entries.append(entry)
            self._wake.notify()

    def stop(self) -> None:
        with self._wake:
            self._is_stopped = True
            self._wake.notify()

    def _run(self) -> None:
        while entries := self._next():
            self._work(entries)
        self._on_stop()

    def _next(self) -> list[_Entry]:
        with self._wake:
            self._wake.wait_for(lambda: bool(self._entries) or self._is_stopped)
            entries = list(self._entries)
            self._entries.clear()
            return entries

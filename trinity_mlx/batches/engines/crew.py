"""Several workers at once: chunks handed out, answers in order, few in memory, and no loss where a worker dies."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from ...contracts.errors import WorkersLost
from ..chunks import Chunk
from ..records import Question, Routed

AHEAD = 2
"""Chunks for each worker that may be in memory: one that it routes, and one that waits, or waits to be fetched."""
LIVES = 2
"""How often a chunk may lose the worker that has it, and a worker be lost without an answer between, before it ends."""


class WorkerLost(Exception):
    """A worker has died, or cannot be reached any more."""


class Worker(Protocol):
    """Routes one chunk at a time."""

    def ready(self) -> None:
        """Wait until it can answer.

        Raises:
            WorkerLost: it has died.
            TrinityError: it cannot load its router.
        """

    def answer(self, chunk: Chunk) -> Routed:
        """The answers to ``chunk``.

        Raises:
            WorkerLost: it has died.
            TrinityError: it cannot go on.
        """

    def abort(self) -> None:
        """End it at once, from any thread; whoever waits for it meets a ``WorkerLost``."""


Start = Callable[[Question], AbstractContextManager[Worker]]
"""Starts a worker, which need not be ready yet, and ends it."""


class Crew:
    """Routes with several workers.

    Args:
        starts: what starts each of them, by the name under which people know it.
        tell: what is told of every worker that dies.
    """

    def __init__(self, starts: Sequence[tuple[str, Start]], tell: Callable[[str], None] = lambda text: None) -> None:
        self._starts = starts
        self._tell = tell

    def route(self, chunks: Iterator[Chunk], question: Question) -> Iterator[tuple[Chunk, Routed]]:
        """Each chunk with its answers, in order.

        Raises:
            WorkersLost: all workers have died, or one chunk has been the last of several.
            TrinityError: a worker cannot go on.
        """
        board = _Board(chunks, AHEAD * len(self._starts), len(self._starts))
        seats = [_Seat(board, name, start, question, self._tell) for name, start in self._starts]
        threading.Thread(target=board.feed, name="trinity-mlx-feed", daemon=True).start()
        for seat in seats:
            seat.thread.start()
        try:
            yield from board.delivered()
        finally:
            board.close()
            for seat in seats:
                seat.leave()


@dataclass(eq=False, slots=True)
class _Task:
    """A chunk on its way: its place, and how many workers have died with it."""

    place: int
    chunk: Chunk
    deaths: int = 0


class _Board:
    """What waits to be routed, and what waits to be fetched, in order; shared by all threads."""

    def __init__(self, chunks: Iterator[Chunk], room: int, workers: int) -> None:
        self._chunks = chunks
        self._room = room
        self._workers = workers
        self._changed = threading.Condition()
        self._waiting: deque[_Task] = deque()
        self._done: dict[int, tuple[Chunk, Routed]] = {}
        self._fed = self._fetched = 0
        self._total: int | None = None
        self._broken: BaseException | None = None
        self._failure: BaseException | None = None
        self._closed = False

    def feed(self) -> None:
        """Read chunks as room allows, until they end; what ends them early is raised behind the answers."""
        broken: BaseException | None = None
        try:
            while self._await_room() and (chunk := next(self._chunks, None)):
                self._put(_Task(self._fed, chunk))
        except BaseException as error:
            broken = error
        with self._changed:
            self._total, self._broken = self._fed, broken
            self._changed.notify_all()

    def delivered(self) -> Iterator[tuple[Chunk, Routed]]:
        """The answers in order, as they come."""
        while (answer := self._fetch()) is not None:
            yield answer

    def take(self) -> _Task | None:
        """The next chunk to route; None where there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_over)
            return None if self._is_over else self._waiting.popleft()

    def give(self, task: _Task, routed: Routed) -> None:
        """The answers to a chunk."""
        with self._changed:
            self._done[task.place] = task.chunk, routed
            self._changed.notify_all()

    def give_back(self, task: _Task, who: str) -> None:
        """Let another worker have the chunk of one that died, before all others."""
        task.deaths += 1
        if task.deaths >= LIVES:
            last = task.chunk.first + len(task.chunk.lines) - 1
            self.fail(
                WorkersLost(
                    f"{task.deaths} workers have died with lines {task.chunk.first} to {last}, the last on {who}: "
                    "look at these lines, and at the memory that there is"
                )
            )
        with self._changed:
            self._waiting.appendleft(task)
            self._changed.notify_all()

    def leave(self, name: str) -> None:
        """A worker is gone for good."""
        with self._changed:
            self._workers -= 1
        if not self._workers:
            self.fail(WorkersLost(f"no worker is left; the last was on {name}: look at the memory that there is"))

    def fail(self, error: BaseException) -> None:
        """End with ``error``, once what was complete before is fetched."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody fetches any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether nobody waits for anything any more."""
        return self._closed

    @property
    def _is_over(self) -> bool:
        is_routed = self._total is not None and self._fetched + len(self._done) == self._total
        return self._closed or self._failure is not None or is_routed

    def _await_room(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._fed - self._fetched < self._room or self._is_over)
            return not self._is_over

    def _put(self, task: _Task) -> None:
        with self._changed:
            self._fed += 1
            self._waiting.append(task)
            self._changed.notify_all()

    def _fetch(self) -> tuple[Chunk, Routed] | None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._fetched in self._done or self._failure is not None or self._fetched == self._total
            )
            if self._fetched not in self._done:
                if error := self._failure or self._broken:
                    raise error
                return None
            answer = self._done.pop(self._fetched)
            self._fetched += 1
            self._changed.notify_all()
            return answer


class _Seat:
    """The thread of one worker after the other: starts one, gives it chunks, and starts the next where it dies."""

    def __init__(self, board: _Board, name: str, start: Start, question: Question, tell: Callable[[str], None]) -> None:
        self.thread = threading.Thread(target=self._run, name=f"trinity-mlx-{name}", daemon=True)
        self._board = board
        self._name = name
        self._start = start
        self._question = question
        self._tell = tell
        self._worker: Worker | None = None
        self._deaths = 0

    def leave(self) -> None:
        """Wait for the end, which comes at once where the board is closed."""
        if worker := self._worker:
            worker.abort()
        self.thread.join()

    def _run(self) -> None:
        try:
            while self._deaths < LIVES and not self._worked():
                self._deaths += 1
            if self._deaths >= LIVES:
                self._board.leave(self._name)
        except BaseException as error:
            self._board.fail(error)

    def _worked(self) -> bool:
        """Whether a worker did all that there was to do."""
        task: _Task | None = None
        try:
            with self._start(self._question) as self._worker:
                self._worker.ready()
                while task := self._board.take():
                    self._board.give(task, self._worker.answer(task.chunk))
                    self._deaths, task = 0, None
        except WorkerLost as lost:
            if self._board.is_closed:
                return True
            self._tell(f"a worker on {self._name} has died ({lost}); its lines are given to another")
            if task:
                self._board.give_back(task, self._name)
            return False
        return True

"""A thread that owns something: it makes it, runs all work with it, and frees it.

MLX keeps its streams per thread, so whatever uses them is made, used and freed on one and the same. An executor would
not do: its threads end before the handlers of interpreter exit run, and streams must be cleared before that.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
_Job = tuple[Callable[[Any], Any], "Future[Any]"]
_Jobs = SimpleQueue[_Job | None]

_running: dict[Thread, _Jobs] = {}


class OwnerThread(Generic[T]):
    """Runs work with one thing of its own, one piece after the other, on one thread.

    ``opening`` makes the thing when it is first needed, on the thread, and is left there at the end. Where it fails,
    that piece of work fails, and the next one tries again. An owner that is dropped ends its thread and waits for
    nothing, since that may happen in the middle of anything; ``close``, and the end of the process, wait.

    Work fails with a ``RuntimeError`` once the thread has ended, as it has in the child of a fork.
    """

    def __init__(self, opening: Callable[[], AbstractContextManager[T]], name: str) -> None:
        self._jobs: _Jobs = SimpleQueue()
        self._thread = Thread(target=_serve, args=(self._jobs, opening), name=name, daemon=True)
        self._thread.start()
        _running[self._thread] = self._jobs
        self._end = weakref.finalize(self, self._jobs.put, None)
        self._end.atexit = False

    def submit(self, work: Callable[[T], R]) -> Future[R]:
        """Do ``work`` after what was asked before it; skipped where the future is cancelled by then."""
        done: Future[R] = Future()
        if self._thread.is_alive():
            self._jobs.put((work, done))
        else:
            done.set_exception(RuntimeError(f"thread {self._thread.name} has ended, and what it owned with it"))
        return done

    def run(self, work: Callable[[T], R]) -> R:
        """The result of ``work``, or the exception that it raised."""
        return self.submit(work).result()

    def close(self) -> None:
        """Finish what was asked, free what is owned and end the thread."""
        self._end()
        if self._thread is not current_thread():
            self._thread.join()


def _serve(jobs: _Jobs, opening: Callable[[], AbstractContextManager[Any]]) -> None:
    try:
        with ExitStack() as stack:
            owned: list[Any] = []
            while (job := jobs.get()) is not None:
                if job[1].set_running_or_notify_cancel():
                    _work(job, owned, lambda: stack.enter_context(opening()))
                del job
            owned.clear()
    finally:
        _running.pop(current_thread(), None)


def _work(job: _Job, owned: list[Any], make: Callable[[], Any]) -> None:
    work, done = job
    try:
        if not owned:
            owned.append(make())
        done.set_result(work(owned[0]))
    except BaseException as error:
        done.set_exception(error)


@atexit.register
def _end_all() -> None:
    for thread, jobs in list(_running.items()):
        jobs.put(None)
        thread.join()

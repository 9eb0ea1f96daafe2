"""The thread that owns a model: MLX keeps its streams per thread, so a model is loaded and run on one and the same."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import Any, TypeVar

import mlx.core as mx

T = TypeVar("T")
_Job = tuple[Callable[[], Any], "Future[Any]"]


class OwnerThread:
    """Runs work on a thread and a device of its own, one piece at a time.

    An executor would not do: its threads end before interpreter exit handlers run, and MLX's streams must be cleared by
    the thread that made them, else the process may abort on exit.
    """

    def __init__(self, device: mx.DeviceType) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        thread = Thread(target=_serve, args=(self._jobs, device), name="trinity-mlx-owner", daemon=True)
        thread.start()
        weakref.finalize(self, _stop, self._jobs, thread)

    def run(self, work: Callable[[], T]) -> T:
        """The result of ``work``, or the exception that it raised."""
        done: Future[T] = Future()
        self._jobs.put((work, done))
        return done.result()


def _serve(jobs: SimpleQueue[_Job | None], device: mx.DeviceType) -> None:
    with mx.stream(device):
        while (job := jobs.get()) is not None:
            _work(*job)
            del job
    mx.clear_streams()


def _work(work: Callable[[], Any], done: Future[Any]) -> None:
    try:
        done.set_result(work())
    except BaseException as error:
        done.set_exception(error)


def _stop(jobs: SimpleQueue[_Job | None], thread: Thread) -> None:
    jobs.put(None)
    if thread is not current_thread():
        thread.join()

"""An event loop on a clock of its own: what it would wait for comes at once, and a busy machine cannot be late."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

TURN_S = 1e-12
"""What a turn of the loop takes where it waits for nothing: a clock that stands would not get over its own rounding."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Time passes only where nothing else is left to do, and then up to the next timer.

    It stands while a thread works for the loop by ``asyncio.to_thread``. Other threads and sockets are of real time:
    whoever waits for one of them here would find all timers gone off before.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        self._threads = 0
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._now_s

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self._now_s += seconds

    @property
    def has_threads(self) -> bool:
        """Whether a thread works for the loop, which hears of its end by its selector."""
        return self._threads > 0

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """As any loop does; time stands until it has ended."""
        self._threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._came_back)
        return future

    def _came_back(self, future: asyncio.Future[Any]) -> None:
        self._threads -= 1


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Asks for what is ready, and lets the loop's time pass instead of waiting for it."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            self._loop.pass_by(TURN_S)
            return super().select(timeout)
        if self._loop.has_threads:
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self._loop.pass_by(timeout)
        return ready


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """What ``asyncio.run`` does, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)

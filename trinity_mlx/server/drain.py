"""Shutting down in order: no new work, time for what is under way, and a last event for what cannot end in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .problems import Kind, Problem

RETRY_AFTER_S = 5.0


class Drain:
    """Which requests are under way, and whether more are let in; of one event loop."""

    def __init__(self) -> None:
        self._open: set[asyncio.Task[object]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._farewells: list[Callable[[], object]] = []
        self._is_ending = False
        self.is_draining = False

    @property
    def open(self) -> int:
        """Requests under way."""
        return len(self._open)

    @contextmanager
    def work(self) -> Iterator[None]:
        """Count the running task's request as work.

        Raises:
            Problem: the server is going down.
        """
        if self.is_draining:
            raise going_down()
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self._idle.clear()
        try:
            yield
        finally:
            self._open.discard(task)
            if not self._open:
                self._idle.set()

    @contextmanager
    def farewell(self, say: Callable[[], object]) -> Iterator[None]:
        """Have ``say`` called once what is still open has to say its last event.

        Raises:
            Problem: that is so already, as for a request that waited for its place.
        """
        if self._is_ending:
            raise going_down()
        self._farewells.append(say)
        try:
            yield
        finally:
            self._farewells.remove(say)

    async def finish(self, grace_s: float, farewell_s: float = 5.0) -> int:
        """Let nobody in, wait ``grace_s`` for what is under way, then have the rest say goodbye within ``farewell_s``.

        Returns:
            How many requests had to be ended early.
        """
        self.is_draining = True
        if await self._is_idle_within(grace_s):
            return 0
        left = self.open
        self._is_ending = True
        for say in self._farewells:
            say()
        if not await self._is_idle_within(farewell_s):
            for task in list(self._open):
                task.cancel()
        return left

    async def _is_idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


def going_down() -> Problem:
    """What a request is told if it comes, or is still open, while the server shuts down."""
    return Problem(
        Kind.UNAVAILABLE,
        "the server is going down: try again in a moment",
        code="draining",
        retry_after_s=RETRY_AFTER_S,
    )

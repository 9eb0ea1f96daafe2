"""How many requests may be at work, may wait, and may come from one key; further ones are asked to come back later."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from .problems import Kind, Problem


@dataclass(frozen=True, slots=True)
class Room:
    """Requests at work at once, those that may wait for it, and those that one key may have in both together."""

    at_once: int = 256
    waiting: int = 64
    per_key: int = 256
    retry_after_s: float = 2.0


class Capacity:
    """A semaphore with a short queue, first come first served; of one event loop."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._of_key: Counter[str] = Counter()
        self._queue: deque[asyncio.Future[None]] = deque()
        self.in_flight = 0

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @asynccontextmanager
    async def place(self, key: str) -> AsyncIterator[None]:
        """A place for the time of the block.

        Raises:
            Problem: there is none, and the queue is full; or this key has its share.
        """
        if self._of_key[key] >= self._room.per_key:
            raise self._refused(f"this key has {self._room.per_key} requests under way, which is its limit")
        self._of_key[key] += 1
        try:
            await self._enter()
            try:
                yield
            finally:
                self._leave()
        finally:
            self._of_key[key] -= 1
            if not self._of_key[key]:
                del self._of_key[key]

    async def _enter(self) -> None:
        if self.in_flight < self._room.at_once:
            self.in_flight += 1
            return
        if len(self._queue) >= self._room.waiting:
            raise self._refused(f"{self.in_flight} requests are under way and {len(self._queue)} wait")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            else:
                self._queue.remove(turn)
            raise

    def _leave(self) -> None:
        """Hand the place to whoever has waited longest, or give it back."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.in_flight -= 1

    def _refused(self, why: str) -> Problem:
        text = f"{why}: try again in a moment"
        return Problem(Kind.RATE_LIMITED, text, code="rate_limit_exceeded", retry_after_s=self._room.retry_after_s)

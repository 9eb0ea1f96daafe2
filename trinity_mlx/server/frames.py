"""What is said in a stream, on its way to the client: gathered while the line is busy, and never silent for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .asgi import Send

STALL_S = 60.0
"""A client that takes nothing for so long has gone, whatever its connection says."""


class Frames:
    """What has been said and not been sent yet; of one event loop, for one reader."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._has_ended = False
        self._woken: asyncio.Future[None] | None = None

    def put(self, piece: bytes) -> None:
        """Say ``piece``; an empty one says nothing."""
        if piece:
            self._pieces.append(piece)
            self._wake()

    def end(self) -> None:
        """Nothing more will be said."""
        self._has_ended = True
        self._wake()

    @property
    def is_over(self) -> bool:
        """Whether all was taken, and nothing more will come."""
        return self._has_ended and not self._pieces

    async def wait(self) -> bool:
        """Whether there is anything to take, as soon as that is known: False at an end without it."""
        while not self._pieces and not self._has_ended:
            self._woken = asyncio.get_running_loop().create_future()
            await self._woken
        return bool(self._pieces)

    def take(self) -> bytes:
        """All that has been said since the last time, as one piece."""
        whole = b"".join(self._pieces)
        self._pieces.clear()
        return whole

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


class Outflow:
    """Sends frames to one client; one timer watches over all of them, since most streams are many small ones.

    Args:
        frames: what is said.
        send: takes the parts of an answer's body.
        heartbeat: what is said where nothing else was for ``heartbeat_s`` seconds.
        stall_s: seconds that a client may take over one frame.
    """

    def __init__(
        self,
        frames: Frames,
        send: Send,
        heartbeat: Callable[[], bytes],
        heartbeat_s: float,
        stall_s: float = STALL_S,
    ) -> None:
        self._frames = frames
        self._send = send
        self._heartbeat = heartbeat
        self._heartbeat_s, self._stall_s = heartbeat_s, stall_s
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        self._is_sending, self._since = False, self._loop.time()
        self._look_s = min(heartbeat_s, stall_s)

    async def run(self) -> None:
        """Send until the end.

        Raises:
            TimeoutError: the client takes nothing any more.
        """
        self._timer = self._loop.call_later(self._look_s, self._look)
        try:
            async with self._limit:
                await self._send_all()
        finally:
            self._timer.cancel()

    async def _send_all(self) -> None:
        is_over = False
        while not is_over:
            await self._frames.wait()
            frame, is_over = self._frames.take(), self._frames.is_over
            self._is_sending, self._since = True, self._loop.time()
            await self._send({"type": "http.response.body", "body": frame, "more_body": not is_over})
            self._is_sending, self._since = False, self._loop.time()

    def _look(self) -> None:
        """Break a silence, or give up a client that is stuck; then look again when the next of both may be due."""
        now = self._loop.time()
        quiet_s = now - self._since
        if self._is_sending and quiet_s >= self._stall_s:
            self._limit.reschedule(now)
        elif not self._is_sending and quiet_s >= self._heartbeat_s:
            self._frames.put(self._heartbeat())
            quiet_s = 0.0
        left_s = (self._stall_s if self._is_sending else self._heartbeat_s) - quiet_s
        self._timer = self._loop.call_later(max(min(left_s, self._look_s), 0.0), self._look)

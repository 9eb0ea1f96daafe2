"""The router as a server uses it: read through a window, within a time, and a late or failed route fails no request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..contracts.errors import TrinityError, UsageError
from ..contracts.routing import Read, Role, RouteDecision, RouteLogits, Window
from ..contracts.transcript import Transcript
from ..routing.router import RouterIdentity

LOG = logging.getLogger("trinity_mlx.server")
STALLED_S = 30.0
SURE = 5.0
"""By how much the default slot leads where nothing was read: a policy's floors do not overrule it."""
LEAST_WINDOW = 512
MOST_WINDOW = 16_384
STEP = 256


class Reads(Protocol):
    """What a server needs of a router; ``routing.router.Router`` is one."""

    @property
    def identity(self) -> RouterIdentity:
        """What stays the same from route to route."""

    async def read(self, transcript: Transcript, /) -> Read:
        """The logits of a transcript."""

    def route(self, transcript: Transcript, /) -> RouteDecision:
        """The decision for a transcript."""


@runtime_checkable
class _TellsPasses(Protocol):
    def watch_passes(self, observe: Callable[[int], object], /) -> Callable[[], None]: ...


class ServedRouter:
    """``router``, with a time limit and a slot for when it is late or fails.

    Without a ``default_slot`` a late or failed route is an error of the run.

    Args:
        router: a loaded router.
        timeout_s: seconds that a route may take.
        default_slot: who works where there was no route; who checks, once there is an answer.
        on_fault: told why, each time that a route is late or fails: ``late``, or the error's name.

    Raises:
        UsageError: the default slot is not among the router's.
    """

    def __init__(
        self,
        router: Reads,
        timeout_s: float | None = None,
        default_slot: int | None = None,
        on_fault: Callable[[str], None] = lambda _: None,
    ) -> None:
        slots = len(router.identity.labels)
        if default_slot is not None and not 0 <= default_slot < slots:
            raise UsageError(f"the default slot is {default_slot}, and the router has slots 0 to {slots - 1}")
        self.on_fault = on_fault
        self._router = router
        self._timeout_s = timeout_s
        self._default_slot = default_slot
        self._has_routed = False
        self._waiting: set[_Wait] = set()

    @property
    def identity(self) -> RouterIdentity:
        """Which router it is."""
        return self._router.identity

    @property
    def is_ready(self) -> bool:
        """Whether a route has passed, and none has been waited for unreasonably long."""
        now = time.monotonic()
        return self._has_routed and not any(now - wait.begun > STALLED_S for wait in self._waiting)

    def watch_passes(self, observe: Callable[[int], object]) -> Callable[[], None]:
        """Have ``observe`` told how many transcripts a pass reads together, where the router tells; returns an end."""
        return self._router.watch_passes(observe) if isinstance(self._router, _TellsPasses) else lambda: None

    async def warm(self) -> None:
        """Read something, so that the first request finds everything loaded."""
        await self._read(Transcript.of("Is anybody there?"))

    async def read(self, transcript: Transcript) -> Read:
        """The logits of a transcript, or those of the default where the router is late or fails."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._read(transcript)
        except TimeoutError:
            fault = "late"
            text = f"the router did not answer within {self._timeout_s} s"
        except TrinityError as error:
            if self._default_slot is None:
                raise
            fault, text = type(error).__name__, str(error)
        self.on_fault(fault)
        if self._default_slot is None:
            raise RouteLate(text)
        LOG.warning("%s: the default slot takes the turn", text)
        return default_read(transcript, self._default_slot, len(self.identity.labels))

    async def decide(self, transcript: Transcript) -> RouteDecision:
        """A decision alone, with everything that explains it."""
        await self._read(transcript)
        return await asyncio.to_thread(self._router.route, transcript)

    async def _read(self, transcript: Transcript) -> Read:
        wait = _Wait(time.monotonic())
        self._waiting.add(wait)
        try:
            read = await self._router.read(transcript)
        finally:
            self._waiting.discard(wait)
        self._has_routed = True
        return read


@dataclass(frozen=True, eq=False)
class _Wait:
    """A read that is waited for, since ``begun``."""

    begun: float


class RouteLate(TrinityError):
    """The router did not answer within its time, and no default slot stands in for it."""

    exit_code = 3


def default_read(transcript: Transcript, slot: int, slots: int) -> Read:
    """What stands for a read that did not come: ``slot`` works, or checks where somebody has just answered."""
    role = Role.VERIFIER if transcript.messages[-1].role == "assistant" else Role.WORKER
    logits = RouteLogits(
        tuple(SURE if index == slot else 0.0 for index in range(slots)),
        tuple(SURE if index == role else 0.0 for index in range(len(Role))),
    )
    return Read(logits, 0, 0, transcript.sha256, None)


def window_of(size: int) -> Window:
    """A window of about ``size`` tokens: a quarter of them the beginning, the rest the end."""
    head = max(STEP // 2, size // 4 // STEP * STEP)
    return Window(head, size - head, min(STEP, size - head))


def measured_size(seconds_of: Callable[[int], tuple[int, float]], most: int, limit_s: float = 1.0) -> int:
    """How many tokens are read afresh within ``limit_s``, at least ``LEAST_WINDOW`` and at most ``most``.

    Args:
        seconds_of: reads about so many tokens from nothing; gives how many they were, and the seconds.
        most: the positions of the base.
        limit_s: seconds that a read may take.
    """
    most = min(most, MOST_WINDOW)
    size, points = LEAST_WINDOW // 2, []
    while size <= most:
        points.append(seconds_of(size))
        if points[-1][1] > limit_s / 4:
            break
        size *= 2
    if points[-1][1] <= limit_s / 4:
        return most
    fits = _fitting(points, limit_s)
    return max(min(LEAST_WINDOW, most), min(most, fits // STEP * STEP))


def _fitting(points: list[tuple[int, float]], limit_s: float) -> int:
    """The tokens that ``limit_s`` allows, by a line through nothing and a parabola through the last two points."""
    (count, seconds) = points[-1]
    square = 0.0
    if len(points) > 1:
        before, faster = points[-2]
        square = max(0.0, (seconds / count - faster / before) / (count - before))
    linear = max(seconds / count - square * count, 1e-12)
    if square == 0.0:
        return int(limit_s / linear)
    return int((-linear + (linear * linear + 4 * square * limit_s) ** 0.5) / (2 * square))

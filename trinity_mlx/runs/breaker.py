"""A circuit breaker: an agent that fails again and again is given a rest before it is called again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from threading import RLock

from ..contracts.errors import ProviderError, ProviderRateLimited

Clock = Callable[[], float]
"""Seconds that only ever grow."""


class BreakerState(StrEnum):
    """Whether calls pass."""

    CLOSED = "closed"
    """They do."""
    OPEN = "open"
    """They do not, for a while."""
    HALF_OPEN = "half-open"
    """The rest is over: one call at a time may try."""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """After how many failures in a row an agent rests, and for how long."""

    failures: int = 5
    rest_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Pass:
    """Permission for one attempt; ``is_probe`` marks the one that decides whether the rest is over."""

    is_probe: bool


class CircuitBreaker:
    """Counts one agent's failures over all runs that call it, in whatever thread and event loop.

    Ask ``admit`` before each attempt, and afterwards hand its pass to ``succeeded``, ``failed`` or ``abandoned``;
    ``watching`` does the latter by itself.
    """

    def __init__(self, policy: BreakerPolicy | None = None, clock: Clock = time.monotonic) -> None:
        self._policy = policy or BreakerPolicy()
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._is_probing = False
        self._lock = RLock()

    @property
    def state(self) -> BreakerState:
        """Whether calls pass now."""
        if self._opened_at is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self.rest_left_s else BreakerState.HALF_OPEN

    @property
    def rest_left_s(self) -> float:
        """Seconds until a call may try again; 0 where one may already."""
        opened_at = self._opened_at
        return 0.0 if opened_at is None else max(0.0, opened_at + self._policy.rest_s - self._clock())

    @property
    def failures(self) -> int:
        """Failures in a row, up to now."""
        return self._failures

    def admit(self) -> Pass | None:
        """A pass for one attempt, or None where none may be made now."""
        with self._lock:
            state = self.state
            if state is BreakerState.CLOSED:
                return Pass(is_probe=False)
            if state is BreakerState.OPEN or self._is_probing:
                return None
            self._is_probing = True
            return Pass(is_probe=True)

    @contextmanager
    def watching(self, leave: Pass) -> Iterator[None]:
        """One attempt: what leaves the block tells how it went, and anything but a ProviderError tells nothing."""
        try:
            yield
        except ProviderError as error:
            self.failed(leave, error)
            raise
        except BaseException:
            self.abandoned(leave)
            raise
        self.succeeded(leave)

    def succeeded(self, leave: Pass) -> None:
        """The attempt gave an answer, so the provider works."""
        with self._lock:
            self.abandoned(leave)
            self._failures = 0
            self._opened_at = None

    def failed(self, leave: Pass, error: ProviderError) -> None:
        """The attempt failed; a request that was wrong, or sent too soon, says nothing about the provider."""
        with self._lock:
            self.abandoned(leave)
            if not error.retryable or isinstance(error, ProviderRateLimited):
                return
            self._failures += 1
            is_late = self._opened_at is not None and not leave.is_probe
            if self._failures >= self._policy.failures and not is_late:
                self._opened_at = self._clock()

    def abandoned(self, leave: Pass) -> None:
        """The attempt was given up before it told anything."""
        with self._lock:
            self._is_probing &= not leave.is_probe

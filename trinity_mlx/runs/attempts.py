"""The attempts at one agent for one turn: each told, each within the run's limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ..contracts.errors import ProviderError, TrinityError
from ..contracts.events import Event, ProviderCalled, ProviderFailed
from ..contracts.provider import OnText, Reply, Request
from ..rules.machine import Call
from .meter import Meter
from .retry import AgentClient, AttemptFailure


class Attempts:
    """Asks ``client`` for the reply that ``step`` calls for; used once."""

    def __init__(self, step: Call, client: AgentClient, meter: Meter, tell: Callable[[Event], None]) -> None:
        self._step = step
        self._client = client
        self._meter = meter
        self._tell = tell
        self._timer = asyncio.timeout(meter.wall_left_s())
        self._begun = time.monotonic()
        self._open: int | None = None
        """The number of the attempt that has begun and not ended."""

    async def ask(self, on_text: OnText | None) -> tuple[Reply, float]:
        """The reply, and the seconds that the attempt which gave it took.

        Raises:
            ProviderError: there is none.
            BudgetExceeded: a limit forbids an attempt, or ran out during one.
        """
        request = Request(self._step.messages, self._step.role, self._step.turn)
        try:
            async with self._timer:
                reply = await self._client.call(
                    request, on_text=on_text, on_attempt=self._attempt, on_failure=self._failure
                )
        except TimeoutError:
            if not self._timer.expired():
                raise
            ran_out = self._meter.ran_out(None if self._open is None else self._latency_s)
            self._abandoned(ran_out)
            raise ran_out from None
        except asyncio.CancelledError:
            self._abandoned(None)
            raise
        return reply, self._latency_s

    @property
    def _latency_s(self) -> float:
        return time.monotonic() - self._begun

    def _attempt(self, number: int) -> None:
        self._meter.admit()
        self._begun = time.monotonic()
        self._limit(self._meter.attempt_left_s())
        agent, step = self._client.agent, self._step
        self._tell(
            ProviderCalled(step.turn, agent.slot, agent.name, agent.provider, agent.model, step.role, attempt=number)
        )
        self._open = number

    def _failure(self, failure: AttemptFailure) -> None:
        self._limit(self._meter.wall_left_s())
        self._failed(failure.attempt, failure.error, failure.retry_in_s)

    def _abandoned(self, reason: TrinityError | None) -> None:
        """An attempt that was cut off ends in the trace like any other."""
        if self._open is not None:
            self._failed(self._open, reason, None)

    def _failed(self, number: int, error: TrinityError | None, retry_in_s: float | None) -> None:
        agent = self._client.agent
        self._tell(
            ProviderFailed(
                turn=self._step.turn,
                slot=agent.slot,
                agent=agent.name,
                attempt=number,
                error=type(error).__name__ if error else "Cancelled",
                message=str(error) if error else "the run was cancelled",
                status=error.status if isinstance(error, ProviderError) else None,
                latency_ms=self._latency_s * 1000,
                retry_in_s=retry_in_s,
                request_id=error.request_id if isinstance(error, ProviderError) else None,
            )
        )
        self._open = None

    def _limit(self, seconds: float | None) -> None:
        when = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self._timer.reschedule(when)

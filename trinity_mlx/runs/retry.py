"""One agent, called with care: each attempt limited in time, failures retried within a budget, a breaker before all."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import stamina

from ..contracts.errors import CircuitOpen, ProviderError, ProviderTimeout
from ..contracts.pool import Agent
from ..contracts.provider import OnText, Provider, Reply, Request
from .breaker import BreakerState, CircuitBreaker, Clock, Pass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a call is repeated.

    The wait after attempt ``n`` is ``wait_initial_s * 2**(n - 1)``, at most ``wait_max_s``, or what the provider asks
    for if that is longer, plus up to ``jitter_s``. ``total_s`` limits attempts and waits together, and is never less
    than the time of one attempt.
    """

    attempts: int = 3
    total_s: float = 180.0
    wait_initial_s: float = 0.5
    wait_max_s: float = 20.0
    jitter_s: float = 0.5

    def wait_s(self, attempt: int, retry_after_s: float | None = None) -> float:
        """Seconds to wait after the failed attempt ``attempt``, counted from 1."""
        backoff = min(self.wait_max_s, self.wait_initial_s * 2.0 ** (attempt - 1))
        return max(backoff, retry_after_s or 0.0) + random.uniform(0.0, self.jitter_s)


@dataclass(frozen=True, slots=True)
class AttemptFailure:
    """An attempt that gave no answer; ``retry_in_s`` is None where no further one follows."""

    attempt: int
    error: ProviderError
    latency_s: float
    retry_in_s: float | None


OnAttempt = Callable[[int], None]
"""Told the number of each attempt, from 1, as it begins: text that was streamed before it no longer counts."""

OnFailure = Callable[[AttemptFailure], None]
"""Told of each attempt that failed."""


def _ignore(told: object) -> None:
    """Nobody listens."""


class AgentClient:
    """Calls one agent; made once for it, and used by many runs at once within one event loop."""

    def __init__(
        self,
        agent: Agent,
        provider: Provider,
        policy: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.agent = agent
        self.provider = provider
        self.policy = policy or RetryPolicy()
        self.breaker = breaker or CircuitBreaker(clock=clock)
        self._clock = clock

    async def call(
        self,
        request: Request,
        *,
        on_text: OnText | None = None,
        on_attempt: OnAttempt = _ignore,
        on_failure: OnFailure = _ignore,
        deadline_s: float | None = None,
    ) -> Reply:
        """The agent's reply, after as many attempts as it takes and the policy and ``deadline_s`` allow.

        Args:
            request: what is asked.
            on_text: told each piece of text; with it the answer is streamed. What a listener raises ends the call.
            on_attempt: told of each attempt as it begins.
            on_failure: told of each attempt that failed.
            deadline_s: seconds from now that the caller has left for it all; None leaves it to the policy.

        Raises:
            ProviderError: the last attempt's error, or CircuitOpen where the agent is at rest.
        """
        budget_s = max(self.policy.total_s, self.agent.timeout_s)
        ends_at = self._clock() + (budget_s if deadline_s is None else min(budget_s, deadline_s))
        call = _Call(self, request, on_text, on_attempt, on_failure, ends_at, self._clock)
        async for attempt in stamina.retry_context(on=call.wait_after, attempts=self.policy.attempts, timeout=None):
            with attempt:
                return await call.attempt(attempt.num)
        raise AssertionError("the last attempt returns or raises")

    async def close(self) -> None:
        """Close the provider."""
        await self.provider.close()


@dataclass(slots=True)
class _Call:
    """One call under way: what its attempts share."""

    client: AgentClient
    request: Request
    on_text: OnText | None
    on_attempt: OnAttempt
    on_failure: OnFailure
    ends_at: float
    clock: Clock
    wait_s: float | None = None

    @property
    def left_s(self) -> float:
        return max(0.0, self.ends_at - self.clock())

    def wait_after(self, error: Exception) -> bool | float:
        """For stamina: the seconds to wait before the next attempt, False for none."""
        return False if self.wait_s is None or not isinstance(error, ProviderError) else self.wait_s

    async def attempt(self, number: int) -> Reply:
        """One admitted, timed attempt; a failure is reported together with the wait that follows it."""
        self.wait_s = None
        breaker = self.client.breaker
        held = self._admitted()
        begun = self.clock()
        try:
            self.on_attempt(number)
            reply = await self._timed()
        except ProviderError as error:
            breaker.failed(held, error)
            self.wait_s = self._next_wait_s(error, number)
            self.on_failure(AttemptFailure(number, error, self.clock() - begun, self.wait_s))
            raise
        except BaseException:
            breaker.abandoned(held)
            raise
        breaker.succeeded(held)
        return reply

    def _admitted(self) -> Pass:
        breaker = self.client.breaker
        held = breaker.admit()
        if held is None:
            left = breaker.rest_left_s
            when = f"is tried again in {left:.0f} s" if left else "is being tried by another run just now"
            raise CircuitOpen(
                f"agent {self.client.agent.name!r} failed {breaker.failures} times in a row and {when}",
                retry_after_s=left,
            )
        return held

    async def _timed(self) -> Reply:
        """The provider's reply within the agent's time, or within what is left if that is less."""
        agent = self.client.agent
        limit_s = min(agent.timeout_s, self.left_s)
        try:
            async with asyncio.timeout(limit_s) as timer:
                return await self.client.provider.reply(self.request, self.on_text)
        except TimeoutError:
            if not timer.expired():
                raise
        is_own = limit_s == agent.timeout_s
        raise ProviderTimeout(
            f"agent {agent.name!r} ({agent.provider}, model {agent.model!r}): no whole answer within {limit_s:.3g} s, "
            + ("its timeout_s" if is_own else "which was all the time left"),
            retryable=is_own,
        )

    def _next_wait_s(self, error: ProviderError, number: int) -> float | None:
        """Seconds until the next attempt, None if there is none: the last one, a hopeless one, or no time for it."""
        policy = self.client.policy
        if not error.retryable or number >= policy.attempts or self.client.breaker.state is not BreakerState.CLOSED:
            return None
        wait = policy.wait_s(number, error.retry_after_s)
        left = self.left_s
        if wait < left:
            return wait
        if error.retry_after_s is not None and error.retry_after_s >= left:
            error.args = (f"{error}; it asks for a wait of {error.retry_after_s:g} s, and {left:.3g} s are left",)
        return None

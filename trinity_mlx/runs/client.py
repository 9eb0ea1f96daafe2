"""One agent, called with care: attempts are limited in time and reported, failures retried, a breaker asked first.

The provider's code runs in a task of its own. So whatever it does with a cancellation (swallow it, wrap it, raise one
by itself), the attempt ends when its time is over and the run ends when it is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count

from ..contracts.errors import (
    BudgetExceeded,
    CircuitOpen,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    ProviderUnreachable,
    ReplyInvalid,
    TranscriptError,
    TrinityError,
)
from ..contracts.events import Event, ProviderCalled, ProviderFailed
from ..contracts.pool import Agent
from ..contracts.provider import OnText, Provider, Reply, Request
from ..providers.answers import checked_reply
from ..providers.wire.failures import Callee
from ..rules.budgets import Limits
from .breaker import BreakerState, CircuitBreaker, Pass
from .meter import Meter
from .retry import RetryPolicy

Tell = Callable[[Event], Awaitable[None]]
"""Takes each event; what it raises ends the call."""

GRACE_S = 0.05
"""Seconds that a provider has to end after it was cancelled; then it is left behind, and nothing of it counts."""
LONGEST_MESSAGE = 2000
"""Characters that are kept of what a provider's error says."""
LONGEST_NAME = 200
"""Characters that are kept of a provider's name for a request."""

_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())  # who runs a view on the terminal hears of retries by events


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, the seconds that the attempt which gave it took, and the number of that attempt, from 1."""

    reply: Reply
    latency_s: float
    attempt: int = 1


async def _nobody(event: Event) -> None:
    """Nobody listens."""


class AgentClient:
    """Calls one agent; made once for it, and used by many runs at once within one event loop.

    ``secret`` is taken out of every message that its provider raises.
    """

    def __init__(
        self,
        agent: Agent,
        provider: Provider,
        policy: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        secret: str | None = None,
    ) -> None:
        self.agent = agent
        self.provider = provider
        self.policy = policy or RetryPolicy()
        self.breaker = breaker or CircuitBreaker()
        self.callee = Callee(agent, secret=secret)
        self._left_behind: set[asyncio.Task[Reply]] = set()

    async def ask(
        self, request: Request, *, meter: Meter | None = None, tell: Tell = _nobody, on_text: OnText | None = None
    ) -> Answer:
        """The agent's reply, after as many attempts as it takes and the policy and the run's limits allow.

        Args:
            request: what is asked.
            meter: the limits of the run, and where attempts are counted.
            tell: told of each attempt that begins, and of each that fails.
            on_text: told each piece of text; with it the answer is streamed. What it raises ends the call.

        Raises:
            ProviderError: the last attempt's error, or CircuitOpen where the agent is at rest.
            BudgetExceeded: a limit forbids an attempt, or ran out during one.
        """
        return await _Asking(self, request, meter or Meter(Limits()), tell, on_text).answer()

    async def reply(self, request: Request, on_text: OnText | None, limit_s: float) -> Reply | None:
        """What the provider replies within ``limit_s`` seconds; None where that is over.

        Raises:
            ProviderError: the provider did anything but reply. Any other TrinityError is raised as it is.
        """
        listener = _Listener(on_text)
        task = asyncio.create_task(self._provider_reply(request, listener.told if on_text else None))
        try:
            await asyncio.wait({task}, timeout=limit_s)
        finally:
            listener.is_open = False
            is_late = not task.done()
            if is_late:
                await self._abandon(task)
        if listener.raised is not None:
            raise listener.raised
        return None if is_late else self._checked(task)

    async def close(self) -> None:
        """Close the provider; attempts that were left behind are asked to end once more."""
        for task in self._left_behind:
            task.cancel()
        await self.provider.close()

    async def _provider_reply(self, request: Request, on_text: OnText | None) -> Reply:
        return await self.provider.reply(request, on_text)

    async def _abandon(self, task: asyncio.Task[Reply]) -> None:
        """Cancel ``task``, and wait a moment for it to give back its connection."""
        self._left_behind.add(task)
        task.add_done_callback(self._ended)
        task.cancel()
        await asyncio.wait({task}, timeout=GRACE_S)

    def _ended(self, task: asyncio.Task[Reply]) -> None:
        self._left_behind.discard(task)
        if not task.cancelled():
            task.exception()  # seen here, so that nobody is told of an exception that was never looked at

    def _checked(self, task: asyncio.Task[Reply]) -> Reply:
        """The reply of a task that has ended; anything else as an error that holds no key."""
        if task.cancelled():
            raise self.callee.error(ProviderUnavailable, "its provider gave up its own call")
        error = task.exception()
        if error is None:
            return checked_reply(self.callee, task.result())
        if isinstance(error, TranscriptError):
            raise self.callee.error(ReplyInvalid, f"its provider made no message: {error}") from None
        if isinstance(error, TrinityError) and type(error).__str__ is BaseException.__str__:
            raise _bounded(error, self.callee)
        if isinstance(error, Exception):
            raise self._undeclared(error) from error
        raise error

    def _undeclared(self, error: Exception) -> ProviderError:
        text = f"its provider raised {type(error).__name__}: {self.callee.quoted(_words(error))}"
        if isinstance(error, TimeoutError):
            return self.callee.error(ProviderTimeout, text)
        if isinstance(error, OSError):
            return self.callee.error(ProviderUnreachable, text)
        return self.callee.error(ReplyInvalid, text, retryable=False)


class _Listener:
    """Who hears the text of one attempt, until that is over; the first thing that it raises is kept."""

    def __init__(self, on_text: OnText | None) -> None:
        self._on_text = on_text
        self.is_open = True
        self.raised: Exception | None = None

    def told(self, text: str) -> None:
        if not self.is_open or self._on_text is None:
            return
        try:
            self._on_text(text)
        except Exception as error:
            self.is_open = False
            self.raised = error
            raise


class _Asking:
    """A call under way: what its attempts share."""

    def __init__(self, client: AgentClient, request: Request, meter: Meter, tell: Tell, on_text: OnText | None) -> None:
        self._client = client
        self._request = request
        self._meter = meter
        self._tell = tell
        self._on_text = on_text
        self._ends_at = meter.now() + max(client.policy.total_s, client.agent.timeout_s)
        self._begun = meter.now()

    async def answer(self) -> Answer:
        for number in count(1):
            leave = self._admitted()
            try:
                with self._client.breaker.watching(leave):
                    return await self._attempt(number)
            except ProviderError as error:
                wait_s = self._wait_s(error, number)
                await self._tell_failure(number, error, wait_s)
                if wait_s is None:
                    raise
                await self._wait(wait_s)
        raise AssertionError("attempts are counted without an end")

    @property
    def _latency_s(self) -> float:
        return self._meter.now() - self._begun

    @property
    def _left_s(self) -> float:
        return max(0.0, self._ends_at - self._meter.now())

    def _admitted(self) -> Pass:
        breaker, agent = self._client.breaker, self._client.agent
        leave = breaker.admit()
        if leave is None:
            left = breaker.rest_left_s
            when = f"is tried again in {left:.0f} s" if left else "is being tried by another run just now"
            failures = f"agent {agent.name!r} failed {breaker.failures} times in a row"
            raise CircuitOpen(f"{failures} and {when}", retry_after_s=left)
        return leave

    async def _attempt(self, number: int) -> Answer:
        """One attempt; one that is cut off by a limit of the run or by its cancellation is told here."""
        agent, request = self._client.agent, self._request
        self._meter.admit()
        self._begun = self._meter.now()
        begins = ProviderCalled(request.turn, agent.slot, agent.name, agent.provider, agent.model, request.role, number)
        try:
            await self._tell(begins)
            return Answer(await self._limited(), self._latency_s, number)
        except BudgetExceeded as error:
            await self._tell_failure(number, error, None)
            raise
        except asyncio.CancelledError:
            await self._tell_failure(number, None, None)
            raise

    async def _limited(self) -> Reply:
        """The reply within the tightest of three times: the agent's own, what is left in all, and the run's."""
        agent = self._client.agent
        own_s, run_s = min(agent.timeout_s, self._left_s), self._meter.attempt_left_s()
        limit_s = own_s if run_s is None else min(own_s, run_s)
        reply = await self._client.reply(self._request, self._on_text, limit_s)
        if reply is not None:
            return reply
        if run_s is not None and run_s <= own_s:
            raise self._meter.ran_out(self._latency_s)
        is_own = own_s == agent.timeout_s
        raise ProviderTimeout(
            f"agent {agent.name!r} ({agent.provider}, model {agent.model!r}): no whole answer within {own_s:.3g} s, "
            + ("its timeout_s" if is_own else "which was all the time left"),
            retryable=is_own,
        )

    def _wait_s(self, error: ProviderError, number: int) -> float | None:
        """Seconds until the next attempt, None if there is none: the last one, a hopeless one, or no time for it."""
        policy = self._client.policy
        if not error.retryable or number >= policy.attempts or self._client.breaker.state is not BreakerState.CLOSED:
            return None
        wait, left = policy.wait_s(number, error.retry_after_s), self._left_s
        if wait < left:
            return wait
        if error.retry_after_s is not None and error.retry_after_s >= left:
            error.args = (f"{error}; it asks for a wait of {error.retry_after_s:g} s, and {left:.3g} s are left",)
        return None

    async def _wait(self, wait_s: float) -> None:
        """The wait between two attempts, which belongs to the run and not to a call."""
        left_s = self._meter.wall_left_s()
        if left_s is not None and left_s <= wait_s:
            await asyncio.sleep(left_s)
            raise self._meter.ran_out(None)
        await asyncio.sleep(wait_s)

    async def _tell_failure(self, number: int, error: TrinityError | None, retry_in_s: float | None) -> None:
        agent = self._client.agent
        failure = error if isinstance(error, ProviderError) else None
        if retry_in_s is not None and failure is not None:
            name, status = type(failure).__name__, failure.status
            _log.warning(
                "agent %s: attempt %d: %s, status %s; again in %.2f s", agent.name, number, name, status, retry_in_s
            )
        await self._tell(
            ProviderFailed(
                turn=self._request.turn,
                slot=agent.slot,
                agent=agent.name,
                attempt=number,
                error=type(error).__name__ if error else "Cancelled",
                message=str(error) if error else "the run was cancelled",
                status=failure.status if failure else None,
                latency_ms=self._latency_s * 1000,
                retry_in_s=retry_in_s,
                request_id=failure.request_id if failure else None,
            )
        )


def _words(error: BaseException) -> str:
    """What ``error`` says, which its own code may fail to tell."""
    try:
        return str(error)
    except Exception as second:
        return f"what it says cannot be told ({type(second).__name__})"


def _bounded(error: TrinityError, callee: Callee) -> TrinityError:
    """``error`` without the key, and with attributes of the kinds and sizes that are promised."""
    words = callee.redact(str(error))
    error.args = (words if len(words) <= LONGEST_MESSAGE else words[:LONGEST_MESSAGE] + " ...",)
    if isinstance(error, ProviderError):
        error.status = error.status if type(error.status) is int and 100 <= error.status < 1000 else None
        error.retryable = error.retryable is True
        error.retry_after_s = _seconds(error.retry_after_s)
        name = error.request_id
        error.request_id = callee.redact(name)[:LONGEST_NAME] if isinstance(name, str) else None
    return error


def _seconds(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if 0 <= value < math.inf else None

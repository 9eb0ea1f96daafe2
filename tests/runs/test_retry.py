"""One agent, called with care, against a server that fails as the test asks."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import (
    BudgetExceeded,
    CircuitOpen,
    ProviderError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from trinity_mlx.contracts.events import Event, ProviderCalled, ProviderFailed
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.contracts.provider import Reply, Request
from trinity_mlx.contracts.routing import Role
from trinity_mlx.contracts.transcript import Message
from trinity_mlx.providers.registry import make_provider
from trinity_mlx.rules.budgets import Limits
from trinity_mlx.runs.breaker import BreakerPolicy, BreakerState, CircuitBreaker
from trinity_mlx.runs.client import AgentClient, Answer
from trinity_mlx.runs.meter import Meter
from trinity_mlx.runs.retry import RetryPolicy

from ..provider_server import ProviderServer

ASKED = Request((Message("user", "What is 17 + 25?"),), Role.WORKER, 0)
QUICK = RetryPolicy(wait_initial_s=0.01, wait_max_s=0.02, jitter_s=0.0)


@dataclass
class Heard:
    """What a call told."""

    attempts: list[int] = field(default_factory=list)
    failures: list[ProviderFailed] = field(default_factory=list)
    pieces: list[tuple[int, str]] = field(default_factory=list)

    async def tell(self, event: Event) -> None:
        if isinstance(event, ProviderCalled):
            self.attempts.append(event.attempt)
        elif isinstance(event, ProviderFailed):
            self.failures.append(event)

    def on_text(self, text: str) -> None:
        self.pieces.append((self.attempts[-1], text))

    def listeners(self) -> dict[str, Any]:
        return {"on_text": self.on_text, "tell": self.tell}


@pytest.fixture(scope="module")
def server() -> Iterator[ProviderServer]:
    with ProviderServer() as running:
        yield running


def with_client(
    server: ProviderServer,
    model: str,
    work: Callable[[AgentClient], Awaitable[Any]],
    policy: RetryPolicy = QUICK,
    timeout_s: float = 120.0,
    breaker: CircuitBreaker | None = None,
) -> Any:
    agent = Agent(0, "solver", "openai-compatible", model, server.url, timeout_s=timeout_s)

    async def run() -> Any:
        client = AgentClient(agent, make_provider(agent), policy, breaker)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


def call(server: ProviderServer, model: str, heard: Heard | None = None, **options: Any) -> Reply:
    listeners = heard.listeners() if heard else {}
    meter = options.pop("meter", Meter(Limits()))
    answer: Answer = with_client(server, model, lambda client: client.ask(ASKED, meter=meter, **listeners), **options)
    return answer.reply


def test_each_attempt_and_each_failure_is_told(server: ProviderServer) -> None:
    heard = Heard()
    reply = call(server, "fault:503*2/told", heard)
    assert reply.text == "reply to: What is 17 + 25?"
    assert heard.attempts == [1, 2, 3]
    assert [failure.attempt for failure in heard.failures] == [1, 2]
    assert [failure.retry_in_s for failure in heard.failures] == [0.01, 0.02]
    for failure in heard.failures:
        assert failure.error == ProviderUnavailable.__name__
        assert failure.latency_ms > 0


def test_the_last_attempts_error_ends_the_call_and_says_that_no_other_follows(server: ProviderServer) -> None:
    heard = Heard()
    with pytest.raises(ProviderUnavailable) as caught:
        call(server, "fault:502", heard)
    assert heard.attempts == [1, 2, 3]
    assert [failure.retry_in_s for failure in heard.failures] == [0.01, 0.02, None]
    assert heard.failures[-1].message == str(caught.value)


def test_what_cannot_succeed_is_not_tried_again(server: ProviderServer) -> None:
    heard = Heard()
    with pytest.raises(ProviderRefused):
        call(server, "fault:401", heard)
    assert heard.attempts == [1]
    assert heard.failures[0].retry_in_s is None


def test_text_of_a_broken_attempt_is_told_apart_by_its_number(server: ProviderServer) -> None:
    heard = Heard()
    reply = call(server, "fault:cut*1/text", heard)
    assert {number for number, _ in heard.pieces} == {1, 2}
    assert "".join(text for number, text in heard.pieces if number == 2) == reply.text


def test_the_provider_is_given_the_time_that_it_asks_for(server: ProviderServer) -> None:
    heard = Heard()
    begun = time.monotonic()
    call(server, "fault:429-retry-after*1/wait", heard)
    assert heard.failures[0].retry_in_s == 1.0
    assert time.monotonic() - begun >= 1.0


def test_a_wait_beyond_the_budget_is_not_begun(server: ProviderServer) -> None:
    heard = Heard()
    with pytest.raises(ProviderRateLimited, match=r"asks for a wait of 3600 s, and .* s are left"):
        call(server, "fault:429-long", heard)
    assert heard.attempts == [1]
    assert heard.failures[0].retry_in_s is None


def test_attempts_and_waits_together_stay_within_the_total(server: ProviderServer) -> None:
    heard = Heard()
    patient = RetryPolicy(attempts=1000, wait_initial_s=0.05, wait_max_s=0.05, jitter_s=0.0, total_s=0.4)
    with pytest.raises((ProviderUnavailable, ProviderTimeout)):
        call(server, "fault:500", heard, policy=patient, timeout_s=0.4)
    waits = [failure.retry_in_s for failure in heard.failures]
    assert waits[-1] is None
    assert 1 <= len(waits) <= 9


def test_an_attempt_is_limited_in_all_and_not_from_byte_to_byte() -> None:
    with ProviderServer(drip_s=0.02) as server:
        begun = time.monotonic()
        with pytest.raises(ProviderTimeout, match=r"no whole answer within 0.2 s, its timeout_s") as caught:
            call(server, "fault:dripped", timeout_s=0.2, policy=RetryPolicy(attempts=1))
        assert time.monotonic() - begun >= 0.2
        assert caught.value.retryable


def test_a_limit_of_the_run_that_cuts_an_attempt_is_not_held_against_the_provider(server: ProviderServer) -> None:
    breaker = CircuitBreaker(BreakerPolicy(failures=1))
    heard = Heard()
    meter = Meter(Limits(wall_time_s=0.1), now=lambda: 0.0)  # so all of it is left as the attempt begins
    with pytest.raises(BudgetExceeded, match="wall_time"):
        call(server, "fault:slow-header", heard, breaker=breaker, meter=meter)
    assert heard.attempts == [1]
    assert breaker.state is BreakerState.CLOSED


def test_a_total_shorter_than_one_attempt_still_allows_one(server: ProviderServer) -> None:
    reply = call(server, "echo", policy=RetryPolicy(total_s=0.0))
    assert reply.text


def test_the_breaker_opens_over_calls_and_refuses_without_an_attempt(server: ProviderServer) -> None:
    breaker = CircuitBreaker(BreakerPolicy(failures=4, rest_s=60), clock=lambda: 0.0)
    first, second, third = Heard(), Heard(), Heard()
    for heard in (first, second):
        with pytest.raises(ProviderUnavailable):
            call(server, "fault:500", heard, breaker=breaker)
    assert (first.attempts, second.attempts) == ([1, 2, 3], [1])
    assert second.failures[0].retry_in_s is None
    with pytest.raises(CircuitOpen, match="'solver' failed 4 times in a row and is tried again in 60 s") as caught:
        call(server, "echo", third, breaker=breaker)
    assert third.attempts == []
    assert not caught.value.retryable
    assert caught.value.retry_after_s == 60


def test_after_the_rest_a_single_call_tries_for_all(server: ProviderServer) -> None:
    breaker = CircuitBreaker(BreakerPolicy(failures=1, rest_s=0.1))
    with pytest.raises(ProviderError):
        call(server, "fault:500", breaker=breaker)
    time.sleep(0.11)

    async def rush(client: AgentClient) -> list[Any]:
        return await asyncio.gather(*(client.ask(ASKED) for _ in range(20)), return_exceptions=True)

    results = with_client(server, "after the rest", rush, breaker=breaker)
    assert sum(isinstance(result, Answer) for result in results) == 1
    assert sum(isinstance(result, CircuitOpen) for result in results) == 19
    assert sum(received.model == "after the rest" for received in server.requests) == 1
    assert breaker.state is BreakerState.CLOSED


def test_cancelling_in_an_attempt_or_in_a_wait_ends_the_call_and_frees_the_breaker(server: ProviderServer) -> None:
    breaker = CircuitBreaker(BreakerPolicy(failures=1, rest_s=0.0))
    with pytest.raises(ProviderError):
        call(server, "fault:500", breaker=breaker)
    assert breaker.state is BreakerState.HALF_OPEN

    async def cancel(client: AgentClient) -> None:
        task = asyncio.create_task(client.ask(ASKED))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with_client(server, "fault:stalled", cancel, breaker=breaker)
    assert breaker.admit() is not None
    with_client(server, "fault:429-retry-after", cancel)


def test_what_a_listener_raises_ends_the_call_at_once(server: ProviderServer) -> None:
    spent = BudgetExceeded("calls", 1, 2)
    for kind, attempts in ((ProviderCalled, []), (ProviderFailed, [1])):
        heard = Heard()

        async def tell(event: Event, kind: type[Event] = kind, heard: Heard = heard) -> None:
            if isinstance(event, kind):
                raise spent
            await heard.tell(event)

        with pytest.raises(BudgetExceeded) as caught:
            with_client(server, "fault:500", lambda client, tell=tell: client.ask(ASKED, tell=tell))
        assert caught.value is spent
        assert heard.attempts == attempts


def test_two_hundred_calls_at_once(server: ProviderServer) -> None:
    async def rush(client: AgentClient) -> list[Answer]:
        return await asyncio.gather(*(client.ask(ASKED) for _ in range(200)))

    replies = with_client(server, "echo", rush, timeout_s=300)
    assert len(replies) == 200


@given(
    attempt=st.integers(1, 200),
    asked=st.one_of(st.none(), st.floats(0, 1e4)),
    initial=st.floats(0, 10),
    most=st.floats(0, 100),
    jitter=st.floats(0, 5),
)
def test_a_wait_is_bounded_grows_and_is_never_shorter_than_was_asked(
    attempt: int, asked: float | None, initial: float, most: float, jitter: float
) -> None:
    policy = RetryPolicy(wait_initial_s=initial, wait_max_s=most, jitter_s=jitter)
    wait = policy.wait_s(attempt, asked)
    assert wait >= (asked or 0.0)
    assert wait <= max(most, asked or 0.0) + jitter
    steady = RetryPolicy(wait_initial_s=initial, wait_max_s=most, jitter_s=0.0)
    assert steady.wait_s(attempt) <= steady.wait_s(attempt + 1)


def test_waits_of_many_callers_differ() -> None:
    assert len({RetryPolicy().wait_s(1) for _ in range(20)}) > 1


def test_a_log_tells_of_retries_and_of_nothing_that_was_asked(
    server: ProviderServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        call(server, "fault:503*2/log")
    assert [record.name for record in caplog.records] == ["trinity_mlx.runs.client"] * 2
    for record in caplog.records:
        assert "ProviderUnavailable, status 503; again in 0.0" in record.getMessage()
        assert "17" not in record.getMessage()


def test_importing_the_client_and_the_registry_imports_no_sdk() -> None:
    code = "import sys, trinity_mlx.providers.registry, trinity_mlx.runs.breaker; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert "trinity_mlx" in loaded
    assert not loaded & {"openai", "anthropic", "any_llm", "httpx", "httpx2", "pydantic", "torch", "mlx", "mlx_lm"}

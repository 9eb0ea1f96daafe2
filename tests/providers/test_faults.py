"""Every way in which an endpoint can fail, for every provider that calls one: the error's class and what it carries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from trinity_mlx.contracts.errors import (
    ProviderError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
    ProviderUnreachable,
    ReplyInvalid,
)
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.contracts.provider import Finish, Reply, Request
from trinity_mlx.contracts.routing import Role
from trinity_mlx.contracts.transcript import Message
from trinity_mlx.providers.registry import make_provider
from trinity_mlx.providers.wire.limits import MAX_REPLY_BYTES
from trinity_mlx.runs.client import AgentClient
from trinity_mlx.runs.retry import RetryPolicy

from ..provider_server import FAULTS, HUGE, ProviderServer, closed_port

KEY = "sk-secret-%41/+key"
PROVIDERS = ("openai-compatible", "anthropic", "any-llm")
ASKED = Request((Message("system", "Be brief."), Message("user", "What is 17 + 25?")), Role.WORKER, 0)
ONCE = RetryPolicy(attempts=1)


@dataclass(frozen=True)
class Case:
    """What a fault must become; the ones that end well are not here."""

    fault: str
    error: type[ProviderError]
    status: int | None = None
    is_retryable: bool = True
    retry_after_s: float | None = None
    in_stream: type[ProviderError] | None = None
    """The class where the answer is streamed, if it is another one."""


REFUSED = [Case(str(code), ProviderRefused, code, False) for code in (400, 401, 403, 404, 413, 422)]
UNAVAILABLE = [Case(str(code), ProviderUnavailable, code) for code in (409, 500, 502, 503, 504, 529)]
CASES = [
    *REFUSED,
    *UNAVAILABLE,
    Case("408", ProviderTimeout, 408),
    Case("429", ProviderRateLimited, 429),
    Case("429-retry-after", ProviderRateLimited, 429, retry_after_s=1.0),
    Case("429-retry-ms", ProviderRateLimited, 429, retry_after_s=0.02),
    Case("429-long", ProviderRateLimited, 429, retry_after_s=3600.0),
    Case("429-quota", ProviderRateLimited, 429, False),
    Case("503-retry-after", ProviderUnavailable, 503, retry_after_s=1.0),
    Case("redirect", ProviderRefused, 302, False),
    Case("empty-body", ReplyInvalid),
    Case("html", ReplyInvalid),
    Case("truncated-json", ReplyInvalid),
    Case("deep-json", ReplyInvalid),
    Case("not-utf8", ReplyInvalid),
    Case("other-shape", ReplyInvalid),
    Case("packed", ReplyInvalid, is_retryable=False),
    Case("error-in-200", ReplyInvalid),
    Case("error-in-stream", ReplyInvalid, in_stream=ProviderUnavailable),
    Case("empty-answer", ReplyInvalid),
    Case("blank-answer", ReplyInvalid),
    Case("null-answer", ReplyInvalid),
    Case("only-reasoning", ReplyInvalid),
    Case("lone-surrogate", ReplyInvalid),
    Case("no-choices", ReplyInvalid),
    Case("length-empty", ReplyInvalid, is_retryable=False),
    Case("only-thinking", ReplyInvalid, is_retryable=False),
    Case("withheld", ReplyInvalid, is_retryable=False),
    Case("cut", ProviderUnreachable),
    Case("broken-events", ReplyInvalid),
    Case("garbage", ProviderUnreachable),
    Case("hung-up", ProviderUnreachable),
]
SLOW = ("stalled", "dripped", "slow-header")
NOT_OF = {("anthropic", "withheld")}
ELSEWHERE = {"429-retry-date", "no-finish", "huge", "length", "thinking", "wrong-type"}


@pytest.fixture(scope="module")
def server() -> Iterator[ProviderServer]:
    with ProviderServer() as running:
        yield running


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def is_streamed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def agent_of(provider: str, model: str, url: str, **fields: Any) -> Agent:
    """An agent for an OpenAI-like address that ends in /v1."""
    if provider == "anthropic":
        url = url.removesuffix("/v1")
    named = f"openai:{model}" if provider == "any-llm" else model
    return Agent(0, "solver", provider, named, url, "env:KEY", **fields)


def ask(agent: Agent, is_streamed: bool, key: str | None = KEY) -> Reply:
    """One attempt, within the agent's time."""

    async def call() -> Reply:
        client = AgentClient(agent, make_provider(agent, key), ONCE)
        try:
            return (await client.ask(ASKED, on_text=(lambda text: None) if is_streamed else None)).reply
        finally:
            await client.close()

    return asyncio.run(call())


def failure_of(agent: Agent, is_streamed: bool) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        ask(agent, is_streamed)
    error = caught.value
    assert KEY not in str(error)
    assert KEY not in repr(error)
    assert error.__cause__ is None
    assert "agent 'solver'" in str(error)
    assert agent.provider in str(error)
    assert "\n" not in str(error)
    return error


def asked_for(server: ProviderServer, case: Case) -> int:
    """How many requests were for this fault: those of a test before, which did not wait, may still come."""
    return sum(received.model.endswith(f"fault:{case.fault}") for received in server.requests)


def test_every_fault_of_the_server_is_tested() -> None:
    assert {case.fault for case in CASES} | set(SLOW) | ELSEWHERE == set(FAULTS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.fault)
def test_a_fault_becomes_the_error_that_says_so(
    server: ProviderServer, provider: str, case: Case, is_streamed: bool
) -> None:
    agent = agent_of(provider, f"fault:{case.fault}", server.url, timeout_s=300)
    if (provider, case.fault) in NOT_OF:
        pytest.skip("the provider has no such end")
    before = asked_for(server, case)
    error = failure_of(agent, is_streamed)
    assert asked_for(server, case) == before + 1, "the SDK has tried again by itself"
    assert type(error) is (case.in_stream if is_streamed and case.in_stream else case.error), error
    assert (error.status, error.retryable, error.retry_after_s) == (case.status, case.is_retryable, case.retry_after_s)
    if case.status:
        assert error.request_id == "req-1"
        assert f"HTTP {case.status}: status {case.status} for the key <redacted>" in str(error)


@pytest.mark.parametrize("fault", SLOW)
def test_an_answer_that_does_not_come_ends_with_the_agents_time(
    server: ProviderServer, provider: str, fault: str, is_streamed: bool
) -> None:
    agent = agent_of(provider, f"fault:{fault}", server.url, timeout_s=0.15)
    error = failure_of(agent, is_streamed)
    assert type(error) is ProviderTimeout
    assert error.retryable
    assert "within 0.15 s" in str(error)


def test_a_date_to_retry_after_becomes_seconds(server: ProviderServer, provider: str) -> None:
    begun = time.time()
    error = failure_of(agent_of(provider, "fault:429-retry-date", server.url), False)
    assert error.retry_after_s is not None
    assert 3599 - (time.time() - begun) <= error.retry_after_s <= 3600  # a date has whole seconds


def test_a_stream_without_a_finish_reason_was_cut(server: ProviderServer, provider: str) -> None:
    error = failure_of(agent_of(provider, "fault:no-finish", server.url), True)
    assert type(error) is ReplyInvalid
    assert error.retryable
    assert "it was cut" in str(error)


def test_a_huge_reply_is_refused_while_it_comes(provider: str, is_streamed: bool) -> None:
    with ProviderServer() as server:
        error = failure_of(agent_of(provider, "fault:huge", server.url), is_streamed)
        assert type(error) is ReplyInvalid
        assert f"larger than {MAX_REPLY_BYTES:,} bytes" in str(error)
        assert MAX_REPLY_BYTES <= server.sent_bytes < HUGE


def test_the_token_limit_is_the_finish_reason(server: ProviderServer, provider: str, is_streamed: bool) -> None:
    reply = ask(agent_of(provider, "fault:length", server.url), is_streamed)
    assert reply.finish is Finish.LENGTH
    assert reply.text == "an answer without its"


def test_reasoning_is_left_out(server: ProviderServer, provider: str, is_streamed: bool) -> None:
    assert ask(agent_of(provider, "fault:thinking", server.url), is_streamed).text == "ACCEPT"


def test_a_right_answer_under_a_wrong_type_is_read(server: ProviderServer, provider: str) -> None:
    assert ask(agent_of(provider, "fault:wrong-type", server.url), False).text == "text"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{closed}/v1", "http://no-such-host.invalid/v1"], ids=["refused", "no such name"]
)
def test_a_host_that_cannot_be_reached(provider: str, url: str, is_streamed: bool) -> None:
    error = failure_of(agent_of(provider, "any", url.format(closed=closed_port())), is_streamed)
    assert type(error) is ProviderUnreachable
    assert error.retryable
    assert error.status is None


def test_a_certificate_that_nobody_signed_is_refused(provider: str) -> None:
    with ProviderServer(tls=True) as server:
        error = failure_of(agent_of(provider, "echo", server.url), False)
        assert type(error) is ProviderUnreachable
        assert "certificate" in str(error).lower()
        assert not server.requests


def test_a_message_names_the_host_and_never_the_credentials_in_an_address() -> None:
    url = f"http://user:password@127.0.0.1:{closed_port()}/v1?token=abc"
    error = failure_of(agent_of("openai-compatible", "some-model", url), False)
    assert "at 127.0.0.1:" in str(error)
    assert "some-model" in str(error)
    assert "password" not in str(error)
    assert "abc" not in str(error)


def test_a_key_is_not_taken_to_another_host(provider: str) -> None:
    with ProviderServer() as other, ProviderServer() as server:
        server.faults["redirect"] = lambda exchange: exchange.whole(b"", status=307, location=other.url)
        error = failure_of(agent_of(provider, "fault:redirect", server.url), False)
        assert error.status == 307
        assert not other.requests


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while not condition():
            await asyncio.sleep(0.005)


async def alone(server: ProviderServer) -> None:
    """Wait until the server has seen everybody go, also who asked in another test."""
    await until(lambda: server.connections == 0)


def test_cancelling_closes_the_connection(server: ProviderServer, provider: str, is_streamed: bool) -> None:
    agent = agent_of(provider, "fault:stalled", server.url)

    async def cancel() -> None:
        await alone(server)
        made = make_provider(agent, KEY)
        task = asyncio.create_task(made.reply(ASKED, (lambda text: None) if is_streamed else None))
        await until(lambda: server.connections > 0)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await alone(server)
        await made.close()

    asyncio.run(cancel())


def test_what_a_listener_raises_is_no_failure_of_the_provider_and_closes_the_connection(
    server: ProviderServer, provider: str
) -> None:
    def broken(text: str) -> None:
        raise ValueError("I/O operation on closed file")

    async def call() -> None:
        await alone(server)
        made = make_provider(agent_of(provider, "fault:stalled", server.url), KEY)
        with pytest.raises(ValueError, match="closed file"):
            await made.reply(ASKED, broken)
        await alone(server)
        await made.close()

    asyncio.run(call())

"""What is sent to an endpoint, and what is not: fields, headers, and nothing from the environment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import EnvironmentUnavailable, PoolInvalid, ProviderRefused, ReplyInvalid
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.contracts.provider import Request
from trinity_mlx.contracts.routing import Role
from trinity_mlx.contracts.transcript import Message
from trinity_mlx.providers.registry import make_provider
from trinity_mlx.providers.wire.failures import MAX_PROVIDER_TEXT, Callee, retry_after_s

from ..file_server import wait_for
from ..provider_server import ProviderServer, Received

KEY = "sk-secret"
SAID = (Message("system", "Be brief."), Message("user", "What is 17 + 25?"))
ENVIRONMENT = {
    "OPENAI_API_KEY": "sk-environment",
    "OPENAI_ADMIN_KEY": "sk-environment",
    "OPENAI_ORG_ID": "org-environment",
    "OPENAI_PROJECT_ID": "project-environment",
    "OPENAI_BASE_URL": "http://127.0.0.1:9/environment",
    "OPENAI_CUSTOM_HEADERS": "X-From: environment",
    "ANTHROPIC_API_KEY": "sk-environment",
    "ANTHROPIC_AUTH_TOKEN": "sk-environment",
    "ANTHROPIC_BASE_URL": "http://127.0.0.1:9/environment",
    "ANTHROPIC_CUSTOM_HEADERS": "X-From: environment",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
    "SSL_CERT_FILE": "/no/such/file",
}
HEADERS = {
    "openai-compatible": {"authorization"},
    "anthropic": {"x-api-key", "anthropic-version"},
}
COMMON_HEADERS = {"host", "accept", "accept-encoding", "connection", "content-length", "content-type", "user-agent"}


@pytest.fixture(scope="module")
def server() -> Iterator[ProviderServer]:
    with ProviderServer() as running:
        yield running


def agent(server: ProviderServer, provider: str = "openai-compatible", model: str = "echo", **fields: Any) -> Agent:
    url = server.origin if provider == "anthropic" else server.url
    return Agent(0, "solver", provider, model, url, **fields)


def send(
    server: ProviderServer, asked: Agent, *, is_streamed: bool = False, key: str | None = KEY, said: Any = SAID
) -> Received:
    """One reply; returns what the server received."""

    async def call() -> None:
        made = make_provider(asked, key)
        try:
            await made.reply(Request(said, Role.WORKER, 0), (lambda text: None) if is_streamed else None)
        finally:
            await made.close()

    asyncio.run(call())
    return server.requests[-1]


def test_messages_and_limits_are_sent_as_chat_completions_take_them(server: ProviderServer) -> None:
    assert send(server, agent(server, max_tokens=77, temperature=0.5)).body == {
        "model": "echo",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is 17 + 25?"},
        ],
        "max_tokens": 77,
        "temperature": 0.5,
        "stream": False,
    }
    assert server.requests[-1].path == "/v1/chat/completions"


def test_messages_and_limits_are_sent_as_anthropic_takes_them(server: ProviderServer) -> None:
    said = (*SAID, Message("assistant", "42"), Message("system", "Now check it."))
    received = send(server, agent(server, "anthropic", max_tokens=77, temperature=0.5), said=said)
    assert received.path == "/v1/messages"
    assert received.body == {
        "model": "echo",
        "system": "Be brief.\n\nNow check it.",
        "messages": [
            {"role": "user", "content": "What is 17 + 25?"},
            {"role": "assistant", "content": "42"},
            {"role": "user", "content": "It is your turn."},
        ],
        "max_tokens": 77,
        "temperature": 0.5,
        "stream": False,
    }


@pytest.mark.parametrize("provider", ["openai-compatible", "anthropic", "any-llm"])
def test_a_temperature_that_nobody_set_is_not_sent(server: ProviderServer, provider: str) -> None:
    model = "openai:echo" if provider == "any-llm" else "echo"
    assert "temperature" not in send(server, agent(server, provider, model)).body


@pytest.mark.parametrize("provider", ["openai-compatible", "anthropic"])
def test_extra_joins_the_body(server: ProviderServer, provider: str) -> None:
    extra = {"top_p": 0.9, "vendor": {"depth": [1, 2]}}
    body = send(server, agent(server, provider, extra=extra)).body
    assert {name: body[name] for name in extra} == extra


def test_any_llm_takes_extra_as_arguments(server: ProviderServer) -> None:
    body = send(server, agent(server, "any-llm", "openai:echo", max_tokens=9, extra={"top_p": 0.9})).body
    assert (body["model"], body["top_p"], body["max_completion_tokens"]) == ("echo", 0.9, 9)


def test_max_completion_tokens_takes_the_place_of_max_tokens(server: ProviderServer) -> None:
    body = send(server, agent(server, extra={"max_completion_tokens": 5})).body
    assert body["max_completion_tokens"] == 5
    assert "max_tokens" not in body


def test_a_stream_asks_for_counts_unless_told_not_to(server: ProviderServer) -> None:
    assert send(server, agent(server), is_streamed=True).body["stream_options"] == {"include_usage": True}
    plain = send(server, agent(server, extra={"stream_options": {}}), is_streamed=True).body
    assert plain["stream"] is True
    assert not plain.get("stream_options")
    other = {"include_usage": True, "include_obfuscation": False}
    assert (
        send(server, agent(server, extra={"stream_options": other}), is_streamed=True).body["stream_options"] == other
    )


@pytest.mark.parametrize("provider", ["openai-compatible", "anthropic", "any-llm"])
@pytest.mark.parametrize("name", ["messages", "model", "stream"])
def test_extra_may_not_hold_what_each_call_sets(server: ProviderServer, provider: str, name: str) -> None:
    with pytest.raises(PoolInvalid, match=f"agent 'solver': extra may not hold {name}"):
        make_provider(agent(server, provider, "openai:echo", extra={name: "x"}), KEY)


@pytest.mark.parametrize("provider", ["openai-compatible", "anthropic"])
def test_nothing_comes_from_the_environment(
    server: ProviderServer, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for key in (KEY, None):
        received = send(server, agent(server, provider), key=key)
        assert received.key == (key or "none")
        named = {name for name in received.headers if not name.startswith("x-stainless-")}
        assert named == COMMON_HEADERS | HEADERS[provider]
        assert not any("environment" in value for value in received.headers.values())


def test_any_llm_takes_neither_key_nor_address_from_the_environment(
    server: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert send(server, agent(server, "any-llm", "openai:echo"), key=None).key == "none"
    made: Any = make_provider(Agent(0, "solver", "any-llm", "openai:echo"), KEY)
    assert str(made._client.client.base_url) == "https://api.openai.com/v1/"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost:8000/v1", "must be like https://host/v1"),
        ("/v1", "must be like https://host/v1"),
        ("ftp://host/v1", "must be like https://host/v1"),
        ("http:///v1", "must be like https://host/v1"),
        ("http://host:port/v1", "not an address"),
        ("http://[::1/v1", "not an address"),
    ],
)
@pytest.mark.parametrize("provider", ["openai-compatible", "anthropic", "any-llm"])
def test_an_address_that_is_none_is_refused_before_a_call(provider: str, url: str, reason: str) -> None:
    with pytest.raises(PoolInvalid, match=f"agent 'solver': base_url.*{reason}"):
        make_provider(Agent(0, "solver", provider, "openai:m", url), KEY)


@pytest.mark.parametrize("provider", ["openai-compatible", "anthropic", "any-llm"])
def test_an_agent_without_a_model_is_refused_before_a_call(server: ProviderServer, provider: str) -> None:
    with pytest.raises(PoolInvalid, match=r"agent 'solver'.*model"):
        make_provider(agent(server, provider, ""), KEY)


@pytest.mark.parametrize("key", ["sk-a\nb", "sk-a ", "\tsk-a", "sk-é", "sk-\x00"])
@pytest.mark.parametrize("provider", ["openai-compatible", "anthropic", "any-llm"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(
    server: ProviderServer, provider: str, key: str
) -> None:
    with pytest.raises(PoolInvalid, match="agent 'solver': its key has spaces") as caught:
        make_provider(agent(server, provider, "openai:echo"), key)
    assert key.strip() not in str(caught.value)


@pytest.mark.parametrize("model", ["gpt", ":gpt", "openai:", "no-such-provider:gpt"])
def test_any_llm_is_told_a_provider_that_it_knows(server: ProviderServer, model: str) -> None:
    with pytest.raises(PoolInvalid, match="agent 'solver'"):
        make_provider(agent(server, "any-llm", model), KEY)


def test_any_llm_names_the_package_that_a_provider_lacks(server: ProviderServer) -> None:
    with pytest.raises(EnvironmentUnavailable, match=r"pip install 'any-llm-sdk\[watsonx\]'"):
        make_provider(agent(server, "any-llm", "watsonx:granite"), KEY)


def test_a_long_error_is_shortened_after_the_key_is_gone() -> None:
    callee = Callee(Agent(0, "solver", "x"), None, KEY)
    for before in range(MAX_PROVIDER_TEXT - 12, MAX_PROVIDER_TEXT + 3):
        shown = callee.quoted("x" * before + KEY + "y" * 400)
        assert "sk-" not in shown
        assert len(shown) <= MAX_PROVIDER_TEXT + len(" ...")


@given(key=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8), around=st.text(max_size=20))
def test_no_spelling_of_the_key_is_left(key: str, around: str) -> None:
    callee = Callee(Agent(0, "solver", "x"), None, key)
    assert key not in repr(callee)
    for spelling in (key, quote(key, safe=""), json.dumps(key)[1:-1]):
        assert spelling not in callee.redact(f"0{around}{spelling}{around}").replace("<redacted>", "")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "Sat, 21 Nov 2026 10:00:30 GMT"}, 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 09:00:00 GMT"}, 0.0),
        ({"retry-after": "1e308"}, 86_400.0),
        ({"retry-after-ms": "9" * 300}, 86_400.0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 86_400.0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 -2359"}, None),
        ({"retry-after": "Sat, 21 Nov 99999999999 10:00:00 GMT"}, None),
        ({"retry-after": "9" * 5000}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_seconds_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, datetime(2026, 11, 21, 10, 0, 0, tzinfo=UTC)) == seconds


@pytest.mark.parametrize("provider", ["openai-compatible", "anthropic", "any-llm"])
def test_calls_go_through_the_proxy_that_an_agent_names(server: ProviderServer, provider: str) -> None:
    model = "openai:echo" if provider == "any-llm" else "echo"
    asked = Agent(0, "solver", provider, model, "http://elsewhere.invalid/v1", proxy=server.origin)
    assert send(server, asked).path.startswith("http://elsewhere.invalid/v1/")


def test_a_proxy_that_any_llm_cannot_be_told_is_refused() -> None:
    with pytest.raises(PoolInvalid, match="takes no proxy"):
        make_provider(Agent(0, "a", "any-llm", "mistral:m", proxy="http://127.0.0.1:1"), KEY)


def test_counts_that_are_missing_are_not_made_up() -> None:
    with ProviderServer() as server:
        body = '{"choices": [{"message": {"content": "42"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}'
        server.faults["no-counts"] = lambda exchange: exchange.whole(body.encode())

        async def call() -> Any:
            made = make_provider(agent(server, model="fault:no-counts"), KEY)
            reply = await made.reply(Request(SAID, Role.WORKER, 0))
            await made.close()
            return reply

        reply = asyncio.run(call())
        assert (reply.text, reply.usage, reply.model) == ("42", None, "fault:no-counts")


def test_an_error_of_any_shape_is_reported() -> None:
    bodies = [b"plain words", b'"a string"', b'{"detail": "no such thing"}', b'{"error": "words"}', b"[1, 2]", b""]
    with ProviderServer() as server:
        for body in bodies:
            server.faults["odd"] = lambda exchange, body=body: exchange.whole(body, status=422)
            for provider in ("openai-compatible", "anthropic"):
                with pytest.raises(ProviderRefused, match=r"HTTP 422: .+"):
                    send(server, agent(server, provider, "fault:odd"))


def test_a_key_in_an_answer_of_success_that_is_no_reply_is_redacted(server: ProviderServer) -> None:
    server.faults["mirror"] = lambda exchange: exchange.whole(f"your key: {KEY}".encode(), "text/html")
    with pytest.raises(ReplyInvalid, match="your key: <redacted>"):
        send(server, agent(server, model="fault:mirror"))


def test_closing_gives_back_the_connections() -> None:
    with ProviderServer() as server:
        send(server, agent(server))
        send(server, agent(server, "anthropic"))
        send(server, agent(server, "any-llm", "openai:echo"))
        wait_for(lambda: server.connections == 0)

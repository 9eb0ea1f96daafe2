"""Tools, images and refusals to each provider and back, through its real SDK, whole and streamed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from trinity_mlx.contracts.errors import ReplyInvalid
from trinity_mlx.contracts.parts import Image, Refusal, Text, ToolCall, ToolResult
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.contracts.provider import (
    Finish,
    Reply,
    Request,
    ResponseFormat,
    Sampling,
    Tool,
    ToolChoice,
    ToolMode,
    Usage,
)
from trinity_mlx.contracts.routing import Role
from trinity_mlx.contracts.transcript import Message
from trinity_mlx.providers.registry import make_provider

from ..provider_server import Exchange, ProviderServer, Received, Said, answer_of, events_of
from ..sdk_types import assert_answer, assert_event, assert_request

PROVIDERS = ("openai-compatible", "anthropic", "any-llm")
PIXEL = Image.of_data(b"\x89PNG\r\n", "image/png")
FAR = Image.of_url("https://example.org/a.jpg", detail="low")
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = (Tool("look_up", "Says how warm a city is.", SCHEMA), Tool("now"))
CALLS = (
    ToolCall("call_1", "look_up", '{"city":"Köln"}'),
    ToolCall("call_2", "look_up", '{"city":"Zürich","deep":{"a":[1,2,{"b":null}]}}'),
    ToolCall("call_3", "now", "{}"),
)
ASKED = Request(
    messages=(
        Message("system", "Be brief."),
        Message("developer", "And polite."),
        Message("user", (Text("What is this?"), PIXEL, FAR)),
        Message("assistant", (Text("I look it up."), *CALLS[:2])),
        Message("tool", (ToolResult.of_text("call_1", "21 °C"),)),
        Message("tool", (ToolResult("call_2", (Text("no such city"), PIXEL), is_error=True),)),
        Message("user", "Well?"),
        Message("assistant", (Refusal("I would rather not."),)),
        Message("user", "Please."),
    ),
    role=Role.WORKER,
    turn=3,
    tools=TOOLS,
    tool_choice=ToolChoice(ToolMode.NAMED, "look_up", parallel=False),
    response_format=ResponseFormat(SCHEMA, "place", "A place.", strict=True),
    sampling=Sampling(temperature=0.5, top_p=0.9, max_tokens=77, stop=("END", "."), seed=0),
)
PLAIN = Request((Message("user", "How warm is it?"),), Role.WORKER, 0, TOOLS)


@pytest.fixture(scope="module")
def server() -> Iterator[ProviderServer]:
    with ProviderServer() as running:
        yield running
        for received in running.requests:
            assert_request(received.api, received.body)


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def is_streamed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def agent_of(server: ProviderServer, provider: str, model: str = "echo", **fields: Any) -> Agent:
    url = server.origin if provider == "anthropic" else server.url
    return Agent(0, "solver", provider, f"openai:{model}" if provider == "any-llm" else model, url, **fields)


def ask(agent: Agent, request: Request = PLAIN, heard: list[str] | None = None) -> Reply:
    async def call() -> Reply:
        made = make_provider(agent)
        try:
            return await made.reply(request, None if heard is None else heard.append)
        finally:
            await made.close()

    return asyncio.run(call())


def answer(server: ProviderServer, provider: str, is_streamed: bool, said: Said, request: Request = PLAIN) -> Reply:
    """The reply where the server says ``said``; what was streamed is its text."""

    def checked(received: Received) -> Said:
        assert_answer(received.api, answer_of(received, said))
        for event in events_of(received, said):
            data = event.decode().partition("data: ")[2].strip()
            if data != "[DONE]":
                assert_event(received.api, json.loads(data))
        return said

    server.answer = checked
    heard: list[str] = []
    reply = ask(agent_of(server, provider), request, heard if is_streamed else None)
    assert not is_streamed or "".join(heard) == reply.text
    return reply


def test_everything_that_a_request_holds_is_sent_in_the_form_of_openai(
    server: ProviderServer, provider: str, is_streamed: bool
) -> None:
    if provider == "anthropic":
        pytest.skip("it has a form of its own")
    answer(server, provider, is_streamed, Said("42"), ASKED)
    body = server.requests[-1].body
    pixel = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}}
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "And polite."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                pixel,
                {"type": "image_url", "image_url": {"url": "https://example.org/a.jpg", "detail": "low"}},
            ],
        },
        {
            "role": "assistant",
            "content": "I look it up.",
            "tool_calls": [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in CALLS[:2]
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "21 °C"},
        {"role": "tool", "tool_call_id": "call_2", "content": "[error] no such city"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "These images belong to the results above."}, pixel],
        },
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "content": None, "refusal": "I would rather not."},
        {"role": "user", "content": "Please."},
    ]
    assert body["tools"] == [
        {
            "type": "function",
            "function": {"name": "look_up", "description": "Says how warm a city is.", "parameters": SCHEMA},
        },
        {"type": "function", "function": {"name": "now"}},
    ]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "look_up"}}
    assert body["parallel_tool_calls"] is False
    form = {"name": "place", "description": "A place.", "schema": SCHEMA, "strict": True}
    assert body["response_format"] == {"type": "json_schema", "json_schema": form}
    limit = "max_completion_tokens" if provider == "any-llm" else "max_tokens"
    sampled = {"temperature": 0.5, "top_p": 0.9, limit: 77, "stop": ["END", "."], "seed": 0}
    assert {name: body[name] for name in sampled} == sampled


def test_everything_that_a_request_holds_is_sent_in_the_form_of_anthropic(
    server: ProviderServer, is_streamed: bool
) -> None:
    answer(server, "anthropic", is_streamed, Said("42"), ASKED)
    body = server.requests[-1].body
    assert body["system"] == "Be brief.\n\nAnd polite."
    pixel = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0K"}}
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                pixel,
                {"type": "image", "source": {"type": "url", "url": "https://example.org/a.jpg"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look it up."},
                *(
                    {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)}
                    for call in CALLS[:2]
                ),
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "21 °C"}]},
                {
                    "type": "tool_result",
                    "tool_use_id": "call_2",
                    "content": [{"type": "text", "text": "no such city"}, pixel],
                    "is_error": True,
                },
                {"type": "text", "text": "Well?"},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "I would rather not."}]},
        {"role": "user", "content": "Please."},
    ]
    assert body["tools"] == [
        {"name": "look_up", "description": "Says how warm a city is.", "input_schema": SCHEMA},
        {"name": "now", "input_schema": {"type": "object"}},
    ]
    assert body["tool_choice"] == {"type": "tool", "name": "look_up", "disable_parallel_tool_use": True}
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
    sampled = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 77, "stop_sequences": ["END", "."]}
    assert {name: body[name] for name in sampled} == sampled
    assert "seed" not in body


@pytest.mark.parametrize(
    ("choice", "openai", "anthropic"),
    [
        (ToolChoice(), "auto", {"type": "auto"}),
        (ToolChoice(ToolMode.NONE), "none", {"type": "none"}),
        (ToolChoice(ToolMode.REQUIRED), "required", {"type": "any"}),
        (ToolChoice(parallel=True), "auto", {"type": "auto", "disable_parallel_tool_use": False}),
    ],
)
def test_each_choice_of_tools_has_its_form(
    server: ProviderServer, provider: str, choice: ToolChoice, openai: str, anthropic: dict[str, Any]
) -> None:
    request = Request(PLAIN.messages, Role.WORKER, 0, TOOLS, choice)
    answer(server, provider, False, Said("42"), request)
    assert server.requests[-1].body["tool_choice"] == (anthropic if provider == "anthropic" else openai)


def test_any_json_object_is_asked_for_where_no_schema_is_named(server: ProviderServer, provider: str) -> None:
    answer(
        server, provider, False, Said("{}"), Request(PLAIN.messages, Role.WORKER, 0, response_format=ResponseFormat())
    )
    body = server.requests[-1].body
    if provider == "anthropic":
        assert body["system"] == "Answer with one JSON object and nothing else."
    else:
        assert body["response_format"] == {"type": "json_object"}


def test_several_calls_come_back_with_their_ids_and_arguments(
    server: ProviderServer, provider: str, is_streamed: bool
) -> None:
    said = Said(None, tuple((call.id, call.name, call.arguments) for call in CALLS), finish="tool_calls")
    reply = answer(server, provider, is_streamed, said)
    assert reply.finish is Finish.TOOL_CALLS
    assert reply.text == ""
    assert [(call.id, call.name) for call in reply.message.tool_calls] == [(call.id, call.name) for call in CALLS]
    made = [json.loads(call.arguments) for call in reply.message.tool_calls]
    assert made == [json.loads(call.arguments) for call in CALLS]


def test_arguments_in_openais_form_come_back_as_the_text_that_they_were(
    server: ProviderServer, is_streamed: bool
) -> None:
    text = '{ "city" :\n"K\\u00f6ln", half'
    said = Said(None, (("call_1", "look_up", text),), finish="tool_calls")
    assert answer(server, "openai-compatible", is_streamed, said).message.tool_calls[0].arguments == text


def test_text_beside_calls_is_kept(server: ProviderServer, provider: str, is_streamed: bool) -> None:
    said = Said("Let me see.", (("call_1", "now", "{}"),), finish="tool_calls")
    reply = answer(server, provider, is_streamed, said)
    assert reply.message.content == (Text("Let me see."), ToolCall("call_1", "now", "{}"))


def test_calls_that_a_server_ends_with_stop_are_calls(server: ProviderServer, is_streamed: bool) -> None:
    said = Said(None, (("call_1", "now", "{}"),), finish="stop")
    assert answer(server, "openai-compatible", is_streamed, said).finish is Finish.TOOL_CALLS


@pytest.mark.parametrize("words", ["I will not help with that.", ""])
def test_a_refusal_is_a_reply_of_its_own_kind(
    server: ProviderServer, provider: str, is_streamed: bool, words: str
) -> None:
    if not words and provider != "anthropic":
        pytest.skip("it has no refusal without words")
    reply = answer(server, provider, is_streamed, Said(None, refusal=words))
    assert reply.finish is Finish.REFUSED
    assert reply.message.content == (Refusal(words),)
    assert reply.text == ""


def test_a_call_without_an_id_gets_one_of_its_own(server: ProviderServer, is_streamed: bool) -> None:
    said = Said(None, (("", "now", "{}"), ("", "now", "{}")), finish="tool_calls")
    calls = answer(server, "openai-compatible", is_streamed, said).message.tool_calls
    assert len({call.id for call in calls}) == 2
    assert all(call.id for call in calls)


def test_a_call_without_a_name_is_no_reply(server: ProviderServer, provider: str, is_streamed: bool) -> None:
    said = Said(None, (("call_1", "", "{}"),), finish="tool_calls")
    with pytest.raises(ReplyInvalid, match="calls a tool without naming it"):
        answer(server, provider, is_streamed, said)


def test_calls_under_one_index_are_told_apart_by_their_ids(server: ProviderServer) -> None:
    """As Gemini's endpoint streams them."""

    async def all_at_zero(exchange: Exchange) -> None:
        said = Said(None, tuple((call.id, call.name, "") for call in CALLS), finish="tool_calls")
        events = b"".join(events_of(exchange.received, said)).replace(b'"index": 1', b'"index": 0')
        await exchange.whole(events.replace(b'"index": 2', b'"index": 0'), "text/event-stream")

    server.faults["gemini"] = all_at_zero
    reply = ask(agent_of(server, "openai-compatible", "fault:gemini"), PLAIN, [])
    assert [(call.id, call.name) for call in reply.message.tool_calls] == [(call.id, call.name) for call in CALLS]


@pytest.mark.parametrize("fault", ["negative-counts", "counts-beyond", "counts-of-text"])
def test_counts_that_are_none_count_as_not_given(server: ProviderServer, provider: str, fault: str) -> None:
    agent = agent_of(server, provider, f"fault:{fault}")
    if (provider, fault) == ("any-llm", "counts-of-text"):
        with pytest.raises(ReplyInvalid):  # any-llm itself refuses it
            ask(agent)
        return
    reply = ask(agent)
    assert reply.text == "ACCEPT: 42"
    assert reply.usage is None


def test_a_number_that_no_program_reads_is_a_broken_reply(server: ProviderServer, provider: str) -> None:
    with pytest.raises(ReplyInvalid, match="agent 'solver'"):
        ask(agent_of(server, provider, "fault:counts-of-thousands-of-digits"))


def test_counts_that_are_counts_are_kept(server: ProviderServer, provider: str, is_streamed: bool) -> None:
    reply = answer(server, provider, is_streamed, Said("one two three"))
    assert reply.usage == Usage(4, 3)


def test_a_request_overrides_the_agents_settings_and_its_extra(server: ProviderServer) -> None:
    extra = {"max_completion_tokens": 500, "top_p": 0.1, "seed": 7}
    agent = agent_of(server, "openai-compatible", extra=extra, temperature=1.0)
    sampled = Request(PLAIN.messages, Role.WORKER, 0, sampling=Sampling(0.0, 0.5, 9))
    ask(agent, sampled)
    body = server.requests[-1].body
    assert {name: body[name] for name in ("max_completion_tokens", "top_p", "seed", "temperature")} == {
        "max_completion_tokens": 9,
        "top_p": 0.5,
        "seed": 7,
        "temperature": 0.0,
    }
    assert "max_tokens" not in body


def test_ids_that_anthropic_refuses_are_replaced_alike_in_call_and_result(server: ProviderServer) -> None:
    call = ToolCall("functions.now:0", "now", "no JSON")
    result = ToolResult.of_text(call.id, "noon")
    request = Request((*PLAIN.messages, Message("assistant", (call,)), Message("tool", (result,))), Role.WORKER, 0)
    answer(server, "anthropic", False, Said("42"), request)
    asked, answered = server.requests[-1].body["messages"][1:3]
    assert asked["content"][0]["id"] == answered["content"][0]["tool_use_id"]
    assert asked["content"][0]["id"].startswith("toolu_")
    assert asked["content"][0]["input"] == {"arguments": "no JSON"}

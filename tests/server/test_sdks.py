"""The SDKs that programs use, against a server on a socket: streamed, parsed, with tools, and asynchronously."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel

from trinity_mlx.contracts.errors import ProviderRateLimited
from trinity_mlx.contracts.provider import Request
from trinity_mlx.contracts.transcript import ToolResult

from .serving import ONCE, by_role, calls_reply, running, team

KEY = "k-123"
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a place.",
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string"}},
        "required": ["place"],
        "additionalProperties": False,
    },
    "strict": True,
}
CHAT_WEATHER: Any = {"type": "function", "function": {k: v for k, v in WEATHER.items() if k != "type"}}
QUESTION: Any = [{"role": "user", "content": "What is 6 * 7?"}]


class Sum(BaseModel):
    """What is parsed into."""

    sum: int


def says(request: Request) -> Any:
    """A Worker that uses tools where it is given some, JSON where that is asked for, and words else."""
    results = [part for message in request.messages for part in message.parts if isinstance(part, ToolResult)]
    if results:
        return f"It is {results[-1].text}."
    if request.tools:
        return calls_reply(("weather", {"place": "Bonn"}))
    return '{"sum": 42}' if request.response_format else "The answer is 42."


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(team(by_role(says), keys=(KEY,))) as place:
        yield place


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture
def claude(address: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=address, api_key=KEY, max_retries=0) as made:
        yield made


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="trinity", messages=QUESTION)
    assert answer.choices[0].message.content == "The answer is 42."
    assert answer.model_extra is not None
    assert answer.model_extra["trinity"]["outcome"] == "verified"


@pytest.mark.parametrize("model", ["trinity", "trinity-live", "trinity-route"])
def test_chat_streamed(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.stream(
        model=model, messages=QUESTION, stream_options={"include_usage": True}
    ) as stream:
        stream.until_done()
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "The answer is 42."
    assert final.usage is not None
    assert final.usage.total_tokens == 18


def test_chat_parsed(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(model="trinity", messages=QUESTION, response_format=Sum)
    assert parsed.choices[0].message.parsed == Sum(sum=42)


@pytest.mark.parametrize("is_streamed", [True, False])
def test_chat_with_a_tool(client: openai.OpenAI, is_streamed: bool) -> None:
    messages = list(QUESTION)
    if is_streamed:
        with client.chat.completions.stream(model="trinity", messages=messages, tools=[CHAT_WEATHER]) as stream:
            stream.until_done()
            message = stream.get_final_completion().choices[0].message
    else:
        answer = client.chat.completions.create(model="trinity", messages=messages, tools=[CHAT_WEATHER])
        message = answer.choices[0].message  # type: ignore[assignment]
    assert message.tool_calls
    messages.append(message.model_dump(exclude_none=True, exclude={"parsed"}))
    messages.append({"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"})
    second = client.chat.completions.create(model="trinity", messages=messages, tools=[CHAT_WEATHER])
    assert second.choices[0].message.content == "It is sunny."


def test_responses(client: openai.OpenAI) -> None:
    response = client.responses.create(model="trinity", input="What is 6 * 7?")
    assert response.output_text == "The answer is 42."
    again = client.responses.create(model="trinity", input="Sure?", previous_response_id=response.id)
    assert again.previous_response_id == response.id
    assert client.responses.retrieve(response.id).output_text == "The answer is 42."
    assert len(list(client.responses.input_items.list(response.id))) == 1
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


@pytest.mark.parametrize("model", ["trinity", "trinity-live", "trinity-route"])
def test_responses_streamed(client: openai.OpenAI, model: str) -> None:
    with client.responses.stream(model=model, input="What is 6 * 7?") as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(pieces) == final.output_text == "The answer is 42."


def test_responses_parsed(client: openai.OpenAI) -> None:
    assert client.responses.parse(model="trinity", input="Go.", text_format=Sum).output_parsed == Sum(sum=42)
    with client.responses.stream(model="trinity", input="Go.", text_format=Sum) as stream:
        stream.until_done()
        assert stream.get_final_response().output_parsed == Sum(sum=42)


def test_responses_with_a_tool(client: openai.OpenAI) -> None:
    with client.responses.stream(model="trinity", input="Weather?", tools=[WEATHER]) as stream:  # type: ignore[list-item]
        stream.until_done()
        first = stream.get_final_response()
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"place": "Bonn"}
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = client.responses.create(
        model="trinity",
        input=[result],
        previous_response_id=first.id,
        tools=[WEATHER],  # type: ignore[list-item]
    )
    assert second.output_text == "It is sunny."


def test_openai_asynchronously_and_many_at_once(address: str) -> None:
    async def ask(client: openai.AsyncOpenAI, number: int) -> str:
        if number % 2:
            response = await client.responses.create(model="trinity", input=f"Question {number}?")
            return response.output_text
        async with client.chat.completions.stream(model="trinity-live", messages=QUESTION) as stream:
            return (await stream.get_final_completion()).choices[0].message.content or ""

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(20)))

    assert asyncio.run(all_of_them()) == ["The answer is 42."] * 20


def test_openai_errors(address: str) -> None:
    stranger = openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="gpt-7"):
            client.responses.create(model="gpt-7", input="Go.")
        with pytest.raises(openai.BadRequestError, match="n must be 1"):
            client.chat.completions.create(model="trinity", messages=QUESTION, n=2)
        assert "trinity-live" in [model.id for model in client.models.list()]


def test_an_error_in_a_stream_is_raised_by_the_sdks() -> None:
    limited = by_role(ProviderRateLimited("slow down"))
    with running(team(limited, agents=1, coordinator=ONCE)) as place:
        with openai.OpenAI(base_url=f"{place}/v1", api_key="x", max_retries=0) as client:
            with pytest.raises(openai.APIError, match="slow down"):
                list(client.chat.completions.create(model="trinity", messages=QUESTION, stream=True))
            with pytest.raises(openai.RateLimitError):
                client.responses.create(model="trinity", input="Go.")
        with anthropic.Anthropic(base_url=place, api_key="x", max_retries=0) as claude:
            with (
                pytest.raises(anthropic.APIStatusError, match="slow down"),
                claude.messages.stream(model="trinity", max_tokens=9, messages=QUESTION) as stream,
            ):
                stream.until_done()
            with pytest.raises(anthropic.RateLimitError):
                claude.messages.create(model="trinity", max_tokens=9, messages=QUESTION)


def test_messages(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(model="claude-trinity", max_tokens=100, messages=QUESTION)
    assert message.content[0].type == "text"
    assert message.content[0].text == "The answer is 42."
    assert claude.messages.count_tokens(model="trinity", messages=QUESTION).input_tokens > 1
    assert "claude-trinity" in [model.id for model in claude.models.list()]


def test_messages_streamed_with_a_tool(claude: anthropic.Anthropic) -> None:
    tool: Any = {"name": "weather", "input_schema": WEATHER["parameters"]}
    with claude.messages.stream(
        model="trinity",
        max_tokens=2000,
        messages=QUESTION,
        tools=[tool],
        thinking={"type": "enabled", "budget_tokens": 1024},
    ) as stream:
        stream.until_done()
        first = stream.get_final_message()
    assert [block.type for block in first.content] == ["thinking", "tool_use"]
    use = first.content[1]
    assert use.type == "tool_use"
    assert use.input == {"place": "Bonn"}
    result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
    history: Any = [
        *QUESTION,
        {"role": "assistant", "content": first.model_dump()["content"]},
        {"role": "user", "content": [result]},
    ]
    with claude.messages.stream(model="trinity", max_tokens=100, messages=history, tools=[tool]) as stream:
        assert stream.get_final_text() == "It is sunny."

"""What every provider promises, whoever runs the model: the same questions put to each."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trinity_mlx.contracts.errors import ProviderRefused, ReplyInvalid
from trinity_mlx.contracts.parts import Image, Refusal, Text, ToolCall, ToolResult
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.contracts.provider import (
    Finish,
    Provider,
    Reply,
    Request,
    ResponseFormat,
    Sampling,
    Tool,
    ToolChoice,
    ToolMode,
)
from trinity_mlx.contracts.routing import Role
from trinity_mlx.contracts.transcript import Message
from trinity_mlx.files.shipped import data_path
from trinity_mlx.providers.answers import checked_reply
from trinity_mlx.providers.registry import make_provider
from trinity_mlx.providers.wire.failures import Callee
from trinity_mlx.runs.client import AgentClient

from ..builders import with_positions
from ..provider_server import ProviderServer

ASKED = Request(
    (
        Message("system", "Be brief."),
        Message("user", "What is 17 + 25?"),
        Message("assistant", "It is 42."),
        Message("user", "Say it again, in words: ééé 北京 🙂."),
    ),
    Role.WORKER,
    2,
)
ANSWER = "Forty-two,\n\n  as ever: ééé 北京 🙂.\n"
LIVE = {"openai-compatible": True, "anthropic": True, "any-llm": True, "local": False, "scripted": False}
NANO = str(data_path("fixtures") / "artifacts" / "nano" / "base")


@pytest.fixture(scope="module")
def server() -> Iterator[ProviderServer]:
    with ProviderServer(answer=lambda received: ANSWER) as running:
        yield running


def agents(server: ProviderServer) -> dict[str, Agent]:
    return {
        "openai-compatible": Agent(0, "a", "openai-compatible", "model-1", server.url),
        "anthropic": Agent(0, "a", "anthropic", "model-1", server.origin),
        "any-llm": Agent(0, "a", "any-llm", "openai:model-1", server.url),
        "local, mlx-lm": Agent(0, "a", "local", NANO, max_tokens=8, extra={"engine": "mlx-lm"}),
        "local, transformers": Agent(0, "a", "local", NANO, max_tokens=8, extra={"engine": "transformers"}),
        "scripted": Agent(0, "a", "scripted", "script-1", extra={"replies": [{"text": ANSWER}]}),
    }


def slow(agent: Agent, folder: Path) -> Agent:
    """The agent, with an answer that takes long; ``folder`` is for a model that may write one."""
    if agent.provider == "local":
        return replace(agent, model=str(with_positions(folder, 1_000_000)), max_tokens=1_000_000)
    if agent.provider == "scripted":
        return replace(agent, extra={"replies": [{"text": ANSWER, "delay_s": 3600}]})
    return replace(agent, model=agent.model.replace("model-1", "fault:stalled"))


@pytest.fixture(
    params=["openai-compatible", "anthropic", "any-llm", "local, mlx-lm", "local, transformers", "scripted"]
)
def agent(request: pytest.FixtureRequest, server: ProviderServer) -> Agent:
    return agents(server)[request.param]


@asynccontextmanager
async def opened(agent: Agent) -> AsyncIterator[Provider]:
    provider = make_provider(agent)
    try:
        yield provider
    finally:
        await provider.close()


def using(agent: Agent, work: Callable[[Provider], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with opened(agent) as provider:
            return await work(provider)

    return asyncio.run(run())


async def heard_by(provider: Provider) -> tuple[Reply, list[str]]:
    pieces: list[str] = []
    return await provider.reply(ASKED, pieces.append), pieces


def test_whether_a_call_leaves_the_process_is_known_before_it(agent: Agent) -> None:
    async def is_live(provider: Provider) -> bool:
        return provider.is_live

    assert using(agent, is_live) is LIVE[agent.provider]


def test_a_reply_is_complete(agent: Agent) -> None:
    reply = using(agent, lambda provider: provider.reply(ASKED))
    assert reply.text.strip()
    assert agent.provider == "local" or reply.text == ANSWER
    assert reply.finish is (Finish.LENGTH if agent.provider == "local" else Finish.STOP)
    assert reply.model == agent.model.removeprefix("openai:")
    assert reply.usage.input_tokens > 10
    assert 0 < reply.usage.output_tokens <= 8


def test_a_streamed_reply_is_the_same_and_its_pieces_make_its_text(agent: Agent) -> None:
    async def both(provider: Provider) -> None:
        whole = await provider.reply(ASKED)
        streamed, pieces = await heard_by(provider)
        assert streamed == whole
        assert "".join(pieces) == whole.text
        assert len(pieces) > 1
        assert all(pieces)

    using(agent, both)


def test_many_may_ask_at_once_and_none_hears_another(agent: Agent) -> None:
    async def crowd(provider: Provider) -> None:
        heard = await asyncio.gather(*(heard_by(provider) for _ in range(6)))
        assert len({reply.text for reply, _ in heard}) == 1
        for reply, pieces in heard:
            assert "".join(pieces) == reply.text

    using(agent, crowd)


def test_cancelling_is_prompt_and_the_next_request_is_answered(agent: Agent, tmp_path: Path) -> None:
    async def cancel(provider: Provider) -> None:
        for on_text in (None, lambda text: None):
            task = asyncio.create_task(provider.reply(ASKED, on_text))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.wait({task}, timeout=300)  # its answer would take longer, or never come
            assert task.cancelled()

    using(slow(agent, tmp_path / "endless"), cancel)
    assert using(agent, lambda provider: provider.reply(ASKED)).text
    gc.collect()


def test_closing_twice_does_no_harm(agent: Agent) -> None:
    async def close(provider: Provider) -> None:
        await provider.reply(ASKED)
        await provider.close()

    using(agent, close)


def test_a_client_calls_any_of_them(agent: Agent) -> None:
    async def call() -> Reply:
        client = AgentClient(agent, make_provider(agent))
        try:
            return (await client.ask(ASKED)).reply
        finally:
            await client.close()

    assert asyncio.run(call()).text


PIXEL = Image.of_data(b"\x89PNG", "image/png")
TOOL = Tool("look_up", "Looks.", {"type": "object"})
CALL = ToolCall("call_1", "look_up", '{"city": "Köln"}')
CASES = {
    "parts": Request((Message("user", (Text("What is"), Text("this?"))),), Role.WORKER, 0),
    "an image": Request((Message("user", (Text("What is this?"), PIXEL)),), Role.WORKER, 0),
    "tools": Request(ASKED.messages, Role.WORKER, 0, (TOOL,)),
    "a tool that must be called": Request(ASKED.messages, Role.WORKER, 0, (TOOL,), ToolChoice(ToolMode.REQUIRED)),
    "calls and results": Request(
        (
            Message("user", "How warm is it?"),
            Message("assistant", (Text("I look."), CALL)),
            Message("tool", (ToolResult.of_text(CALL.id, "21"),)),
        ),
        Role.WORKER,
        0,
    ),
    "an image in a result": Request(
        (
            Message("user", "Look."),
            Message("assistant", (CALL,)),
            Message("tool", (ToolResult(CALL.id, (PIXEL,), is_error=True),)),
        ),
        Role.WORKER,
        0,
    ),
    "a refusal before": Request(
        (Message("user", "a"), Message("assistant", (Refusal(""),)), Message("user", "b")), Role.WORKER, 0
    ),
    "a developer": Request((Message("developer", "Be brief."), Message("user", "a", "ann")), Role.WORKER, 0),
    "a JSON schema": Request(ASKED.messages, Role.WORKER, 0, response_format=ResponseFormat({"type": "object"})),
    "sampling": Request(ASKED.messages, Role.WORKER, 0, sampling=Sampling(0.7, 0.9, 6, ("zzz",), 1)),
    "the last word to the assistant": Request((Message("user", "a"), Message("assistant", "b")), Role.WORKER, 0),
    "nothing but a system": Request((Message("system", "Be brief."),), Role.WORKER, 0),
}
"""What any provider may be asked; one of another make should pass these too."""


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_whatever_is_asked_there_is_a_reply_or_a_clear_refusal(agent: Agent, case: str, is_streamed: bool) -> None:
    heard: list[str] = []
    may_decline = agent.provider == "local"  # it reads no images and has no tools, and may say nothing but space
    try:
        reply = using(agent, lambda made: made.reply(CASES[case], heard.append if is_streamed else None))
    except (ProviderRefused, ReplyInvalid):
        assert may_decline
        return
    assert checked_reply(Callee(agent), reply) == reply
    assert not is_streamed or "".join(heard) == reply.text

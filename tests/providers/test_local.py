"""A model folder run in this process: what it generates, what it shares, and how it stops."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trinity_mlx.contracts.errors import PoolInvalid, ProviderError, ProviderRefused, ProviderUnavailable, ReplyInvalid
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.contracts.provider import Finish, OnText, Reply, Request, Usage
from trinity_mlx.contracts.routing import Role
from trinity_mlx.contracts.text_format import role_lines
from trinity_mlx.contracts.transcript import Message, Transcript
from trinity_mlx.files.shipped import data_path
from trinity_mlx.providers.local.engine import Generation
from trinity_mlx.providers.local.prompt import make_prompt
from trinity_mlx.providers.registry import make_provider

from ..file_server import wait_for
from ..provider_server import closed_port

NANO = data_path("fixtures") / "artifacts" / "nano" / "base"
SAID = (Message("user", "What is 17 + 25? Answer briefly."),)
ASKED = Request(SAID, Role.WORKER, 0)
ENGINES = ("mlx-lm", "transformers")
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}{% if thinks %}<think>\n{% endif %}"
)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def templated(tmp_path: Path) -> Path:
    """The small model with a chat template."""
    folder = tmp_path / "templated"
    shutil.copytree(NANO, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    return folder


def agent(engine: str, folder: Path | str = NANO, **fields: Any) -> Agent:
    extra = {"engine": engine, **fields.pop("extra", {})}
    return Agent(0, "home", "local", str(folder), **{"max_tokens": 12, "extra": extra, **fields})


def ask(asked: Agent, request: Request = ASKED, on_text: OnText | None = None) -> Reply:
    async def call() -> Reply:
        provider = make_provider(asked)
        try:
            return await provider.reply(request, on_text)
        finally:
            await provider.close()

    return asyncio.run(call())


def greedy(folder: Path, prompt: str, count: int) -> tuple[str, int]:
    """The oracle: token after token by the largest logit, the whole sequence read afresh each time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = tokenizer.encode(prompt)
    begun = len(tokens)
    with torch.inference_mode():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokenizer.decode(tokens[begun:]), begun


def model_threads() -> int:
    return sum(thread.name == "trinity-mlx-model" for thread in threading.enumerate())


def test_without_a_template_it_continues_role_lines_greedily(engine: str) -> None:
    text, prompt_tokens = greedy(NANO, role_lines(Transcript(SAID)) + "\nassistant:", 8)
    reply = ask(agent(engine, max_tokens=8))
    assert reply.text.strip() == text.strip()
    assert reply.usage == Usage(prompt_tokens, 8)
    assert reply.finish is Finish.LENGTH
    assert ask(agent(engine, max_tokens=8, temperature=0.0)) == reply


def test_a_chat_template_makes_the_prompt(engine: str, templated: Path) -> None:
    text, prompt_tokens = greedy(templated, f"<user>{SAID[0].content}<answer>", 8)
    reply = ask(agent(engine, templated, max_tokens=8))
    assert reply.text.strip() == text.strip()
    assert reply.usage == Usage(prompt_tokens, 8)


def test_a_template_takes_options_and_a_reasoning_that_it_opens_is_no_answer(engine: str, templated: Path) -> None:
    pieces: list[str] = []
    thinking = agent(engine, templated, extra={"chat_template_kwargs": {"thinks": True}})
    with pytest.raises(ReplyInvalid, match="the token limit was reached before an answer began"):
        ask(thinking, on_text=pieces.append)
    assert pieces == []


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_special_tokens_come_from_the_template_where_there_is_one(template: str | None) -> None:
    class Tokenizer:
        chat_template = template

        def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
            return "<s>" + messages[0]["content"]

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return list((b"<s>" if add_special_tokens else b"") + text.encode())

    wanted = Generation(SAID, 5, 0.0, {}, lambda text: None, lambda: False)
    assert bytes(make_prompt(Tokenizer(), wanted, None).tokens).count(b"<s>") == 1


def test_a_template_that_refuses_the_messages_is_reported(engine: str, templated: Path) -> None:
    path = templated / "tokenizer_config.json"
    refusing = "{{ raise_exception('no system messages, please') }}"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": refusing}))
    with pytest.raises(ProviderRefused, match=r"agent 'home'.*no system messages, please"):
        ask(agent(engine, templated))


def test_a_temperature_makes_answers_differ(engine: str) -> None:
    assert len({ask(agent(engine, temperature=1.5)).text for _ in range(3)}) > 1


def test_what_does_not_fit_the_model_is_refused(engine: str) -> None:
    long = Request((Message("user", "word " * 3000),), Role.WORKER, 0)
    with pytest.raises(ProviderRefused, match=r"the prompt has \d+ tokens, and the model holds 2048"):
        ask(agent(engine), long)


def with_positions(folder: Path, count: int) -> Path:
    """The small model, stated to hold ``count`` tokens."""
    shutil.copytree(NANO, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": count}))
    return folder


def test_an_answer_ends_where_the_models_positions_end(engine: str, tmp_path: Path) -> None:
    reply = ask(agent(engine, with_positions(tmp_path / "short", 40), max_tokens=100_000))
    assert reply.usage is not None
    assert reply.usage.input_tokens + reply.usage.output_tokens == 40
    assert reply.finish is Finish.LENGTH


def test_a_token_that_ends_the_answer_ends_it(engine: str, tmp_path: Path) -> None:
    folder = tmp_path / "ending"
    shutil.copytree(NANO, folder)
    tokenizer = AutoTokenizer.from_pretrained(NANO)
    first = ask(agent(engine, max_tokens=4)).text
    end = tokenizer.encode(first)[2]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": end}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    name = tokenizer.convert_ids_to_tokens(end)
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": name}))
    reply = ask(agent(engine, folder, max_tokens=50))
    assert reply.finish is Finish.STOP
    assert reply.text.strip() in first
    assert reply.usage is not None
    assert reply.usage.output_tokens <= 4
    assert ask(agent(engine, folder, max_tokens=reply.usage.output_tokens)) == reply


def test_agents_that_name_one_folder_share_one_model(engine: str) -> None:
    async def share() -> None:
        before = model_threads()
        twins = [make_provider(agent(engine)), make_provider(agent(engine, NANO / ".." / "base"))]
        assert model_threads() == before + 1
        await asyncio.gather(*(each.reply(ASKED) for each in twins))
        await twins[0].close()
        await twins[0].close()
        assert model_threads() == before + 1
        assert (await twins[1].reply(ASKED)).text
        await twins[1].close()
        assert model_threads() == before

    asyncio.run(share())


def test_a_cancelled_answer_stops_between_two_tokens(engine: str, tmp_path: Path) -> None:
    """An answer of a million tokens would keep the model from being closed."""
    endless = with_positions(tmp_path / "endless", 1_000_000)

    async def cancel() -> None:
        provider = make_provider(agent(engine, endless, max_tokens=1_000_000))
        pieces: list[str] = []
        task = asyncio.create_task(provider.reply(ASKED, pieces.append))
        while not pieces:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        heard = len(pieces)
        begun = time.monotonic()
        await provider.close()
        assert time.monotonic() - begun < 30
        assert len(pieces) == heard

    asyncio.run(cancel())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"folder": "/no/such/folder"}, "it has no config.json"),
        ({"folder": ""}, "it has no config.json"),
        ({"engine": "llama.cpp"}, "no engine 'llama.cpp'; there are mlx-lm, transformers"),
        ({"extra": {"top_p": 0.5}}, "extra holds top_p"),
        ({"extra": {"chat_template_kwargs": 3}}, "must be a table, not 3"),
    ],
)
def test_an_agent_without_a_model_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(PoolInvalid, match="agent 'home'") as caught:
        make_provider(agent(**{"engine": "mlx-lm", **fields}))
    assert reason in str(caught.value)


@pytest.mark.parametrize("damage", ["no weights", "half the weights", "an unknown architecture"])
def test_a_broken_folder_is_reported_without_a_retry(engine: str, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(NANO, folder)
    weights = folder / "model.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "half the weights":
        weights.write_bytes(weights.read_bytes()[:100_000])
    else:
        (folder / "config.json").write_text('{"model_type": "no-such-thing"}')
    with pytest.raises(ProviderUnavailable, match=r"agent 'home'.*the model cannot be run") as caught:
        ask(agent(engine, folder))
    assert not caught.value.retryable


@pytest.mark.slow
def test_the_process_ends_cleanly_with_a_model_left_open(engine: str) -> None:
    code = f"""
import asyncio, resource
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.contracts.provider import Request
from trinity_mlx.contracts.routing import Role
from trinity_mlx.contracts.transcript import Message
from trinity_mlx.providers.local.engine import Generation
from trinity_mlx.providers.local.prompt import make_prompt
from trinity_mlx.providers.registry import make_provider
limit = resource.getrlimit(resource.RLIMIT_NOFILE)
provider = make_provider(Agent(0, "a", "local", {str(NANO)!r}, max_tokens=2, extra={{"engine": {engine!r}}}))
print(len(asyncio.run(provider.reply(Request((Message("user", "Hi"),), Role.WORKER, 0))).text) > 0)
assert resource.getrlimit(resource.RLIMIT_NOFILE) == limit
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr
    assert "it/s" not in result.stderr


@pytest.fixture(scope="module")
def mlx_lm_server() -> Iterator[str]:
    """The address of mlx-lm's own server with the small model."""
    port = closed_port()
    command = [
        sys.executable,
        "-m",
        "mlx_lm",
        "server",
        "--model",
        str(NANO),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def listens() -> bool:
        assert process.poll() is None, "mlx_lm.server has ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(listens, 60)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
def test_mlx_lms_server_is_an_endpoint_like_any_other(mlx_lm_server: str) -> None:
    served = Agent(0, "served", "openai-compatible", str(NANO), mlx_lm_server, max_tokens=12, temperature=0.0)
    pieces: list[str] = []
    whole, streamed = ask(served), ask(served, on_text=pieces.append)
    assert streamed.text == whole.text == "".join(pieces)
    assert whole.finish is streamed.finish is Finish.LENGTH
    assert whole.usage == streamed.usage
    assert whole.usage is not None
    assert whole.usage.output_tokens == 12


@pytest.mark.slow
def test_mlx_lms_server_refuses_what_it_does_not_know(mlx_lm_server: str) -> None:
    odd = Agent(0, "served", "openai-compatible", str(NANO), mlx_lm_server, temperature=-5.0)
    with pytest.raises(ProviderError) as caught:
        ask(odd)
    assert caught.value.status is not None

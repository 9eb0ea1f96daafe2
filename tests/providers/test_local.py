"""A model folder run in this process: what it generates, what it shares, and how it stops."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trinity_mlx.contracts.errors import PoolInvalid, ProviderError, ProviderRefused, ProviderUnavailable, ReplyInvalid
from trinity_mlx.contracts.parts import Image, Text, ToolCall, ToolResult
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.contracts.provider import Finish, OnText, Reply, Request, ResponseFormat, Sampling, Tool, Usage
from trinity_mlx.contracts.routing import Role
from trinity_mlx.contracts.text_format import role_lines
from trinity_mlx.contracts.transcript import Message, Transcript
from trinity_mlx.files.shipped import data_path
from trinity_mlx.providers.local.engine import Generated, Generation, PromptRefused, SharedModel
from trinity_mlx.providers.local.prompt import make_prompt
from trinity_mlx.providers.local.provider import Local
from trinity_mlx.providers.registry import make_provider

from ..builders import with_positions
from ..mlx_lm_server import serving

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
        await asyncio.wait_for(provider.close(), 300)
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
from trinity_mlx.providers.local.engine import Generated, Generation, PromptRefused, SharedModel
from trinity_mlx.providers.local.prompt import make_prompt
from trinity_mlx.providers.local.provider import Local
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
    with serving(NANO) as address:
        yield address


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


class Says:
    """An engine that says what it is told, word by word, and keeps what it was asked."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.asked: list[Generation] = []

    def generate(self, wanted: Generation) -> Generated:
        self.asked.append(wanted)
        count = 0
        for piece in re.findall(r".{1,3}", self.text, re.DOTALL):
            if wanted.is_abandoned():
                break
            wanted.on_text(piece)
            count += 1
        return Generated(5, count, False)

    def close(self) -> None:
        pass


def said_by(text: str, request: Request, heard: list[str], tmp_path: Path) -> tuple[Reply, Generation]:
    says = Says(text)
    asked = Agent(0, "home", "local", str(tmp_path), temperature=0.5)

    async def call() -> Reply:
        provider = Local(asked, SharedModel(lambda folder: says, tmp_path), {})
        try:
            return await provider.reply(request, heard.append)
        finally:
            await provider.close()

    return asyncio.run(call()), says.asked[0]


TOOLS = (Tool("look_up", "Looks.", {"type": "object"}),)


def test_calls_in_the_text_of_a_model_that_has_tools_are_calls(tmp_path: Path) -> None:
    text = (
        'I look.\n<tool_call>\n{"name": "look_up", "arguments": {"city": "Köln"}}\n</tool_call>\n'
        '<tool_call>{"name": "now"}</tool_call>'
    )
    heard: list[str] = []
    reply, _ = said_by(text, Request(SAID, Role.WORKER, 0, TOOLS), heard, tmp_path)
    assert reply.finish is Finish.TOOL_CALLS
    assert [(call.name, call.arguments) for call in reply.message.tool_calls] == [
        ("look_up", '{"city": "Köln"}'),
        ("now", "{}"),
    ]
    assert len({call.id for call in reply.message.tool_calls}) == 2
    assert reply.text == "I look."
    assert "".join(heard).rstrip() == reply.text


@pytest.mark.parametrize("text", ["<tool_call>no JSON</tool_call>", "<tool_call>{}", '<tool_call>["name"]</tool_call>'])
def test_what_looks_like_a_call_and_is_none_stays_text(text: str, tmp_path: Path) -> None:
    assert said_by(text, Request(SAID, Role.WORKER, 0, TOOLS), [], tmp_path)[0].text == text
    plain = '<tool_call>{"name": "now"}</tool_call>'
    assert said_by(plain, Request(SAID, Role.WORKER, 0), [], tmp_path)[0].text == plain


@pytest.mark.parametrize(("stop", "text"), [("END", "one two "), ("o", "")])
def test_a_stop_ends_an_answer_before_itself(stop: str, text: str, tmp_path: Path) -> None:
    heard: list[str] = []
    request = Request(SAID, Role.WORKER, 0, sampling=Sampling(stop=("never said", stop)))
    if not text:
        with pytest.raises(ReplyInvalid, match="the answer is empty"):
            said_by("one two END three", request, heard, tmp_path)
        return
    reply, _ = said_by("one two END three", request, heard, tmp_path)
    assert reply.text == "".join(heard) == text
    assert reply.finish is Finish.STOP


def test_sampling_of_a_request_comes_before_the_agents(tmp_path: Path) -> None:
    request = Request(SAID, Role.WORKER, 0, sampling=Sampling(0.0, 0.9, 7, (), 0))
    wanted = said_by("42", request, [], tmp_path)[1]
    assert (wanted.temperature, wanted.top_p, wanted.max_tokens, wanted.seed) == (0.0, 0.9, 7, 0)
    wanted = said_by("42", Request(SAID, Role.WORKER, 0), [], tmp_path)[1]
    assert (wanted.temperature, wanted.top_p, wanted.max_tokens, wanted.seed) == (0.5, None, 4096, None)


def test_a_seed_repeats_an_answer(engine: str) -> None:
    seeded = Request(SAID, Role.WORKER, 0, sampling=Sampling(temperature=1.5, top_p=0.95, seed=7))
    assert ask(agent(engine), seeded).text == ask(agent(engine), seeded).text


TOOL_TEMPLATE = (
    "{% if tools %}[{% for t in tools %}{{ t.function.name }}{% endfor %}]{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}"
    "({{ c.function.name }} {{ c.function.arguments.city }}){% endfor %}{% endfor %}<answer>"
)


class Template:
    """A tokenizer with a chat template, whose tokens are bytes."""

    def __init__(self, template: str | None) -> None:
        self.chat_template = template

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> str:
        assert self.chat_template
        return str(jinja2.Template(self.chat_template).render(messages=messages, **options))

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(text.encode())


def prompt_of(template: str | None, messages: tuple[Message, ...], tools: tuple[Tool, ...] = TOOLS) -> str:
    wanted = Generation(messages, 5, 0.0, {}, lambda text: None, lambda: False, tools)
    return bytes(make_prompt(Template(template), wanted, None).tokens).decode()


def test_a_template_gets_tools_calls_and_results() -> None:
    messages = (
        Message("developer", "Be brief."),
        Message("user", "Warm?"),
        Message("assistant", (Text("I look."), ToolCall("c", "look_up", '{"city": "Köln"}'))),
        Message("tool", (ToolResult.of_text("c", "21"), ToolResult.of_text("d", "gone", is_error=True))),
    )
    expected = "[look_up]<system>Be brief.<user>Warm?<assistant>I look.(look_up Köln)<tool>21<tool>[error] gone<answer>"
    assert prompt_of(TOOL_TEMPLATE, messages) == expected


@pytest.mark.parametrize(
    ("template", "messages", "tools", "reason"),
    [
        (None, SAID, TOOLS, "no place for tools"),
        (TEMPLATE, SAID, TOOLS, "its chat template has no place for tools"),
        (TEMPLATE, (Message("user", (Image.of_data(b"x", "image/png"),)),), (), "reads text alone"),
    ],
)
def test_what_a_model_cannot_take_is_refused(
    template: str | None, messages: tuple[Message, ...], tools: tuple[Tool, ...], reason: str
) -> None:
    with pytest.raises(PromptRefused, match=reason):
        prompt_of(template, messages, tools)


def test_a_form_of_the_answer_is_asked_for_in_words() -> None:
    wanted = Generation(
        SAID, 5, 0.0, {}, lambda text: None, lambda: False, response_format=ResponseFormat({"type": "object"})
    )
    prompt = bytes(make_prompt(Template(TEMPLATE), wanted, None).tokens).decode()
    assert prompt.startswith('<system>Answer with one JSON object and nothing else of this schema: {"type": "object"}')

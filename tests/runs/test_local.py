"""Whole runs with a real, tiny Qwen3: in this process, and behind mlx-lm's own server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import trinity_mlx
from trinity_mlx.contracts.events import ProviderCalled, ProviderFailed
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.contracts.provider import Usage
from trinity_mlx.contracts.routing import Role
from trinity_mlx.contracts.text_format import role_lines
from trinity_mlx.contracts.transcript import Message, Transcript
from trinity_mlx.files.shipped import data_path
from trinity_mlx.routing.router import Router
from trinity_mlx.rules.policy import Policy
from trinity_mlx.rules.roles import call_messages
from trinity_mlx.rules.verdict import VerdictStatus
from trinity_mlx.runs.coordinator import Coordinator, TraceFile
from trinity_mlx.runs.result import RunResult, RunStatus
from trinity_mlx.tracing.reader import read_trace
from trinity_mlx.tracing.verify import verify_run

from ..mlx_lm_server import serving
from ..run_cases import AT_ONCE, Listener, T, V, W, pool_of, scripted

BASE = data_path("fixtures", "artifacts", "nano", "base")
"""The small model that nano is made from: what it writes makes little sense, and is always the same."""
ENGINES = ("mlx-lm", "transformers")
TASK = "Sort these words by length."
TOKENS = 12
CHECKER = scripted(1, "ACCEPT: it says something", roles=frozenset({V}))


@pytest.fixture(scope="module")
def nano() -> Iterator[Router]:
    with trinity_mlx.load_router("nano", profile="cpu") as router:
        yield router


def local(slot: int = 0, engine: str = "mlx-lm", **fields: Any) -> Agent:
    values = {"name": f"home-{slot}", "max_tokens": TOKENS, "extra": {"engine": engine}, **fields}
    return Agent(slot, provider="local", model=str(BASE), **values)


def continuation(prompt: str) -> tuple[str, Usage]:
    """The oracle: what transformers continues ``prompt`` with, token after token by the largest logit, none close."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    tokens = begun = tokenizer.encode(prompt)
    with torch.inference_mode():
        for _ in range(TOKENS):
            best = model(torch.tensor([tokens])).logits[0, -1].topk(2)
            assert best.values[0] - best.values[1] > 0.1, "rounding may decide this token: take another task"
            tokens = [*tokens, int(best.indices[0])]
    return str(tokenizer.decode(tokens[len(begun) :])), Usage(len(begun), TOKENS)


def prompt_of(role: Role, task: str) -> str:
    """What the first agent of a run reads: the model has no chat template."""
    messages = call_messages(role, [Message("user", task)], [])
    return role_lines(Transcript(messages)) + "\nassistant:"


def model_threads() -> int:
    return sum(thread.name == "trinity-mlx-model" for thread in threading.enumerate())


def carry_out(router: Router, *agents: Agent, run: dict[str, Any] | None = None, **options: Any) -> RunResult:
    with Coordinator(router, pool_of(*agents), **{"retry": AT_ONCE, **options}) as coordinator:
        return coordinator.run(TASK, **(run or {}))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_local_worker_answers_and_a_scripted_verifier_accepts(nano: Router, engine: str, tmp_path: Path) -> None:
    path, pieces, before = tmp_path / "trace.jsonl", [], model_threads()
    worker = local(engine=engine, roles=frozenset({W, T}))
    streamed = {"on_text": lambda turn, text: pieces.append((turn, text))}
    result = carry_out(nano, worker, CHECKER, run=streamed, trace=TraceFile(path, content=True))
    text, usage = continuation(prompt_of(W, TASK))
    assert (result.status, result.exit_code) == (RunStatus.ACCEPTED, 0)
    assert [(turn.slot, turn.role) for turn in result.turns] == [(0, W), (1, V)]
    assert result.answer is not None
    assert result.answer.strip() == text.strip()
    assert "".join(piece for turn, piece in pieces if turn == 0).strip() == text.strip()
    assert (result.turns[0].usage, result.turns[0].finish) == (usage, "length")
    (run,) = read_trace(path).runs
    assert verify_run(run).problems == ()
    assert run.lines[-1]["answer"]["text"] == result.answer
    assert model_threads() == before


def test_a_team_of_one_small_model_talks_until_its_turns_run_out(nano: Router, tmp_path: Path) -> None:
    path, before = tmp_path / "trace.jsonl", model_threads()
    result = carry_out(nano, local(0), local(1), policy=Policy(max_turns=3), trace=TraceFile(path))
    assert (result.status, len(result.turns), result.exit_code) == (RunStatus.MAX_TURNS, 3, 0)
    assert result.answer == [turn.text for turn in result.turns if turn.role is W][-1]
    verdicts = [turn.verdict.status for turn in result.turns if turn.verdict]
    assert set(verdicts) == {VerdictStatus.CUT}  # by the token limit, so nobody even looks for ACCEPT
    assert all(turn.usage and turn.usage.output_tokens == TOKENS for turn in result.turns)
    (run,) = read_trace(path).runs
    assert verify_run(run).problems == ()
    assert model_threads() == before


def test_runs_at_once_wait_for_the_model_and_get_what_each_would_get_alone(nano: Router) -> None:
    tasks = [f"What is {number} + 25?" for number in range(8)]
    worker = local(roles=frozenset({W, T}))

    async def together() -> list[RunResult]:
        async with Coordinator(nano, pool_of(worker, CHECKER)) as coordinator:
            return await asyncio.gather(*(coordinator.arun(task) for task in tasks))

    results = asyncio.run(together())
    assert len({result.answer for result in results}) > 1
    with Coordinator(nano, pool_of(worker, CHECKER)) as coordinator:
        assert [result.answer for result in results] == [coordinator.run(task).answer for task in tasks]


def test_a_model_that_is_too_slow_leaves_its_turn_and_stops_writing(nano: Router) -> None:
    heard = Listener()
    endless = local(max_tokens=100_000, timeout_s=0.3, roles=frozenset({W, T}))
    result = carry_out(nano, endless, scripted(1, {"role": "Verifier", "text": "ACCEPT"}, "42"), run={"sinks": [heard]})
    assert (result.status, result.answer, result.turns[0].fallback_from) == (RunStatus.ACCEPTED, "42", 0)
    assert {event.error for event in heard.of(ProviderFailed)} == {"ProviderTimeout"}


def test_cancelling_a_run_stops_the_model(nano: Router) -> None:
    before = model_threads()

    async def cancel() -> None:
        heard = Listener()
        async with Coordinator(nano, pool_of(local(max_tokens=100_000))) as coordinator:
            task = asyncio.create_task(coordinator.arun(TASK, sinks=[heard]))
            while not heard.of(ProviderCalled):
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel())
    assert model_threads() == before


# Behind a server


@pytest.fixture(scope="module")
def served() -> Iterator[Agent]:
    """The small model behind mlx-lm's server, as an agent."""
    with serving(BASE) as url:
        yield Agent(0, "served", "openai-compatible", str(BASE), url, max_tokens=TOKENS, temperature=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_a_model_behind_mlx_lms_server_works_in_a_run(
    nano: Router, served: Agent, is_streamed: bool, tmp_path: Path
) -> None:
    path, pieces = tmp_path / "trace.jsonl", []
    run = {"on_text": lambda turn, text: pieces.append(text)} if is_streamed else {}
    worker = replace(served, roles=frozenset({W, T}))
    result = carry_out(nano, worker, CHECKER, run=run, live=True, trace=TraceFile(path))
    assert (result.status, result.error) == (RunStatus.ACCEPTED, None)
    assert (result.turns[0].finish, result.turns[0].fallback_from) == ("length", None)
    assert result.turns[0].usage is not None
    assert result.turns[0].usage.output_tokens == TOKENS
    assert bool(pieces) is is_streamed
    (held,) = read_trace(path).runs
    assert verify_run(held).problems == ()


@pytest.mark.slow
def test_a_team_behind_mlx_lms_server_runs_out_of_turns(nano: Router, served: Agent) -> None:
    result = carry_out(nano, served, policy=Policy(max_turns=3), live=True)
    assert (result.status, len(result.turns)) == (RunStatus.MAX_TURNS, 3)
    assert result.answer == [turn.text for turn in result.turns if turn.role is W][-1]
    assert {turn.verdict.status for turn in result.turns if turn.verdict} == {VerdictStatus.CUT}


@pytest.mark.slow
def test_runs_at_once_behind_mlx_lms_server_all_end(nano: Router, served: Agent) -> None:
    async def main() -> list[RunResult]:
        pool = pool_of(replace(served, roles=frozenset({W, T})), CHECKER)
        async with Coordinator(nano, pool, live=True) as coordinator:
            return await asyncio.gather(*(coordinator.arun(f"What is {number} + 25?") for number in range(12)))

    assert {result.status for result in asyncio.run(main())} == {RunStatus.ACCEPTED}

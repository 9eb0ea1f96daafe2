"""Odd providers by limits by cancellation, from a seed: every run ends as it should, and its trace can be read."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trinity_mlx.contracts.errors import ProviderError, ProviderRateLimited, ProviderRefused, ProviderUnavailable
from trinity_mlx.contracts.parts import Refusal, Text, ToolCall, ToolResult
from trinity_mlx.contracts.pool import Agent, Price
from trinity_mlx.contracts.provider import Finish, OnText, Reply, Request, Tool, Usage
from trinity_mlx.contracts.transcript import Message
from trinity_mlx.rules.budgets import Limits
from trinity_mlx.rules.policy import Policy
from trinity_mlx.runs.client import GRACE_S
from trinity_mlx.runs.coordinator import Coordinator, TraceFile
from trinity_mlx.runs.result import RunResult, RunStatus
from trinity_mlx.runs.state import RunState
from trinity_mlx.tracing.reader import read_trace
from trinity_mlx.tracing.verify import verify

from ..run_cases import AT_ONCE, FixedRouter, T, V, W, pool_of, toward
from ..virtual_time import run_in_virtual_time

CASES = 300
AT_A_TIME = 25
TOOLS = (Tool("add"),)
ROUTER = FixedRouter(*(toward(slot, role, lead) for slot, role, lead in ((0, W, 5.0), (1, V, 1.0), (2, T, 2.0))))
COUNTS: list[Any] = [None, Usage(1, 1), Usage(-5, 2), Usage(2**70, 1), Usage("many", None), 7]  # type: ignore[arg-type]


@dataclass
class Case:
    """One run: what its providers draw from, and what was seen of them."""

    number: int
    random: random.Random
    calls: int = 0
    stray: list[asyncio.Event] = field(default_factory=list)

    def make(self, agent: Agent, key: str | None) -> Wild:
        return Wild(self)


class Wild:
    """A provider that does something else each time."""

    is_live = False

    def __init__(self, case: Case) -> None:
        self._case = case

    async def reply(self, request: Request, on_text: OnText | None = None) -> Reply:
        self._case.calls += 1
        behaviour: Callable[..., Any] = self._case.random.choice(BEHAVIOURS)
        result = await behaviour(self._case, request, on_text)
        return result  # type: ignore[no-any-return] # noqa: RET504 - a fault may be that this is no reply

    async def close(self) -> None:
        if self._case.number % 7 == 0:
            raise RuntimeError("it does not close")


def said(case: Case, text: str, finish: Finish = Finish.STOP) -> Reply:
    counts = case.random.choice(COUNTS)
    return Reply(Message("assistant", text), finish, case.random.choice(["m", None, 5]), counts, "id")  # type: ignore[arg-type]


async def answers(case: Case, request: Request, on_text: OnText | None) -> Reply:
    text = case.random.choice(["42", "ACCEPT: fine", "REVISE: no", "<suggested_role>solver</suggested_role>"])
    if on_text:
        on_text(text)
    return said(case, text, case.random.choice([Finish.STOP, Finish.LENGTH, Finish.OTHER]))


async def calls_tools(case: Case, request: Request, on_text: OnText | None) -> Reply:
    parts = [ToolCall(f"c{index}", "add", case.random.choice(["{}", "{", "[1]"])) for index in range(2)]
    return Reply(Message("assistant", (Text("let me see"), *parts)), Finish.TOOL_CALLS, "m", Usage(1, 1))


async def refuses(case: Case, request: Request, on_text: OnText | None) -> Reply:
    return Reply(Message("assistant", (Refusal("no"),)), Finish.REFUSED, "m")


async def raises(case: Case, request: Request, on_text: OnText | None) -> Reply:
    errors = [
        ProviderUnavailable("x" * 50_000, status=2**70),
        ProviderRefused("no", request_id=5),  # type: ignore[arg-type]
        ProviderRateLimited("slow", retry_after_s=float("nan")),
        ValueError("odd"),
        OSError("line"),
        asyncio.CancelledError(),
        TimeoutError(),
    ]
    raise case.random.choice(errors)


async def gives_no_reply(case: Case, request: Request, on_text: OnText | None) -> Any:
    return case.random.choice([None, "42", 5, Reply("42", Finish.STOP, "m")])  # type: ignore[arg-type]


async def sleeps(case: Case, request: Request, on_text: OnText | None) -> Reply:
    await asyncio.sleep(60)
    return said(case, "42")


async def wraps_cancellation(case: Case, request: Request, on_text: OnText | None) -> Reply:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        raise ProviderUnavailable("wrapped") from None
    return said(case, "42")


async def swallows_cancellation(case: Case, request: Request, on_text: OnText | None) -> Reply:
    released = asyncio.Event()
    case.stray.append(released)
    while not released.is_set():
        with suppress(asyncio.CancelledError):
            await released.wait()
    if on_text:
        on_text("too late")
    return said(case, "42")


async def cancels_its_own_task(case: Case, request: Request, on_text: OnText | None) -> Reply:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)
    return said(case, "42")


BEHAVIOURS = [answers] * 6 + [
    calls_tools,
    refuses,
    raises,
    raises,
    gives_no_reply,
    sleeps,
    wraps_cancellation,
    swallows_cancellation,
    cancels_its_own_task,
]


def limits_of(draw: random.Random) -> Limits:
    """A limit of time always, since some providers never end; others now and then."""
    return Limits(
        wall_time_s=draw.choice([0.05, 0.2, 0.5]),
        call_latency_s=draw.choice([None, 0.02, 0.1]),
        provider_calls=draw.choice([None, None, 3]),
        tokens=draw.choice([None, None, 10, 1000]),
        cost_usd=draw.choice([None, None, 0.00001]),
    )


async def carry_out(case: Case, trace: TraceFile | None) -> float:
    """One case; gives the seconds of the loop's clock by which it took longer than its limit."""
    draw = case.random
    agents = [
        Agent(
            slot, f"agent-{slot}", "wild", price=Price(1.0, 1.0), accepts=("tools",), timeout_s=draw.choice([0.05, 5.0])
        )
        for slot in range(3)
    ]
    policy = Policy(max_turns=draw.choice([1, 3, 5]), fallback=draw.random() < 0.8, max_tool_rounds=3)
    limits, cancel_after_s = limits_of(draw), draw.choice([None, None, None, 0.0, 0.03])
    options: dict[str, Any] = {"policy": policy, "retry": AT_ONCE, "providers": case.make, "trace": trace}
    now = asyncio.get_running_loop().time
    async with Coordinator(ROUTER, pool_of(*agents), **options) as coordinator:
        task = asyncio.create_task(run_of(case, coordinator, limits))
        begun = now()
        if cancel_after_s is not None:
            await asyncio.sleep(cancel_after_s)
            task.cancel()
        parts = await ended(task, cancel_after_s is not None)
        assert limits.wall_time_s is not None
        late_s = now() - begun - limits.wall_time_s * max(1, parts)
        calls = case.calls
        for released in case.stray:
            released.set()
        await asyncio.sleep(0.01)
    assert case.calls == calls, "somebody was called after the run's end"
    return late_s


async def ended(task: asyncio.Task[int], may_be_cancelled: bool) -> int:
    done, _ = await asyncio.wait({task}, timeout=60)
    assert done, "the run does not end"
    if task.cancelled():
        assert may_be_cancelled
        return 1
    return task.result()


async def run_of(case: Case, coordinator: Coordinator, limits: Limits) -> int:
    """The run through all of its parts; gives how many there were."""
    tools: Any = case.random.choice([(), TOOLS, {"add": lambda: 3}])
    on_text = case.random.choice([None, lambda turn, text: None])
    result = await coordinator.arun("What is 6 * 7?", limits=limits, tools=tools, on_text=on_text)
    parts = 1
    while result.status is RunStatus.AWAITING_TOOLS:
        check(result)
        assert result.state is not None
        state = RunState.from_json(result.state.to_json())
        assert state == result.state
        results = [ToolResult.of_text(call.id, "3") for call in result.calls]
        result = await coordinator.aresume(state, results, on_text=on_text)
        parts += 1
    check(result)
    return parts


def check(result: RunResult) -> None:
    """What holds of every result."""
    assert result.to_dict()
    assert result.usage.input_tokens >= 0
    assert result.cost_usd is None or result.cost_usd >= 0
    assert (result.error is None) == (
        result.status in (RunStatus.ACCEPTED, RunStatus.MAX_TURNS, RunStatus.AWAITING_TOOLS)
    )
    if result.error and result.error.exit_code == ProviderError.exit_code:
        assert len(result.error.message) < 20_000


async def carry_out_all(count: int, seed: int, trace: TraceFile | None) -> list[float]:
    """The seconds by which each case was late."""
    late: list[float] = []
    for first in range(0, count, AT_A_TIME):
        numbers = range(first, min(count, first + AT_A_TIME))
        batch = (carry_out(Case(number, random.Random(f"{seed}/{number}")), trace) for number in numbers)
        late += await asyncio.gather(*batch)
    return late


def test_odd_providers_limits_and_cancellation(cases: int | None, seed: int, tmp_path: Path) -> None:
    path, count = tmp_path / "trace.jsonl", cases or CASES
    asyncio.run(carry_out_all(count, seed, TraceFile(path, True)))
    trace = read_trace(path)
    assert trace.torn == ()
    assert len(trace.runs) > count / 2  # some are cancelled before they begin
    problems = [(report.run_id, report.problems) for report in verify(trace) if report.problems]
    assert problems == []
    assert all(run.end is not None for run in trace.runs)


def test_no_odd_provider_holds_a_run_beyond_its_limit(cases: int | None, seed: int) -> None:
    """In virtual time: what other programs on the machine cost is not the run's."""
    late = run_in_virtual_time(carry_out_all(cases or CASES, seed, None))
    assert max(late) < GRACE_S + 1e-6, f"case {late.index(max(late))}: {max(late):.3f} s late"

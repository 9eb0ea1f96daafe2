"""Whatever a provider does with time, cancellation and counts: the run ends as it should, and calls nobody further."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from trinity_mlx.contracts.errors import ProviderRateLimited, ProviderRefused, ProviderUnavailable
from trinity_mlx.contracts.events import ProviderCalled, ProviderFailed, TurnCompleted
from trinity_mlx.contracts.pool import Agent, Price
from trinity_mlx.contracts.provider import Finish, OnText, Reply, Request, Usage
from trinity_mlx.contracts.transcript import Message
from trinity_mlx.rules.budgets import Limits, Spent
from trinity_mlx.runs.coordinator import Coordinator
from trinity_mlx.runs.meter import Meter
from trinity_mlx.runs.result import RunResult, RunStatus

from ..run_cases import AT_ONCE, TEAM, FixedRouter, Listener, W, pool_of, toward
from ..virtual_time import run_in_virtual_time

FOREVER_S = 60.0
CUTTING = [Limits(call_latency_s=0.05), Limits(wall_time_s=0.05)]


@dataclass
class Stage:
    """What the providers of a test do, and what they have seen."""

    behaviour: Callable[[Stage, Request, OnText | None], Awaitable[Reply]]
    calls: list[str] = field(default_factory=list)
    cancelled: int = 0
    ended: int = 0
    ended_in_time: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def make(self, agent: Agent, key: str | None) -> Acting:
        return Acting(self, agent)


class Acting:
    """A provider whose first agent acts as the stage says; the second answers and accepts."""

    is_live = False

    def __init__(self, stage: Stage, agent: Agent) -> None:
        self._stage = stage
        self._agent = agent

    async def reply(self, request: Request, on_text: OnText | None = None) -> Reply:
        self._stage.calls.append(self._agent.name)
        if self._agent.slot == 0:
            return await self._stage.behaviour(self._stage, request, on_text)
        return said("ACCEPT: fine")

    async def close(self) -> None:
        """Nothing is held."""


def said(text: str, **fields: Any) -> Reply:
    return Reply(Message("assistant", text), Finish.STOP, "model", **fields)


def agents(count: int = 2, **fields: Any) -> list[Agent]:
    return [Agent(slot, f"agent-{slot}", "acting", **fields) for slot in range(count)]


async def carry_out(stage: Stage, *, count: int = 1, limits: Limits | None = None, **options: Any) -> RunResult:
    made = Coordinator(TEAM, pool_of(*agents(count)), limits=limits, retry=AT_ONCE, providers=stage.make)
    async with made as coordinator:
        result = await coordinator.arun("What is 6 * 7?", **options)
        stage.ended_in_time = stage.ended
        stage.released.set()
        return result


async def hangs(stage: Stage, request: Request, on_text: OnText | None) -> Reply:
    await asyncio.sleep(FOREVER_S)
    return said("42")


async def wraps(stage: Stage, request: Request, on_text: OnText | None) -> Reply:
    try:
        await asyncio.sleep(FOREVER_S)
    except asyncio.CancelledError:
        raise ProviderUnavailable("the line broke") from None
    return said("42")


async def swallows(stage: Stage, request: Request, on_text: OnText | None) -> Reply:
    """Goes on whatever is asked of it, until the run has ended."""
    while not stage.released.is_set():
        try:
            await asyncio.wait_for(stage.released.wait(), FOREVER_S)
        except asyncio.CancelledError:
            stage.cancelled += 1
    stage.ended += 1
    return said("42")


async def answers_late(stage: Stage, request: Request, on_text: OnText | None) -> Reply:
    try:
        await asyncio.sleep(FOREVER_S)
    except asyncio.CancelledError:
        if on_text:
            on_text("too late")
    return said("42")


async def cancels_itself(stage: Stage, request: Request, on_text: OnText | None) -> Reply:
    raise asyncio.CancelledError


async def cancels_its_task(stage: Stage, request: Request, on_text: OnText | None) -> Reply:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(FOREVER_S)
    return said("42")


HANGING = [hangs, wraps, swallows, answers_late]


@pytest.mark.parametrize("limits", CUTTING, ids=["call_latency", "wall_time"])
@pytest.mark.parametrize("behaviour", HANGING)
def test_a_limit_ends_the_run_whatever_a_provider_makes_of_it(behaviour: Any, limits: Limits) -> None:
    async def main() -> None:
        stage, heard = Stage(behaviour), Listener()
        pieces: list[str] = []
        result = await carry_out(stage, limits=limits, sinks=[heard], on_text=lambda turn, text: pieces.append(text))
        assert result.status is RunStatus.BUDGET_EXCEEDED
        assert (stage.calls, stage.ended_in_time, pieces) == (["agent-0"], 0, [])
        assert [event.error for event in heard.of(ProviderFailed)] == ["BudgetExceeded"]
        await asyncio.sleep(0.01)

    run_in_virtual_time(main())


@pytest.mark.parametrize("behaviour", HANGING)
def test_the_agents_own_time_leaves_the_turn_to_the_next(behaviour: Any) -> None:
    async def main() -> None:
        stage = Stage(behaviour)
        first, second = agents(2, timeout_s=0.05)
        async with Coordinator(TEAM, pool_of(first, second), retry=AT_ONCE, providers=stage.make) as coordinator:
            result = await coordinator.arun("What is 6 * 7?")
        assert (result.status, result.turns[0].fallback_from) == (RunStatus.ACCEPTED, 0)
        assert stage.calls == ["agent-0"] * 3 + ["agent-1"] * 2
        stage.released.set()
        await asyncio.sleep(0.01)

    run_in_virtual_time(main())


@pytest.mark.parametrize("behaviour", HANGING)
def test_a_cancelled_run_calls_nobody_further(behaviour: Any) -> None:
    async def main() -> None:
        stage, heard = Stage(behaviour), Listener()
        async with Coordinator(TEAM, pool_of(*agents()), retry=AT_ONCE, providers=stage.make) as coordinator:
            task = asyncio.create_task(coordinator.arun("What is 6 * 7?", sinks=[heard]))
            while not stage.calls:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (stage.calls, stage.ended) == (["agent-0"], 0)
        assert heard.kinds[-2:] == ["provider_failed", "run_failed"]
        stage.released.set()
        await asyncio.sleep(0.01)

    asyncio.run(main())


@pytest.mark.parametrize("behaviour", [cancels_itself, cancels_its_task])
def test_a_cancellation_that_nobody_asked_for_is_a_failure_like_others(behaviour: Any) -> None:
    async def main() -> None:
        stage, heard = Stage(behaviour), Listener()
        result = await carry_out(stage, count=2, sinks=[heard])
        assert (result.status, result.turns[0].fallback_from) == (RunStatus.ACCEPTED, 0)
        assert {event.error for event in heard.of(ProviderFailed)} == {"ProviderUnavailable"}
        assert "gave up its own call" in heard.of(ProviderFailed)[0].message

    asyncio.run(main())


def test_a_listener_that_fails_is_heard_though_its_provider_swallows_that() -> None:
    async def quiet(stage: Stage, request: Request, on_text: OnText | None) -> Reply:
        for piece in ("4", "2"):
            try:
                on_text(piece)  # type: ignore[misc]
            except ZeroDivisionError:
                stage.ended += 1
        return said("42")

    def on_text(turn: int, text: str) -> None:
        raise ZeroDivisionError("odd")

    async def main() -> None:
        stage = Stage(quiet)
        with pytest.raises(ZeroDivisionError, match="odd"):
            await carry_out(stage, on_text=on_text)
        assert (stage.calls, stage.ended) == (["agent-0"], 1)

    asyncio.run(main())


# What a provider says of itself


COUNTS: list[Any] = [(-(10**9), 1), (2**70, 1), (2**53 + 1, 0), ("many", None), (True, 1), (1.5, 2), (float("nan"), 0)]


@pytest.mark.parametrize("counts", COUNTS)
def test_no_count_lowers_a_limit(counts: tuple[Any, Any]) -> None:
    """What is no count is not believed: limits go by the estimate, and reports say that nothing is known."""

    async def counting(stage: Stage, request: Request, on_text: OnText | None) -> Reply:
        return said("forty two, and so on", usage=Usage(*counts))

    async def main() -> None:
        stage = Stage(counting)
        priced = agents(1, price=Price(1.0, 1.0))
        router = FixedRouter(toward(0, W))
        async with Coordinator(router, pool_of(*priced), providers=stage.make) as coordinator:
            for limits in (Limits(cost_usd=0.000001), Limits(tokens=10)):
                stage.calls.clear()
                result = await coordinator.arun("What is 6 * 7?", limits=limits)
                assert (result.status, stage.calls) == (RunStatus.BUDGET_EXCEEDED, ["agent-0"])
                assert (result.cost_usd, result.usage, result.turns[0].usage) == (None, Usage(0, 0), None)

    asyncio.run(main())


@pytest.mark.parametrize("counts", COUNTS[:3])
def test_a_meter_believes_no_such_count_either(counts: tuple[int, int]) -> None:
    meter, agent = Meter(Limits()), agents(1, price=Price(1.0, 1.0))[0]
    assert meter.count(agent, Request((Message("user", "x" * 30),), W, 0), said("42", usage=Usage(*counts))) is None
    assert meter.totals.spent.tokens == 11
    assert meter.totals.spent.cost_usd > 0


def test_nothing_lowers_what_was_spent() -> None:
    spent = Spent().replied(tokens=10, cost_usd=1.0).replied(tokens=-100, cost_usd=-5.0)
    assert (spent.tokens, spent.cost_usd) == (10, 1.0)
    assert spent.replied(cost_usd=float("nan")).cost_usd == float("inf")


class Unspeakable(ProviderUnavailable):
    def __str__(self) -> str:
        raise RuntimeError("no words")


ODD_ERRORS: list[tuple[Any, str]] = [
    (ProviderRefused("no", status="400"), "no"),  # type: ignore[arg-type]
    (ProviderRefused("no", status=2**70, request_id=7), "no"),  # type: ignore[arg-type]
    (ProviderUnavailable("x" * 100_000, request_id="r" * 10_000), " ..."),
    (ProviderRateLimited("slow", retry_after_s=float("nan")), "slow"),
    (ProviderRateLimited("slow", retry_after_s=float("-inf")), "slow"),
    (ProviderRateLimited("slow", retry_after_s="soon"), "slow"),  # type: ignore[arg-type]
    (Unspeakable("never"), "what it says cannot be told (RuntimeError)"),
]


@pytest.mark.parametrize(("error", "fragment"), ODD_ERRORS)
def test_an_error_keeps_to_the_types_and_sizes_that_are_promised(error: Any, fragment: str) -> None:
    async def failing(stage: Stage, request: Request, on_text: OnText | None) -> Reply:
        raise error

    async def main() -> None:
        heard = Listener()
        result = await carry_out(Stage(failing), sinks=[heard])
        assert result.status is RunStatus.FAILED
        for event in heard.of(ProviderFailed):
            assert event.status is None
            assert event.request_id is None or len(event.request_id) <= 200
            assert len(event.message) < 3000
            assert fragment in event.message

    asyncio.run(main())


def test_a_provider_that_is_no_coroutine_fails_like_one() -> None:
    class Plain(Acting):
        def reply(self, request: Request, on_text: OnText | None = None) -> Any:
            return said("42")

    async def main() -> None:
        stage = Stage(hangs)
        made = Coordinator(TEAM, pool_of(*agents(1)), retry=AT_ONCE, providers=lambda agent, key: Plain(stage, agent))
        async with made as coordinator:
            result = await coordinator.arun("What is 6 * 7?")
        assert result.error is not None
        assert "its provider raised TypeError" in result.error.message

    asyncio.run(main())


def test_one_call_for_each_turn_of_a_run_that_goes_well() -> None:
    async def good(stage: Stage, request: Request, on_text: OnText | None) -> Reply:
        return said("42", usage=Usage(1, 1))

    async def main() -> None:
        stage, heard = Stage(good), Listener()
        result = await carry_out(stage, count=2, sinks=[heard])
        assert result.status is RunStatus.ACCEPTED
        assert stage.calls == ["agent-0", "agent-1"]
        assert len(heard.of(ProviderCalled)) == len(heard.of(TurnCompleted)) == 2

    asyncio.run(main())

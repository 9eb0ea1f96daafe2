"""Many runs at once in one process, with a real router, against one endpoint that is slow and fails now and then."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import trinity_mlx
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.contracts.routing import Role
from trinity_mlx.routing.router import Router
from trinity_mlx.rules.roles import instruction
from trinity_mlx.runs.breaker import BreakerPolicy
from trinity_mlx.runs.coordinator import Coordinator, TraceFile
from trinity_mlx.runs.result import RunResult, RunStatus
from trinity_mlx.runs.retry import RetryPolicy
from trinity_mlx.tracing.jsonl import JsonlTrace
from trinity_mlx.tracing.reader import Run, read_trace
from trinity_mlx.tracing.record import text_sha256
from trinity_mlx.tracing.verify import verify, verify_run

from ..file_server import wait_for
from ..provider_server import FAULTS, Exchange, ProviderServer, Received
from ..run_cases import TEAM, pool_of

RUNS = 200
BESIDE = 100
"""Runs beside the one that is cancelled, that one among them."""
SLOTS = 7
TASKS = ("What is {number} + 25? Answer with ticket-{number}.", "Write a haiku about rain for ticket-{number}.")
QUICK = RetryPolicy(wait_initial_s=0.01, jitter_s=0.01)
REFUSED_EVERY = 10
"""One run in ten is refused by whichever agent it comes to first, so another one has to take the turn."""
BUSY_EVERY = 7
"""One run in seven is asked to come again, once."""
CUT = frozenset({31, 83, 131, 188})
"""Runs whose first answer is cut: fewer than would give an agent a rest."""
STUCK = 57
"""The run that gets no answer at all, where the test asks for one."""
DOWN = ("fault:down/always", "healthy")
ENOUGH = 600.0
"""Seconds for an answer, beside two hundred others and whatever else the machine does."""


def tickets(received: Received) -> set[str]:
    """Every ticket that stands anywhere in a request: one, unless runs are mixed up."""
    return set(re.findall(r"ticket-\d+", str(received.body["messages"])))


def team_answer(received: Received) -> str:
    """The ticket of the run, given back in the form of the role; several are a mistake that shows."""
    named = " and ".join(sorted(tickets(received)))
    if received.body["messages"][0]["content"] != instruction(Role.VERIFIER):
        return f"The answer to {named}."
    checked = [each["content"] for each in received.body["messages"] if each["role"] == "assistant"][-1]
    return f"ACCEPT: {named}" if checked == f"The answer to {named}." else f"REVISE: {named} was given {checked!r}"


class Moody:
    """How the endpoint answers: late by a different time for each request, and for some runs not at first."""

    def __init__(self) -> None:
        self.stuck: int | None = None
        self.random = random.Random(0)
        self.seen: Counter[str] = Counter()
        self.refuses: dict[str, str] = {}

    async def __call__(self, exchange: Exchange) -> None:
        received = exchange.received
        ticket = min(tickets(received))
        number = int(ticket.removeprefix("ticket-"))
        self.seen[ticket] += 1
        await asyncio.sleep(self.random.uniform(0.0, 0.05))
        if number == self.stuck:
            await exchange.forever()
        elif number % REFUSED_EVERY == 0 and self.refuses.setdefault(ticket, received.model) == received.model:
            await FAULTS["400"](exchange)
        elif number % BUSY_EVERY == 0 and self.seen[ticket] == 1:
            await FAULTS["429"](exchange)
        elif number in CUT and self.seen[ticket] == 1:
            await FAULTS["cut"](exchange)
        else:
            await exchange.reply(team_answer(received))


@pytest.fixture
def moody() -> Moody:
    return Moody()


@pytest.fixture
def server(moody: Moody) -> Iterator[ProviderServer]:
    with ProviderServer(faults={"moody": moody}) as running:
        yield running


@pytest.fixture(scope="module")
def nano() -> Iterator[Router]:
    with trinity_mlx.load_router("nano", profile="cpu") as router:
        yield router


def coordinator_of(router: Router, server: ProviderServer, **options: Any) -> Coordinator:
    agents = (
        Agent(slot, f"agent-{slot}", "openai-compatible", f"fault:moody/{slot}", server.url, timeout_s=ENOUGH)
        for slot in range(SLOTS)
    )
    return Coordinator(router, pool_of(*agents), live=True, retry=QUICK, **options)


def task_of(number: int) -> str:
    return TASKS[number % len(TASKS)].format(number=number)


def open_descriptors() -> set[str]:
    """What this process has open, where the system tells it."""
    folder = Path("/proc/self/fd")
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


@contextmanager
def no_leak() -> Iterator[None]:
    """No descriptor stays open, and nothing that warns is collected."""
    before = open_descriptors()

    def is_closed() -> bool:
        gc.collect()
        return len(open_descriptors()) <= len(before)

    yield
    wait_for(is_closed)  # a trace's thread closes its file when it gets to it


async def all_gone(server: ProviderServer) -> None:
    """Wait until nobody is left but the caller, at either end."""
    async with asyncio.timeout(300):
        while len(asyncio.all_tasks()) > 1 or server.connections:
            await asyncio.sleep(0.005)


def check_result(number: int, result: RunResult) -> None:
    """The run has its own answer, and an agent that refused it did not keep it from one."""
    ticket = f"ticket-{number}"
    assert (result.run_id, result.status) == (f"run-{number}", RunStatus.ACCEPTED)
    assert result.answer == f"The answer to {ticket}."
    assert result.verdict is not None
    assert result.verdict.diagnosis == ticket
    assert (result.turns[0].fallback_from is not None) == (number % REFUSED_EVERY == 0)


def check_trace(number: int, run: Run, result: RunResult) -> None:
    """The run's trace is whole, and of this run alone."""
    assert run.run_id == f"run-{number}"
    assert verify_run(run).problems == ()
    assert run.end is not None
    assert run.end.event == "run_completed"
    assert run.lines[0]["task"][0]["content"]["sha256"] == text_sha256(task_of(number))
    replies = [line["reply"]["sha256"] for line in run.lines if line.event == "turn_completed"]
    assert replies == [text_sha256(turn.text) for turn in result.turns]
    failures = [line["error"] for line in run.lines if line.event == "provider_failed"]
    assert failures == expected_failures(number, result)


def expected_failures(number: int, result: RunResult) -> list[str]:
    if number % REFUSED_EVERY == 0:
        refusing = result.turns[0].fallback_from
        return ["ProviderRefused"] * sum(turn.fallback_from == refusing for turn in result.turns)
    if number % BUSY_EVERY == 0:
        return ["ProviderRateLimited"]
    return ["ProviderUnreachable"] if number in CUT else []


def check_run(number: int, run: Run, result: RunResult) -> None:
    check_result(number, result)
    check_trace(number, run, result)


def test_two_hundred_runs_at_once_share_a_trace(nano: Router, server: ProviderServer, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"

    async def main() -> list[RunResult]:
        async with coordinator_of(nano, server, trace=TraceFile(path)) as coordinator:
            runs = (coordinator.arun(task_of(number), run_id=f"run-{number}") for number in range(RUNS))
            results = await asyncio.gather(*runs)
        await all_gone(server)
        return results

    with no_leak():
        results = asyncio.run(main())
    traces = {run.run_id: run for run in read_trace(path).runs}
    assert len(traces) == RUNS
    for number, result in enumerate(results):
        check_run(number, traces[f"run-{number}"], result)
    assert {len(tickets(received)) for received in server.requests} == {1}


def test_one_of_many_runs_is_cancelled_and_the_others_do_not_notice(
    nano: Router, server: ProviderServer, moody: Moody, tmp_path: Path
) -> None:
    moody.stuck = STUCK
    paths = [tmp_path / f"{number}.jsonl" for number in range(BESIDE)]

    async def carry_out(coordinator: Coordinator, number: int) -> RunResult:
        with closing(JsonlTrace(paths[number], f"run-{number}")) as trace:
            return await coordinator.arun(task_of(number), run_id=f"run-{number}", sinks=[trace])

    async def main() -> list[RunResult | BaseException]:
        async with coordinator_of(nano, server) as coordinator:
            tasks = [asyncio.create_task(carry_out(coordinator, number)) for number in range(BESIDE)]
            while moody.seen[f"ticket-{STUCK}"] == 0:
                await asyncio.sleep(0.005)
            tasks[STUCK].cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        await all_gone(server)
        return results

    with no_leak():
        results = asyncio.run(main())
    for number, result in enumerate(results):
        (run,) = read_trace(paths[number]).runs
        if number == STUCK:
            check_cancelled(run, result)
        else:
            assert isinstance(result, RunResult)
            check_run(number, run, result)


def check_cancelled(run: Run, result: object) -> None:
    assert isinstance(result, asyncio.CancelledError)
    assert [line.event for line in run.lines[-3:]] == ["provider_called", "provider_failed", "run_failed"]
    assert [line["error"] for line in run.lines[-2:]] == ["Cancelled"] * 2
    assert verify_run(run).problems == ()


def test_a_run_leaves_nothing_behind_in_a_loop_that_goes_on(
    nano: Router, server: ProviderServer, moody: Moody, caplog: pytest.LogCaptureFixture
) -> None:
    moody.stuck = STUCK

    async def main() -> None:
        for number in (1, min(CUT), 70, STUCK):
            async with coordinator_of(nano, server) as coordinator:
                run = coordinator.arun(task_of(number), on_text=lambda turn, text: None)
                with suppress(TimeoutError):
                    await asyncio.wait_for(run, 0.5 if number == STUCK else 30)
            await all_gone(server)

    with no_leak():
        asyncio.run(main(), debug=True)
    faults = [record for record in caplog.records if record.name == "asyncio" and record.levelno >= logging.ERROR]
    assert faults == []


def test_many_runs_do_not_hammer_an_agent_that_is_down(server: ProviderServer, tmp_path: Path) -> None:
    """Each run in flight asks once, and again only until the breaker has seen its failures; later runs do not ask."""
    path = tmp_path / "trace.jsonl"
    server.faults["down"] = FAULTS["500"]
    server.answer = team_answer
    agents = (Agent(slot, f"agent-{slot}", "openai-compatible", model, server.url) for slot, model in enumerate(DOWN))
    router: Any = TEAM

    async def main() -> list[RunResult]:
        pool = pool_of(*agents)
        async with Coordinator(router, pool, live=True, retry=QUICK, trace=TraceFile(path)) as coordinator:
            first = await asyncio.gather(*(coordinator.arun(task_of(number)) for number in range(50)))
            return [*first, *[await coordinator.arun(task_of(number)) for number in range(50, 55)]]

    results = asyncio.run(main())
    assert {(result.status, result.turns[0].fallback_from) for result in results} == {(RunStatus.ACCEPTED, 0)}
    assert [result.answer for result in results] == [f"The answer to ticket-{number}." for number in range(55)]
    limit = BreakerPolicy().failures
    assert limit <= sum(received.model == DOWN[0] for received in server.requests) <= 50 + limit - 1
    assert {report.problems for report in verify(read_trace(path))} == {()}

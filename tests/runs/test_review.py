"""A person releases the answer: asked by a callback, or between two parts of a run; and an authority may insist."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from trinity_mlx.contracts.errors import UsageError
from trinity_mlx.contracts.events import Reviewed
from trinity_mlx.pools.authority import Authority
from trinity_mlx.rules.budgets import Limits
from trinity_mlx.rules.machine import Decision
from trinity_mlx.rules.policy import Policy
from trinity_mlx.runs.coordinator import Coordinator, TraceFile
from trinity_mlx.runs.result import RunResult, RunStatus
from trinity_mlx.runs.run import ReviewRequest
from trinity_mlx.runs.state import RunState
from trinity_mlx.tracing.reader import read_trace
from trinity_mlx.tracing.timeline import timeline
from trinity_mlx.tracing.verify import verify

from ..run_cases import TEAM, Listener, carry_out, carry_out_in_virtual_time, coordinator_of, pool_of, scripted

ASK = Policy(review="ask")
AGENTS = scripted(0, "42"), scripted(1, "ACCEPT: six sevens")


def test_a_callback_is_asked_off_the_loop_and_its_decision_is_in_the_trace(tmp_path: Path) -> None:
    asked: list[tuple[ReviewRequest, int]] = []
    path, heard = tmp_path / "trace.jsonl", Listener()

    def reviewer(request: ReviewRequest) -> Decision:
        asked.append((request, threading.get_ident()))
        return Decision(True, "Ada", "well done")

    trace = TraceFile(path, content=True)
    result = carry_out(*AGENTS, policy=ASK, trace=trace, run={"reviewer": reviewer, "sinks": [heard]})
    assert (result.status, result.answer) == (RunStatus.ACCEPTED, "42")
    ((request, thread),) = asked
    assert (request.message.text, len(request.turns), thread == threading.get_ident()) == ("42", 2, False)
    assert [(event.approved, event.reviewer) for event in heard.of(Reviewed)] == [(True, "Ada")]
    trace_read = read_trace(path)
    assert not any(report.problems for report in verify(trace_read))
    assert {"Ada released the answer", "well done"} <= {entry.text for entry in timeline(trace_read.runs[0])}


async def allows(request: ReviewRequest) -> bool:
    return True


@pytest.mark.parametrize(
    ("reviewer", "status", "answer"),
    [
        (allows, RunStatus.ACCEPTED, "42"),
        (lambda request: True, RunStatus.ACCEPTED, "42"),
        (lambda request: False, RunStatus.FAILED, None),
        (lambda request: None, RunStatus.FAILED, None),
        (lambda request: "yes", RunStatus.FAILED, None),
    ],
)
def test_only_a_clear_yes_releases_an_answer(reviewer: Any, status: RunStatus, answer: str | None) -> None:
    result = carry_out(*AGENTS, policy=ASK, run={"reviewer": reviewer})
    assert (result.status, result.answer) == (status, answer)
    assert (result.error.type if result.error else None) == (None if answer else "rejected")


def test_a_persons_time_is_none_of_the_runs() -> None:
    async def slow(request: ReviewRequest) -> bool:
        await asyncio.sleep(3600)
        return True

    limits = Limits(wall_time_s=60.0)
    result = carry_out_in_virtual_time(*AGENTS, policy=ASK, limits=limits, run={"reviewer": slow})
    assert (result.status, round(result.wall_ms)) == (RunStatus.ACCEPTED, 0)


def test_a_run_without_a_reviewer_waits_for_its_decision(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"

    async def go_on(state: RunState, **options: Any) -> RunResult:
        async with coordinator_of(*AGENTS, trace=TraceFile(path)) as other:
            return await other.aresume(RunState.from_json(json.loads(json.dumps(state.to_json()))), **options)

    waiting = carry_out(*AGENTS, policy=ASK, trace=TraceFile(path))
    assert (waiting.status, waiting.answer, waiting.calls) == (RunStatus.AWAITING_REVIEW, "42", ())
    assert waiting.state is not None
    assert asyncio.run(go_on(waiting.state, decision=Decision(True))).status is RunStatus.ACCEPTED
    assert asyncio.run(go_on(waiting.state, decision=Decision(False))).answer is None
    with pytest.raises(UsageError, match="next step is AwaitReview"):
        asyncio.run(go_on(waiting.state))
    reports = verify(read_trace(path))
    assert reports[0].problems == ()


@pytest.mark.parametrize("policy", ["default", Policy(name="mine")])
def test_no_run_gets_around_a_review_or_a_limit_that_its_authority_requires(policy: Any) -> None:
    limits = Limits(provider_calls=2)
    authority = Authority({"authority_ref": "a:7"}, pool_of(*AGENTS), limits, needs_review=True)
    with Coordinator.governed(TEAM, authority) as coordinator:
        result = coordinator.run("6 * 7?", policy=policy, reviewer=lambda request: False)
        assert (result.status, result.answer) == (RunStatus.FAILED, None)
        tight = Limits(provider_calls=1)
        result = coordinator.run("6 * 7?", policy=policy, limits=tight, reviewer=lambda request: True)
        assert result.status is RunStatus.BUDGET_EXCEEDED
        loose = coordinator.run("6 * 7?", limits=Limits(provider_calls=99, tokens=1000), reviewer=lambda request: True)
        assert loose.status is RunStatus.ACCEPTED
    assert Limits(provider_calls=99, tokens=5).within(limits) == Limits(provider_calls=2, tokens=5)

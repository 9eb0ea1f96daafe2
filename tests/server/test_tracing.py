"""Traces of what was served: they hold up, and carry on what the caller has begun."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from trinity_mlx.runs.coordinator import TraceFile
from trinity_mlx.tracing.otel import spans_of
from trinity_mlx.tracing.reader import read_trace
from trinity_mlx.tracing.verify import verify

from .serving import Direct, by_role, team

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ASK = {"messages": [{"role": "user", "content": "What is 6 * 7?"}]}


def served_trace(folder: Path, **headers: str) -> Path:
    place = folder / "runs.jsonl"
    served = team(coordinator={"trace": TraceFile(place)})
    answered = asyncio.run(Direct(served, **headers)("/v1/chat/completions", ASK))
    assert answered.status == 200
    (run,) = read_trace(place).runs
    assert run.run_id == answered.headers["x-trinity-run-id"]
    return place


def test_spans_carry_on_the_callers_trace(tmp_path: Path) -> None:
    (run,) = read_trace(served_trace(tmp_path, traceparent=CALLER)).runs
    spans = spans_of(run)
    assert {f"{span.context.trace_id:032x}" for span in spans} == {CALLER.split("-")[1]}  # type: ignore[union-attr]
    root = spans[-1]
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == CALLER.split("-")[2]


@pytest.mark.parametrize("header", ["", "00-zz-11-01", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "x" * 10_000])
def test_a_trace_context_that_is_none_is_passed_over(tmp_path: Path, header: str) -> None:
    (run,) = read_trace(served_trace(tmp_path, traceparent=header)).runs
    assert "traceparent" not in run.lines[0]["refs"]
    assert spans_of(run)[-1].parent is None


def test_traces_of_many_at_once_hold_up(tmp_path: Path) -> None:
    place = tmp_path / "runs.jsonl"
    served = team(by_role("The answer is 42."), coordinator={"trace": TraceFile(place)})

    async def many() -> None:
        direct = Direct(served)
        await asyncio.gather(*(direct("/v1/chat/completions", ASK) for _ in range(20)))

    asyncio.run(many())
    trace = read_trace(place)
    assert len(trace.runs) == 20
    assert [report.problems for report in verify(trace)] == [()] * 20

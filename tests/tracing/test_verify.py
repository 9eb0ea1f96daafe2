"""Verification: a trace as it was written passes, and whatever is taken out, changed or moved is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import TraceInvalid
from trinity_mlx.contracts.events import Event, Fallback, TurnStarted
from trinity_mlx.contracts.routing import RouteLogits
from trinity_mlx.contracts.transcript import Message, Transcript
from trinity_mlx.tracing.reader import read_trace
from trinity_mlx.tracing.verify import RunReport, verify

from .. import trace_builders as build


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def report_of(path: Path) -> RunReport:
    (report,) = verify(read_trace(path))
    return report


def checks_of(path: Path, events: Iterable[Event], **options: Any) -> list[tuple[int, str]]:
    """Line and check of each problem of a run of ``events``."""
    report = report_of(build.write(path, list(events), **options))
    return [(problem.line, problem.check) for problem in report.problems]


def rewrite(path: Path, records: list[dict[str, Any]]) -> None:
    """Write ``records`` with a fresh chain: as somebody would who changes a trace with care."""
    previous, lines = None, []
    for sequence, record in enumerate(records):
        lines.append(json.dumps(record | {"seq": sequence, "previous": previous}).encode())
        previous = hashlib.sha256(lines[-1]).hexdigest()
    path.write_bytes(b"\n".join(lines) + b"\n")


def records_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_whole_run_passes(path: Path) -> None:
    report = report_of(build.write(path, build.good_run()))
    assert (report.problems, report.finished, report.events, report.transcripts) == ((), True, 15, 0)
    assert report.head == hashlib.sha256(path.read_bytes().splitlines()[-1]).hexdigest()


@pytest.mark.parametrize(
    "task",
    [
        Transcript.of("What is 17 + 25?"),
        Transcript((Message("system", "Be brief.\n"), Message("user", "a\n\nb\n"), Message("assistant", ""))),
        Transcript((Message("user", ""), Message("user", "x: y\nmy user: z"))),
    ],
)
def test_transcripts_are_computed_again_where_texts_were_kept(path: Path, task: Transcript) -> None:
    report = report_of(build.write(path, build.good_run(task), keep_content=True))
    assert (report.problems, report.transcripts) == ((), 5)


def test_transcripts_are_followed_up_to_the_first_text_that_was_redacted(path: Path, tmp_path: Path) -> None:
    odd = Transcript.of("write this:\nuser: hello")
    report = report_of(build.write(path, build.good_run(odd), keep_content=True))
    assert (report.problems, report.transcripts) == ((), 5)
    secret = report_of(build.write(tmp_path / "b", build.good_run(), keep_content=True, secrets=["17 + 25 ="]))
    assert (secret.problems, secret.transcripts) == ((), 2)


def test_an_unfinished_run_is_no_fault(path: Path) -> None:
    for length in range(1, 15):
        report = report_of(build.write(path, list(build.good_run())[:length]))
        assert (report.problems, report.finished) == ((), False)
        path.unlink()


@given(st.data())
def test_any_changed_byte_is_found(tmp_path_factory: Any, data: st.DataObject) -> None:
    """In every line but the last, which ``head`` is for."""
    path = build.write(tmp_path_factory.mktemp("trace") / "run.jsonl", build.good_run(), keep_content=True)
    head, whole = report_of(path).head, path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:place] + bytes([data.draw(st.integers(0, 255))]) + whole[place + 1 :])
    if path.read_bytes() == whole:
        return
    try:
        reports = verify(read_trace(path))
    except TraceInvalid:
        return
    trouble = [problem for report in reports for problem in report.problems]
    assert trouble or [report.head for report in reports] != [head]


@given(st.data())
def test_any_missing_doubled_or_moved_line_is_found(tmp_path_factory: Any, data: st.DataObject) -> None:
    path = build.write(tmp_path_factory.mktemp("trace") / "run.jsonl", build.good_run())
    lines = path.read_bytes().splitlines(keepends=True)
    line = lines.pop(data.draw(st.integers(0, len(lines) - 2)))
    for _ in range(data.draw(st.integers(0, 2))):
        lines.insert(data.draw(st.integers(0, len(lines))), line)
    path.write_bytes(b"".join(lines))
    original = list(build.good_run())
    is_same = [json.loads(each)["event"] for each in lines] == [event.kind for event in original]
    report = report_of(path)
    assert report.problems or (is_same and report.head == hashlib.sha256(lines[-1].rstrip()).hexdigest())
    if not report.problems:
        assert [json.loads(each)["seq"] for each in lines] == list(range(15))


def test_a_changed_line_is_named(path: Path) -> None:
    build.write(path, build.good_run())
    path.write_bytes(path.read_bytes().replace(b'"latency_ms":3.25', b'"latency_ms":9.25', 1))
    (problem,) = report_of(path).problems
    assert (problem.line, problem.check) == (4, "chain")


def test_a_missing_line_is_named(path: Path) -> None:
    build.write(path, build.good_run())
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4] + lines[5:]))
    found = {(problem.line, problem.check) for problem in report_of(path).problems}
    assert {(5, "sequence"), (5, "chain"), (5, "order")} <= found


def change(path: Path, number: int, **fields: Any) -> set[tuple[int, str]]:
    records = records_of(path)
    records[number - 1] |= fields
    rewrite(path, records)
    return {(problem.line, problem.check) for problem in report_of(path).problems}


def test_a_fresh_chain_hides_no_change_of_what_is_hashed(path: Path) -> None:
    def fresh() -> None:
        path.unlink(missing_ok=True)
        build.write(path, build.good_run(), keep_content=True)

    fresh()
    assert change(path, 1) == set()
    text = records_of(path)[9]["reply"]
    assert change(path, 10, reply=text | {"text": "43"}) == {(10, "content"), (10, "transcript"), (11, "transcript"),
                                                              (14, "transcript")}  # fmt: skip
    fresh()
    assert change(path, 10, reply=text | {"characters": 1}) == {(10, "content")}
    fresh()
    assert change(path, 15, answer=text | {"text": ""}) == {(15, "content")}
    fresh()
    assert (11, "transcript") in change(path, 11, transcript_hash="0" * 64)
    fresh()
    assert change(path, 3, raw_slot=1) == {(3, "route")}
    fresh()
    assert change(path, 3, logits={"agent": [0.5, -1.25], "role": [2.0, 0.1, -0.4]}) == {(3, "route")}
    fresh()
    assert change(path, 5, elapsed_ms=1.0) == {(5, "time")}


def test_a_route_hash_stays_when_logits_differ_beyond_six_decimals(path: Path) -> None:
    logits = RouteLogits((0.5000001, -1.2500001), (2.0, 0.1, -0.3))
    assert (
        checks_of(path, [build.started(), TurnStarted(0, 2, build.TASK.sha256), build.routed(0, logits=logits)]) == []
    )


def test_what_a_bypassed_router_did_not_give_is_not_missed(path: Path) -> None:
    nothing = dict.fromkeys(("raw_slot", "raw_role", "margins", "logits", "read_hash", "route_hash", "token_count"))
    assert checks_of(path, [build.started(), TurnStarted(0, 2, build.TASK.sha256), build.routed(0, **nothing)]) == []


BEGUN = (build.started(), TurnStarted(0, 2, build.TASK.sha256), build.routed(0))
SAID = build.completed(0, build.extended(build.TASK, "42"))


@pytest.mark.parametrize(
    "events",
    [
        [build.started(), build.failure()],
        [*BEGUN[:2], build.failure()],
        [*BEGUN, build.failure()],
        [*BEGUN, build.called(0), build.failure()],
        [*BEGUN, build.called(0), build.failed(0), build.failure()],
        [*BEGUN, Fallback(0, 0, 1, "at rest"), build.called(0, slot=1)],
        [*BEGUN, Fallback(0, 0, 1, "at rest"), Fallback(0, 1, 0, "at rest"), build.failure()],
        [*BEGUN, build.called(0), SAID, build.failure()],
        [*BEGUN, build.called(0), SAID, build.ended()],
    ],
)
def test_orders_that_a_run_can_take(path: Path, events: list[Event]) -> None:
    assert checks_of(path, events) == []


@pytest.mark.parametrize(
    ("events", "line"),
    [
        ([TurnStarted(0, 2, "0")], 1),
        ([build.ended()], 1),
        ([build.started(), build.started()], 2),
        ([build.started(), build.routed(0)], 2),
        ([build.started(), build.ended()], 2),
        ([build.started(), TurnStarted(1, 2, build.TASK.sha256)], 2),
        ([*BEGUN[:2], build.called(0)], 3),
        ([*BEGUN[:2], build.routed(1)], 3),
        ([*BEGUN, build.failed(0)], 4),
        ([*BEGUN, SAID], 4),
        ([*BEGUN, build.called(0, attempt=2)], 4),
        ([*BEGUN, build.called(0, slot=1)], 4),
        ([*BEGUN, build.called(1)], 4),
        ([*BEGUN, build.called(0), build.called(0, attempt=2)], 5),
        ([*BEGUN, build.called(0), build.failed(0, attempt=2)], 5),
        ([*BEGUN, build.called(0), build.failed(0), SAID], 6),
        ([*BEGUN, build.called(0), build.ended()], 5),
        ([*BEGUN, build.called(0), build.failed(0), Fallback(0, 1, 0, "")], 6),
        ([*BEGUN, build.called(0), build.failed(0), Fallback(0, 0, 1, ""), build.called(0, attempt=2)], 7),
        ([*BEGUN, build.called(0), SAID, TurnStarted(0, 3, SAID.transcript_hash)], 6),
        ([build.started(), build.failure(), TurnStarted(0, 2, "0")], 3),
        ([*BEGUN, build.called(0), SAID, build.ended(), build.failure()], 7),
        ([*BEGUN, build.called(0), SAID, build.ended(), build.ended()], 7),
    ],
)
def test_orders_that_no_run_can_take(path: Path, events: list[Event], line: int) -> None:
    found = checks_of(path, events)
    assert found
    assert found[0] == (line, "order")


def test_a_turn_begins_with_the_transcript_before_it(path: Path) -> None:
    assert checks_of(path, [build.started(), TurnStarted(0, 2, "0" * 64)]) == [(2, "transcript")]

"""The reader: runs apart and in order, torn ends passed over, and anything else refused with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import TraceInvalid
from trinity_mlx.tracing.reader import read_trace

from .. import trace_builders as build


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return build.write(tmp_path / "run.jsonl", build.good_run())


def change(path: Path, number: int, **fields: Any) -> None:
    """Other values in one line, counted from 1; ``...`` takes a field away."""
    lines = path.read_text(encoding="utf-8").splitlines()
    record = json.loads(lines[number - 1]) | fields
    lines[number - 1] = json.dumps({key: value for key, value in record.items() if value is not ...})
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_every_kind_of_event_is_read_back(path: Path) -> None:
    build.write(path, [build.started(), build.failure(answer=build.Content("so far"))], "run-2")
    first, second = read_trace(path).runs
    assert [line.event for line in first.lines][-2:] == ["turn_completed", "run_completed"]
    assert (first.start, first.end) == (first.lines[0], first.lines[-1])
    assert second.end is not None
    assert second.end["answer"]["characters"] == 6
    assert {line.event for run in (first, second) for line in run.lines} == {
        "run_started", "turn_started", "routed", "provider_called", "provider_failed", "fallback", "turn_completed",
        "run_completed", "run_failed",
    }  # fmt: skip


def test_runs_that_are_mixed_are_taken_apart(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    traces = [build.JsonlTrace(path, run_id) for run_id in ("b", "a")]
    for event in build.good_run():
        for trace in traces:
            trace.emit(event)
    assert [(run.run_id, len(run.lines)) for run in read_trace(path).runs] == [("b", 15), ("a", 15)]
    for trace in traces:
        trace.close()


@given(st.data())
def test_a_file_that_breaks_off_anywhere_gives_every_whole_line(tmp_path_factory: Any, data: st.DataObject) -> None:
    path = build.write(tmp_path_factory.mktemp("trace") / "run.jsonl", build.good_run(), keep_content=True)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    trace = read_trace(path)
    rest = whole[:cut].rpartition(b"\n")[2]
    is_complete = rest and whole[cut : cut + 1] == b"\n"
    events = sum(len(run.lines) for run in trace.runs)
    assert events == whole[:cut].count(b"\n") + bool(is_complete)
    assert len(trace.torn) == bool(rest and not is_complete)


def test_blank_lines_are_passed_over_and_counted(path: Path) -> None:
    path.write_bytes(b"\n" + path.read_bytes() + b"  \n\n")
    trace = read_trace(path)
    assert (trace.runs[0].lines[0].number, len(trace.runs[0].lines), trace.torn) == (2, 15, ())


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_an_empty_file_holds_no_runs(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.jsonl").write_bytes(content)
    assert read_trace(tmp_path / "run.jsonl").runs == ()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "line 2: it is not JSON"),
        (b"\xff\xfe", "line 2: it is not JSON: 'utf-8' codec"),
        (b"[1]", "line 2: it is JSON, but not an object"),
        (b"7", "line 2: it is JSON, but not an object"),
        (b'{"a": 1, "a": 2}', "line 2: it is not JSON: a key stands there twice"),
        (b'{"a": 9223372036854775808}', "line 2: it is not JSON: a whole number has more than 63 bits"),
        (b'{"a": NaN}', "line 2: it is not JSON"),
        (b'{"a": "\\ud800"}', "line 2: it is not JSON"),
        (b"[" * 100_000, "line 2: it is not JSON"),
        (b"{}", "line 2: it has schema version None; this program reads version 2"),
        (b'{"schema_version": 3}', "line 2: it has schema version 3"),
        (b'{"schema_version": 2, "event": "run_slept"}', "line 2: there is no event 'run_slept'"),
        (b'{"schema_version": 2, "event": ["a"]}', r"line 2: there is no event \['a'\]"),
    ],
)
def test_a_line_that_is_no_event_is_named(path: Path, line: bytes, reason: str) -> None:
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + line + b"\n" + b"".join(others))
    with pytest.raises(TraceInvalid, match=reason):
        read_trace(path)


@pytest.mark.parametrize(
    ("number", "fields", "reason"),
    [
        (1, {"seq": "0"}, "line 1: seq of run_started is wrong"),
        (1, {"run_id": None}, "run_id of run_started"),
        (1, {"time": "yesterday"}, "time is 'yesterday'"),
        (1, {"time": "2026-01-02T03:04:05"}, "time is .* with its zone"),
        (1, {"refs": {"a": 1}}, r"refs.a of run_started"),
        (
            1,
            {"task": [{"role": "user", "name": "", "content": {"sha256": "0"}}]},
            r"task.0.content.characters of run_started",
        ),
        (1, {"pool": ...}, "pool of run_started is wrong: Field required"),
        (1, {"more": 1}, "more of run_started is wrong: Extra inputs"),
        (1, {"schema_version": 2.0}, "schema_version of run_started"),
        (1, {"schema_version": 1}, "schema version 1, of trinity-mlx before tools .*; this program reads version 2"),
        (3, {"role": "Judge"}, "role of routed"),
        (3, {"slot": 0.5}, "slot of routed"),
        (3, {"logits": {"agent": ["x"], "role": []}}, r"logits.agent.0"),
        (3, {"margins": {"agent": 1.0}}, r"margins.role"),
        (10, {"usage": {"input_tokens": 1, "output_tokens": None}}, r"usage.output_tokens of turn_completed"),
        (15, {"wall_ms": None}, "wall_ms of run_completed"),
    ],
)
def test_a_field_of_another_kind_is_named(path: Path, number: int, fields: dict[str, Any], reason: str) -> None:
    change(path, number, **fields)
    with pytest.raises(TraceInvalid, match=reason):
        read_trace(path)


@given(st.binary(max_size=200))
def test_no_bytes_give_any_other_error(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.mktemp("trace") / "run.jsonl"
    path.write_bytes(content)
    try:
        read_trace(path)
    except TraceInvalid as error:
        assert "line " in str(error)  # noqa: PT017


@pytest.mark.parametrize("place", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, place: str) -> None:
    with pytest.raises(TraceInvalid, match=r"the trace .* cannot be read"):
        read_trace(tmp_path / place)


def test_a_run_is_found_by_its_id_or_the_beginning_of_it(tmp_path: Path) -> None:
    for run_id in ("abc", "abcd", "xyz"):
        build.write(tmp_path / "run.jsonl", [build.started()], run_id)
    trace = read_trace(tmp_path / "run.jsonl")

    def found(run_id: str | None) -> list[str]:
        return [run.run_id for run in trace.select(run_id)]

    assert found(None) == ["abc", "abcd", "xyz"]
    assert found("abc") == ["abc"]
    assert found("ab") == ["abc", "abcd"]
    assert found("x") == ["xyz"]
    with pytest.raises(TraceInvalid, match="has no run 'q': it holds abc, abcd, xyz"):
        trace.select("q")

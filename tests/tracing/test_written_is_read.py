"""Whatever an event holds: it is read back from the file, or refused before a byte of it is written."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import NonFiniteLogits, UsageError
from trinity_mlx.contracts.events import Content, Event
from trinity_mlx.contracts.provider import Usage
from trinity_mlx.contracts.routing import Role
from trinity_mlx.tracing.jsonl import JsonlTrace
from trinity_mlx.tracing.otel import spans_of
from trinity_mlx.tracing.reader import read_trace
from trinity_mlx.tracing.timeline import timeline
from trinity_mlx.tracing.verify import verify

from .. import trace_builders as build

WORDS = st.sampled_from(["accepted", "Worker", "turn_completed", "tokens", "1234", "\ud800", "\x18", "\n", "eyJ-", "é"])
TEXTS = st.text(st.characters(), max_size=20) | WORDS
NUMBERS = st.integers(-(2**80), 2**80) | st.integers(0, 2000) | st.floats(width=64) | st.booleans()
FREE = st.recursive(
    st.none() | NUMBERS | TEXTS | st.sampled_from(Role),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.integers(), inner, max_size=3),
    max_leaves=6,
)
SECRETS = st.lists(WORDS | st.sampled_from(["none", "agent", "slot", "false", "role"]), max_size=3)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Anything that a field of that type may be given by code that is careless about numbers and texts."""
    if isinstance(kind, types.UnionType):
        return st.one_of(*map(values_of, get_args(kind)))
    if get_origin(kind) is tuple:
        return st.lists(values_of(get_args(kind)[0]), max_size=3).map(tuple)
    if get_origin(kind) is Mapping:
        return st.dictionaries(TEXTS, FREE, max_size=3)
    if kind is Content:
        return st.builds(Content, TEXTS, st.booleans())
    if is_dataclass(kind):
        return dataclasses_of(kind)
    by_type: dict[Any, st.SearchStrategy[Any]] = {
        str: TEXTS,
        int: st.integers(-(2**80), 2**80),
        float: st.floats(width=64) | st.integers(-(2**80), 2**80),
        bool: st.booleans(),
        Role: st.sampled_from(Role),
        type(None): st.none(),
    }
    return by_type[kind]


def dataclasses_of(kind: Any) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind)

    @st.composite
    def built(draw: st.DrawFn) -> Any:
        try:
            return kind(**{field.name: draw(values_of(hints[field.name])) for field in fields(kind)})
        except NonFiniteLogits:
            return kind((0.0,), (0.0, 0.0, 0.0))

    return built()


@st.composite
def broken(draw: st.DrawFn, event: Any) -> Any:
    """``event`` with something in one of its fields that is mostly not of the field's type."""
    name = draw(st.sampled_from([field.name for field in fields(event)]))
    return replace(event, **{name: draw(FREE | st.builds(Content, TEXTS) | st.just(b"bytes"))})


WHOLE = st.one_of(*(dataclasses_of(kind) for kind in get_args(Event)))
EVENTS = WHOLE | WHOLE.flatmap(broken)
CLOCKS = st.lists(st.tuples(st.floats(-1e12, 1e12), st.floats(-1e9, 1e9)), min_size=6, max_size=6)


@given(st.lists(EVENTS, min_size=1, max_size=6), CLOCKS, SECRETS, st.booleans(), TEXTS)
def test_what_a_trace_writes_its_reader_reads(
    tmp_path_factory: pytest.TempPathFactory,
    events: list[Event],
    clock: list[tuple[float, float]],
    secrets: list[str],
    keep_content: bool,
    run_id: str,
) -> None:
    path: Path = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    times = iter(clock)
    trace = JsonlTrace(path, run_id, keep_content=keep_content, secrets=secrets, clock=lambda: next(times))
    written = 0
    for event in events:
        before = path.read_bytes()
        try:
            trace.emit(event)
            written += 1
        except UsageError:
            assert path.read_bytes() == before
    trace.close()
    read = read_trace(path)
    assert (read.torn, sum(len(run.lines) for run in read.runs)) == ((), written)
    verify(read)
    for run in read.runs:
        assert list(timeline(run))


def test_spans_are_made_of_whatever_can_be_read(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.sdk")
    path = build.write(tmp_path / "trace.jsonl", [build.started(), build.called(0), build.ended(turns=2**70)])
    (run,) = read_trace(path).runs
    assert spans_of(run)


def test_sums_of_usage_stay_within_what_is_read(tmp_path: Path) -> None:
    most = Usage(2**53, 2**53)
    path = build.write(tmp_path / "trace.jsonl", [build.ended(usage=most + most + most)])
    assert read_trace(path).runs[0].lines[0]["usage"] == {"input_tokens": 2**53, "output_tokens": 2**53}


def test_a_secret_that_is_a_word_of_the_trace_takes_nothing_of_its_form(tmp_path: Path) -> None:
    words = ["Worker", "slot", "agent", "accepted", "1234", "user", "sha256", "true"]
    path = build.write(tmp_path / "trace.jsonl", build.good_run(), secrets=words, keep_content=True)
    (run,) = read_trace(path).runs
    assert len(run.lines) == 15
    assert "accepted" not in {run.lines[-1]["status"]}

"""The timeline: who was chosen, called and what came of it, in short printable lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import TraceInvalid
from trinity_mlx.contracts.events import Event, TurnStarted
from trinity_mlx.tracing.otel import to_json_lines
from trinity_mlx.tracing.reader import read_trace
from trinity_mlx.tracing.timeline import Entry, Tone, timeline
from trinity_mlx.tracing.verify import verify

from .. import trace_builders as build


def entries_of(path: Path, events: Any, **options: Any) -> list[Entry]:
    (run,) = read_trace(build.write(path / "run.jsonl", events, **options)).runs
    return list(timeline(run))


def test_a_whole_run(tmp_path: Path) -> None:
    entries = entries_of(tmp_path, build.good_run(), refs={"authority_ref": "a:7"})
    assert [(entry.elapsed_ms, str(entry.tone), entry.text) for entry in entries] == [
        (None, "head", "run run-1"),
        (0.0, "plain", "begun 2026-01-02 03:04:05 UTC, policy default of at most 5 turns, pool pair"),
        (None, "detail", "task: 45 characters, sha256 adcc06b56dcf"),
        (None, "detail", "agents: 0 alpha (scripted a-1), 1 beta (openai b-2)"),
        (None, "detail", "limits: tokens 5000"),
        (None, "detail", "router: artifact nano, profile cpu"),
        (None, "detail", "refs: authority_ref a:7"),
        (500.0, "plain", "turn 0: Worker by alpha, margins agent 1.750, role 1.900, routed in 3 ms"),
        (
            1000.0,
            "bad",
            "alpha failed at attempt 1 after 120 ms: ProviderRateLimited (status 429): slow down [please]; "
            "again in 1.5 s",
        ),
        (
            1500.0,
            "bad",
            "alpha failed at attempt 2 after 120 ms: ProviderRateLimited (status 429): slow down [please]",
        ),
        (1750.0, "plain", "fallback from alpha to beta: ProviderRateLimited: slow down"),
        (
            2250.0,
            "plain",
            "beta (b-2) replied in 812 ms, 120 tokens in and 33 out, $0.0012, stop, suggests Verifier",
        ),
        (2750.0, "plain", "turn 1: Verifier by alpha, routed in 3 ms"),
        (None, "detail", "the router's own choice was Worker by alpha; changed by suggestion"),
        (3250.0, "plain", "alpha (a-1) replied in 812 ms, tokens not counted, stop, verdict accept"),
        (3500.0, "good", "accepted after 2 turns and 2.50 s, 240 tokens in and 66 out, $0.0024"),
    ]  # fmt: skip


def test_kept_texts_are_shown_in_short(tmp_path: Path) -> None:
    task = build.Transcript.of("a\n  b " + "c" * 500)
    texts = [entry.text for entry in entries_of(tmp_path, build.good_run(task), keep_content=True)]
    assert "task: a b " + "c" * 196 + "..." in texts
    assert "17 + 25 = 42" in texts


@pytest.mark.parametrize(
    ("events", "tone", "text"),
    [
        ([build.started(), TurnStarted(0, 1, "0")], Tone.BAD, "unfinished: nothing follows turn_started"),
        (
            [build.started(), build.failure()],
            Tone.BAD,
            "budget_exceeded after 0 turns and 0.90 s, 0 tokens in and 0 out: BudgetExceeded: the run exceeds its "
            "limit of tokens: 6000 of 5000",
        ),
        (
            [build.started(), build.ended(status="max_turns", turns=1)],
            Tone.PLAIN,
            "max_turns after 1 turn and 2.50 s, 240 tokens in and 66 out, $0.0024",
        ),
    ],
)
def test_the_end_of_a_run(tmp_path: Path, events: list[Event], tone: Tone, text: str) -> None:
    last = entries_of(tmp_path, events)[-1]
    assert (last.tone, last.text) == (tone, text)


def test_hashes_are_shown_in_short(tmp_path: Path) -> None:
    entries = entries_of(tmp_path, [build.started(router={"base_ref": "ab" * 32, "name": "nano"})])
    assert entries[5].text == "router: base_ref abababababab, name nano"


def test_nothing_steers_the_terminal(tmp_path: Path) -> None:
    steering = "\x1b[2J\x07\u202e\r\n\x9b31m"
    entries = entries_of(
        tmp_path,
        [
            build.started(pool=steering),
            build.failed(0, error=steering, message=steering),
            build.failure(status=steering),
        ],
        run_id=steering,
    )
    assert all(entry.text.isprintable() for entry in entries)


def test_a_run_without_its_beginning_and_agents_without_names(tmp_path: Path) -> None:
    assert "turn 0: Worker by slot 0" in entries_of(tmp_path, [build.routed(0)])[1].text
    (tmp_path / "run.jsonl").unlink()
    entries = entries_of(tmp_path, [build.started(agents=({}, {"slot": [], "name": 1}), policy={}), build.routed(0)])
    assert "policy without a name, pool pair" in entries[1].text


EXTREMES = (
    *(None, True, -1, 0, 10**18, 10**30, 10**400, 1e308, -1e308, 0.5, "", "x", [], ["x"], [None], {}),
    *("9999-12-31T00:00:00Z", "1600-01-01T00:00:00Z"),
    *({"name": None}, {"slot": {}, "name": {}}, {"input_tokens": 10**30, "output_tokens": -1}),
    *({"agent": [1e300], "role": []}, {"agent": 1e300, "role": None}),
)


@given(st.data())
def test_extreme_values_are_refused_or_told(tmp_path_factory: Any, data: st.DataObject) -> None:
    path = build.write(tmp_path_factory.mktemp("trace") / "run.jsonl", build.good_run())
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    record = data.draw(st.sampled_from(records))
    record[data.draw(st.sampled_from(sorted(record)))] = data.draw(st.sampled_from(EXTREMES))
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    try:
        trace = read_trace(path)
    except TraceInvalid:
        return
    verify(trace)
    assert all(entry.text for run in trace.runs for entry in timeline(run))
    assert to_json_lines(trace.runs).endswith("\n")

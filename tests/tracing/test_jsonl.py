"""The writer: whole lines that survive, a chain for each run, hashes instead of texts, and no secrets."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from trinity_mlx.contracts.errors import FolderUnavailable
from trinity_mlx.contracts.events import Content, Event, TurnStarted
from trinity_mlx.tracing.jsonl import JsonlTrace
from trinity_mlx.tracing.reader import read_trace
from trinity_mlx.tracing.record import LONGEST_TEXT
from trinity_mlx.tracing.verify import verify

from .. import trace_builders as build

ENDLESS = """
import sys
from pathlib import Path
from trinity_mlx.contracts.events import Content, RunStarted, TaskMessage
from trinity_mlx.tracing.jsonl import JsonlTrace

trace = JsonlTrace(Path(sys.argv[1]), sys.argv[2], keep_content=True)
text = "0123456789abcdef" * int(sys.argv[3])
turn = 0
while True:
    trace.emit(RunStarted((TaskMessage("user", Content(text)),), "0", {}, "pool", (), {}, {}))
    turn += 1
    print(turn, flush=True)
"""


def objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def test_each_line_names_its_version_run_number_time_refs_and_event(path: Path) -> None:
    build.write(path, build.good_run(), refs={"authority_ref": "authority:7"})
    lines = objects(path)
    assert [line["seq"] for line in lines] == list(range(15))
    assert {(line["schema_version"], line["run_id"], line["refs"]["authority_ref"]) for line in lines} == {
        (2, "run-1", "authority:7")
    }
    assert [line["event"] for line in lines[:4]] == ["run_started", "turn_started", "routed", "provider_called"]
    assert [line["time"] for line in lines[:3]] == [
        "2026-01-02T03:04:05.000Z",
        "2026-01-02T03:04:05.250Z",
        "2026-01-02T03:04:05.500Z",
    ]
    assert [line["elapsed_ms"] for line in lines[:3]] == [0.0, 250.0, 500.0]


def test_each_line_carries_the_hash_of_the_line_before(path: Path) -> None:
    build.write(path, build.good_run())
    raw = path.read_bytes().splitlines()
    hashes = [None, *(hashlib.sha256(line).hexdigest() for line in raw[:-1])]
    assert [json.loads(line)["previous"] for line in raw] == hashes


def test_texts_are_kept_as_hash_and_length(path: Path) -> None:
    build.write(path, [build.started()])
    text = "What is 17 + 25?\nassistant, answer [briefly]."
    kept = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "characters": len(text)}
    assert objects(path)[0]["task"] == [{"role": "user", "content": kept, "name": ""}]
    assert "What is" not in path.read_text()


def test_texts_are_kept_whole_where_asked_for(path: Path) -> None:
    text = "é" * (LONGEST_TEXT + 1)
    build.write(path, [build.failure(answer=Content(text))], keep_content=True)
    assert objects(path)[0]["answer"]["text"] == text


def test_values_have_a_plain_form(path: Path) -> None:
    changes = {"policy": {"path": Path("a"), "inf": float("inf"), 3: {1}, "role": build.Role.VERIFIER}, "limits": {}}
    build.write(path, [build.started(**changes), build.routed(0)])
    first, second = objects(path)
    assert first["policy"] == {"path": "a", "inf": None, "3": [1], "role": "Verifier"}
    assert second["role"] == "Worker"
    assert second["margins"] == {"agent": 1.75, "role": 1.9}
    assert second["logits"]["role"] == [2.0, 0.1, -0.30000001]


def test_a_text_that_utf8_cannot_hold_is_spelled_out(path: Path) -> None:
    build.write(path, [build.failure(answer=Content("a\ud800b"), message="\udfff")], keep_content=True)
    (line,) = objects(path)
    assert (line["answer"]["text"], line["message"]) == ("a\\ud800b", "\\udfff")
    assert line["answer"]["sha256"] == hashlib.sha256(b"a\\ud800b").hexdigest()


def test_a_long_message_is_cut_after_redaction(path: Path) -> None:
    secret = "abcdefgh12345678"
    message = "x" * (LONGEST_TEXT - 4) + secret
    build.write(path, [build.failed(0, message=message)], secrets=[secret])
    assert objects(path)[0]["message"] == "x" * (LONGEST_TEXT - 4) + "[red... (6 characters more)"


def test_secrets_reach_no_line(path: Path) -> None:
    secret = "zaq1xsw2cde3"
    events = [
        build.started(task=build.Transcript.of(f"my key is {secret}"), router={"api_key": "other-key-77"}),
        build.failed(0, message=f"401 for Authorization: Bearer {secret}", request_id=secret),
        build.failure(details={"headers": {"x-api-key": secret}, "url": f"?key={secret}"}, answer=Content(secret)),
    ]
    build.write(path, events, run_id=f"run {secret}", keep_content=True, secrets=[secret], refs={"a_ref": secret})
    assert secret not in path.read_text(encoding="utf-8")
    assert "other-key" not in path.read_text(encoding="utf-8")
    first, second, third = objects(path)
    (message,) = first["task"]
    assert message["content"]["text"] == "my key is [redacted]"
    assert message["content"]["redacted"] is True
    assert message["content"]["sha256"] == hashlib.sha256(f"my key is {secret}".encode()).hexdigest()
    assert second["message"] == "401 for Authorization: Bearer [redacted]"
    assert third["details"]["headers"]["x-api-key"] == "[redacted]"


def test_a_new_file_is_its_owners_alone(path: Path) -> None:
    build.write(path, [build.started()])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_earlier_file_is_continued(path: Path) -> None:
    build.write(path, build.good_run(), "first")
    build.write(path, build.good_run(), "second")
    trace = read_trace(path)
    assert [(run.run_id, len(run.lines)) for run in trace.runs] == [("first", 15), ("second", 15)]
    assert not any(report.problems for report in verify(trace))


@pytest.mark.parametrize("place", ["missing/run.jsonl", "."])
def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, place: str) -> None:
    with pytest.raises(FolderUnavailable, match=r"the trace .* cannot be written: .*; choose another file"):
        JsonlTrace(tmp_path / place, "run-1")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named() -> None:
    trace = JsonlTrace(Path("/dev/full"), "run-1")
    with pytest.raises(FolderUnavailable, match="No space left"):
        trace.emit(build.started())
    trace.close()


def test_closing_twice_is_no_error_and_emitting_after_it_is(path: Path) -> None:
    trace = JsonlTrace(path, "run-1")
    trace.close()
    trace.close()
    with pytest.raises(ValueError, match="closed"):
        trace.emit(build.started())


@pytest.mark.parametrize("cut", [1, 40, 150])
def test_a_torn_line_is_closed_and_nothing_is_glued_to_it(path: Path, cut: int) -> None:
    build.write(path, build.good_run(), "first")
    whole = path.read_bytes()
    lost = whole.splitlines()[-1][:-cut]
    path.write_bytes(whole[: -cut - 1])
    trace = read_trace(path)
    assert (trace.torn, len(trace.runs[0].lines)) == ((15,), 14)
    build.write(path, build.good_run(), "second")
    assert path.read_bytes().splitlines()[14] == lost + b"\x18"
    trace = read_trace(path)
    assert (trace.torn, [len(run.lines) for run in trace.runs]) == ((15,), [14, 15])
    assert not any(report.problems for report in verify(trace))


def test_a_last_line_that_lacks_its_end_alone_counts(path: Path) -> None:
    build.write(path, build.good_run(), "first")
    path.write_bytes(path.read_bytes()[:-1])
    assert (read_trace(path).torn, len(read_trace(path).runs[0].lines)) == ((), 15)
    build.write(path, build.good_run(), "second")
    trace = read_trace(path)
    assert (trace.torn, [len(run.lines) for run in trace.runs]) == ((), [15, 15])
    assert not any(report.problems for report in verify(trace))


def test_twenty_threads_share_a_file(path: Path) -> None:
    together = Barrier(20)

    def in_step(events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            together.wait(60)
            yield event

    def one_run(number: int) -> None:
        task = build.Transcript.of("x" * random.Random(number).choice([10, 5_000, 70_000]))
        build.write(path, in_step(build.good_run(task)), f"run-{number}", keep_content=True)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(one_run, range(20)))
    trace = read_trace(path)
    assert {(run.run_id, len(run.lines)) for run in trace.runs} == {(f"run-{number}", 15) for number in range(20)}
    assert [report for report in verify(trace) if report.problems or not report.finished] == []
    order = [line["run_id"] for line in objects(path)]
    assert any(order[place] != order[place + 1] != order[place + 2] for place in range(len(order) - 2))


def test_threads_may_share_one_run(path: Path) -> None:
    trace = JsonlTrace(path, "run-1")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda turn: trace.emit(TurnStarted(turn, 1, "0")), range(200)))
    trace.close()
    (report,) = verify(read_trace(path))
    assert {problem.check for problem in report.problems} == {"order"}


def start_endless(path: Path, run_id: str, repeats: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ENDLESS, str(path), run_id, str(repeats)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed_after(child: subprocess.Popen[str], seconds: float) -> int:
    """How many events the child had reported as written when it was killed."""
    assert child.stdout is not None
    assert child.stdout.readline() == "1\n"
    time.sleep(seconds)
    os.kill(child.pid, signal.SIGKILL)
    reported = 1 + len(child.stdout.read().split("\n")[:-1])
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    return reported


def test_every_event_that_was_written_survives_kill_9(path: Path) -> None:
    reported = {}
    for number in range(8):
        repeats = random.choice([1, 300, 20_000])
        run_id = f"run-{number}"
        reported[run_id] = killed_after(start_endless(path, run_id, repeats), random.uniform(0.0, 0.05))
    trace = read_trace(path)
    found = {run.run_id: len(run.lines) for run in trace.runs}
    assert all(0 <= found[run_id] - count <= 1 for run_id, count in reported.items()), (reported, found)
    checks = {problem.check for report in verify(trace) for problem in report.problems}
    assert checks <= {"order", "transcript"}


def test_processes_share_a_file_while_some_are_killed(path: Path) -> None:
    children = {f"run-{number}": start_endless(path, f"run-{number}", 1000) for number in range(3)}
    reported = {run_id: killed_after(child, 0.05) for run_id, child in children.items()}
    trace = read_trace(path)
    found = {run.run_id: len(run.lines) for run in trace.runs}
    assert all(0 <= found[run_id] - count <= 1 for run_id, count in reported.items()), (reported, found)
    assert {problem.check for report in verify(trace) for problem in report.problems} <= {"order", "transcript"}

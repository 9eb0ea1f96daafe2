"""A process that dies at any point of writing a trace: what was acknowledged is there, and the next writer goes on."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from trinity_mlx.tracing.reader import read_trace
from trinity_mlx.tracing.verify import verify

from .. import trace_builders as build

ROOT = Path(__file__).parents[2]


def test_every_point_of_writing_can_be_the_last(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.killed_writer", str(tmp_path)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    deaths = 0
    for line in output.splitlines():
        point, acknowledged, is_dead = line.split()
        path = tmp_path / f"{point}.jsonl"
        if path.exists() and path.stat().st_size:
            check(path, Counter(acknowledged.replace("-", "")))
        else:
            assert acknowledged == "-"
        deaths += is_dead == "True"
    assert deaths > 60


def check(path: Path, acknowledged: Counter[str]) -> None:
    before = read_trace(path)
    lines = {run.run_id: len(run.lines) for run in before.runs}
    for number, events in acknowledged.items():
        assert lines.get(f"run-{number}", 0) >= events
    assert not any(report.problems for report in verify(before))
    build.write(path, build.good_run(), "after")
    after = read_trace(path)
    assert after.select("after")[0].end is not None
    assert {run.run_id: len(run.lines) for run in after.runs if run.run_id != "after"} == lines
    assert not any(report.problems for report in verify(after))

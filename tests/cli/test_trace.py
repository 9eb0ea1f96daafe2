"""``trinity-mlx trace``: what its commands print, how they exit, and what they refuse."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from trinity_mlx.cli.commands.trace import print_runs
from trinity_mlx.cli.main import main
from trinity_mlx.tracing.reader import read_trace

from .. import trace_builders as build


def trace(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["trace", *map(str, arguments)])


def assert_fails(result: Result, code: int, *fragments: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    assert result.stdout == ""
    for fragment in fragments:
        assert fragment in result.stderr


@pytest.fixture
def path(tmp_path: Path) -> Path:
    build.write(tmp_path / "run.jsonl", build.good_run(), "first")
    return build.write(tmp_path / "run.jsonl", list(build.good_run())[:5], "second")


def test_show_tells_every_run_in_whole_lines_where_there_is_no_terminal(path: Path) -> None:
    shown = trace("show", path)
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert lines[0] == "run first"
    assert lines[1].startswith("   +0.000 s  begun 2026-01-02 03:04:05 UTC, policy default")
    assert "             agents: 0 alpha (scripted a-1), 1 beta (openai b-2)" in lines
    failed = (
        "alpha failed at attempt 1 after 120 ms: ProviderRateLimited (status 429): slow down [please]; again in 1.5 s"
    )
    assert f"   +1.000 s  {failed}" in lines
    assert "             unfinished: nothing follows provider_failed" in lines
    assert len(lines) == 15 + 9


def test_show_one_run(path: Path) -> None:
    assert [line for line in trace("show", path, "--run", "sec").stdout.splitlines() if line.startswith("run")] == [
        "run second"
    ]
    assert_fails(trace("show", path, "--run", "third"), 2, "has no run 'third': it holds first, second")


def test_show_gives_the_events_as_they_stand(path: Path) -> None:
    shown = trace("show", path, "--json", "--run", "second")
    assert json.loads(shown.stdout) == [json.loads(line) for line in path.read_text().splitlines()[15:]]


@pytest.mark.parametrize("width", [1, 20, 40, 80])
def test_a_narrow_terminal_loses_nothing(path: Path, width: int) -> None:
    wide = trace("show", path).stdout
    out = Console(highlight=False, width=width, force_terminal=True, color_system=None, file=io.StringIO())
    print_runs(out, read_trace(path).runs)
    narrow = out.file.getvalue()  # type: ignore[attr-defined]
    assert "".join(narrow.split()) == "".join(wide.split())
    assert max(map(len, narrow.splitlines())) <= max(width, 34)


def test_verify_passes_what_was_written(path: Path) -> None:
    verified = trace("verify", path)
    assert verified.exit_code == 0, verified.output
    first, second = verified.stdout.splitlines()
    assert first.startswith("passed: run first, 15 events, finished, 0 transcripts computed again, last line ")
    assert second.startswith("passed: run second, 5 events, unfinished")


def test_verify_exits_with_1_and_says_what_and_where(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"slow down", b"speed up!", 1))
    verified = trace("verify", path)
    assert verified.exit_code == 1
    assert verified.stdout.startswith("FAILED: run first")
    assert "  line 6, chain: previous is not the hash of the line before" in verified.stdout
    assert trace("verify", path, "--run", "second").exit_code == 0
    as_json = trace("verify", path, "--json")
    assert as_json.exit_code == 1
    report = json.loads(as_json.stdout)
    assert (report["schema"], report["version"], report["passed"]) == ("trinity-mlx.trace.report", 1, False)
    assert [run["passed"] for run in report["runs"]] == [False, True]
    assert [(problem["line"], problem["check"]) for problem in report["runs"][0]["problems"]] == [(6, "chain")]


def test_a_torn_line_is_noted_and_no_fault(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])
    for command in ("show", "verify"):
        result = trace(command, path)
        assert result.exit_code == 0, result.output
        assert result.stderr == "line 20 was never finished: its writer was stopped meanwhile\n"
    assert json.loads(trace("verify", path, "--json").stdout)["torn"] == [20]


def test_an_empty_trace_is_noted(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").touch()
    assert trace("show", tmp_path / "run.jsonl").stderr == f"{tmp_path / 'run.jsonl'} holds no events\n"


@pytest.mark.parametrize("command", ["show", "verify", "export"])
def test_what_is_no_trace_is_refused(tmp_path: Path, command: str) -> None:
    more = ["--out", tmp_path / "spans.json"] if command == "export" else []
    assert_fails(trace(command, tmp_path / "missing.jsonl", *more), 2, "missing.jsonl cannot be read")
    (tmp_path / "bad.jsonl").write_text("{}\n")
    assert_fails(trace(command, tmp_path / "bad.jsonl", *more), 2, "line 1: it has schema version None")


def test_export_writes_a_line_for_each_run(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.common", reason="the extra otel")
    out = tmp_path / "spans.json"
    exported = trace("export", path, "--out", out)
    assert exported.exit_code == 0, exported.output
    assert exported.stderr == f"exported 2 runs to {out}\n"
    requests = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [len(request["resourceSpans"][0]["scopeSpans"][0]["spans"]) for request in requests] == [5, 2]
    assert_fails(trace("export", path, "--out", out), 2, "spans.json exists: name another file")
    assert_fails(trace("export", path, "--out", path), 2, "run.jsonl exists")
    assert_fails(trace("export", path, "--out", path / "spans.json"), 3, "cannot be written")


def test_export_wants_one_place(path: Path, tmp_path: Path) -> None:
    both = ["--out", tmp_path / "a", "--endpoint", "http://127.0.0.1:1"]
    assert_fails(trace("export", path), 2, "--out FILE or --endpoint URL, one of the two")
    assert_fails(trace("export", path, *both), 2, "one of the two")


@pytest.mark.parametrize("command", [(), ("show",), ("verify",), ("export",)])
def test_help_has_an_example(command: tuple[str, ...]) -> None:
    shown = trace(*command, "--help").stdout
    assert "Example:\n" in shown
    assert "trinity-mlx trace" in shown

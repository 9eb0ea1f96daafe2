"""``trinity-mlx trace``: the traces of runs, shown, verified and exported."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...contracts.errors import FolderUnavailable, OutputExists, UsageError
from ..options import PLACE, TEXT, json_option
from ..output import console, note, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from ...tracing.reader import Run, Trace
    from ...tracing.timeline import Entry
    from ...tracing.verify import RunReport

_FILE = click.argument("file", type=PLACE)
_RUN = click.option("--run", "run_id", type=TEXT, metavar="ID", help="Only this run, by its id or the beginning of it.")
_INDENT = 13
_STYLES = {"head": "bold", "plain": "", "detail": "dim", "good": "green", "bad": "red"}


@click.group()
def trace() -> None:
    """Look into the traces of runs.

    A trace is a file of JSON lines that a run wrote as it went: who was chosen and called, and what came of it. `show`
    prints it for people, `verify` checks that nothing is missing or changed, `export` converts it for tracing systems.

    \b
    Example:
      trinity-mlx trace show run.jsonl
      trinity-mlx trace verify run.jsonl
      trinity-mlx trace export run.jsonl --out spans.json
    """


@trace.command()
@_FILE
@_RUN
@json_option
def show(file: Path, run_id: str | None, as_json: bool) -> None:
    """Tell what happened in the runs of FILE, with the time since each run's start.

    \b
    Example:
      trinity-mlx trace show run.jsonl --run 3f2a
    """
    trace, runs = _read(file, run_id)
    if as_json:
        print_json([line.record for run in runs for line in run.lines])
        return
    _note_torn(trace)
    print_runs(console(), runs)


def print_runs(out: Console, runs: Sequence[Run]) -> None:
    """What happened in each run, as wide as ``out`` is."""
    from ...tracing.timeline import timeline

    for run in runs:
        for entry in timeline(run):
            _print_entry(out, entry)


@trace.command()
@_FILE
@_RUN
@json_option
@click.pass_context
def verify(ctx: click.Context, file: Path, run_id: str | None, as_json: bool) -> None:
    """Check that no event of FILE is missing, changed or out of order.

    Lines must be numbered without gaps, each must carry the hash of the one before, and events must come in an order
    that is possible in a run; hashes are computed again wherever the trace holds what was hashed. Exits with 1 if
    something does not hold, and with 2 if FILE is not a trace. A run without an end is reported as unfinished; that is
    not a fault.

    \b
    Example:
      trinity-mlx trace verify run.jsonl
    """
    from ...tracing.verify import verify_run

    trace, runs = _read(file, run_id)
    reports = [verify_run(run) for run in runs]
    if as_json:
        print_json(_as_json(trace, reports))
    else:
        _note_torn(trace)
        for report in reports:
            _print_report(report)
    if any(report.problems for report in reports):
        ctx.exit(1)


@trace.command()
@_FILE
@_RUN
@click.option("--out", type=PLACE, metavar="FILE", help="Write OTLP as JSON lines.")
@click.option("--endpoint", type=TEXT, metavar="URL", help="Send to a collector, as in http://localhost:4318.")
def export(file: Path, run_id: str | None, out: Path | None, endpoint: str | None) -> None:
    """Turn the runs of FILE into OpenTelemetry spans, into a file or to a collector.

    Texts are never exported. Needs the extra `otel`.

    \b
    Example:
      trinity-mlx trace export run.jsonl --out spans.json
    """
    from ...tracing import otel

    if (out is None) == (endpoint is None):
        raise UsageError("give --out FILE or --endpoint URL, one of the two")
    _, runs = _read(file, run_id)
    if endpoint is not None:
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())  # what it says, an error says better
        otel.send(runs, endpoint)
    elif out is not None:
        _write_new(out, otel.to_json_lines(runs))
    note(f"exported {len(runs)} run{'' if len(runs) == 1 else 's'} to {endpoint or out}")


def _read(file: Path, run_id: str | None) -> tuple[Trace, tuple[Run, ...]]:
    from ...tracing.reader import read_trace

    trace = read_trace(file)
    return trace, trace.select(run_id)


def _note_torn(trace: Trace) -> None:
    for number in trace.torn:
        note(f"line {number} was never finished: its writer was stopped meanwhile")
    if not trace.runs:
        note(f"{trace.path} holds no events")


def _print_entry(out: Console, entry: Entry) -> None:
    """The time, and the text beside it: wrapped in a terminal, in one line elsewhere."""
    from rich.text import Text

    width = max(out.width - _INDENT, 20) if out.is_terminal else len(entry.text) + 1
    time = "" if entry.elapsed_ms is None else f"+{entry.elapsed_ms / 1000:.3f} s"
    indent = 0 if entry.tone == "head" else _INDENT
    for number, part in enumerate(Text(entry.text, _STYLES[entry.tone]).wrap(out, width)):
        prefix = time.rjust(indent - 2) if number == 0 else ""
        out.print(Text(prefix.ljust(indent)) + part, soft_wrap=True)


def _print_report(report: RunReport) -> None:
    from rich.markup import escape

    out = console()
    verdict = "[bold red]FAILED[/]" if report.problems else "[bold green]passed[/]"
    state = "finished" if report.finished else "unfinished"
    what = f"{report.events} events, {state}, {report.transcripts} transcripts computed again"
    out.print(f"{verdict}: run {escape(report.run_id)}, {what}, last line {report.head}", soft_wrap=True)
    for problem in report.problems:
        out.print(f"  line {problem.line}, {problem.check}: {escape(problem.what)}", soft_wrap=True)


def _as_json(trace: Trace, reports: list[RunReport]) -> dict[str, object]:
    from dataclasses import asdict

    runs = [{"passed": not report.problems, **asdict(report)} for report in reports]
    passed = not any(report.problems for report in reports)
    return {"schema": "trinity-mlx.trace.report", "version": 1, "passed": passed, "torn": trace.torn, "runs": runs}


def _write_new(path: Path, text: str) -> None:
    from ...files.atomic import write_atomically

    if path.exists():
        raise OutputExists(f"{path} exists: name another file, or remove it")
    try:
        write_atomically(path, text.encode("utf-8"))
    except OSError as error:
        raise FolderUnavailable(f"{path} cannot be written: {error.strerror or error}") from None

"""An evaluation for people: a line for every case, what failed and why, and the summary."""

from __future__ import annotations

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ...contracts.routing import Role, RouteDecision
from ...contracts.transcript import Transcript
from ...evaluation.results import CaseResult, Evaluation, Status, Worst
from ...evaluation.suite import Route, Suite
from ...files.models import plain
from ..output import console

_MARKS = {Status.PASS: "[green]pass[/]", Status.FAIL: "[bold red]FAIL[/]", Status.REPORT: "[yellow]report[/]"}
_WIDE = 120
"""Columns from which a case's prompt has one of its own."""
_PROMPT = 44


def print_evaluation(evaluation: Evaluation, show_logits: bool) -> None:
    """The whole evaluation."""
    out = console()
    out.print(_cases(evaluation, out.width >= _WIDE))
    if show_logits:
        _print_logits(out, evaluation)
    for result in evaluation.failed:
        out.print(f"\n{_MARKS[result.status]} [bold]{escape(plain(result.case.id))}[/]")
        for reason in result.reasons:
            out.print(f"  {plain(reason)}", markup=False)
    out.print()
    out.print(_summary(evaluation))
    for line in evaluation.notes:
        out.print(Text(f"note: {plain(line)}", style="dim"))


def print_cases(suite: Suite) -> None:
    """What a suite holds."""
    table = Table(box=None, header_style="dim", pad_edge=False, title=f"{suite.name}, {len(suite.cases)} cases")
    table.title_justify = "left"
    for heading in ("case", "expected", "messages", "last message"):
        table.add_column(heading, justify="right" if heading == "messages" else "left")
    for case in suite.cases:
        messages = case.transcript.messages
        table.add_row(_id(case.id), _route(case.expected), str(len(messages)), _prompt(case.transcript))
    console().print(table)


def _cases(evaluation: Evaluation, wide: bool) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2 if wide else 1, 0, 0))
    table.add_column("", no_wrap=True)
    for heading in ("case", "prompt") if wide else ("case",):
        table.add_column(heading, vertical="top")
    for heading in ("expected", "returned"):
        table.add_column(heading, no_wrap=True)
    for heading in ("tokens", "agent margin", "role margin", "moved"):
        table.add_column(heading if wide else heading.replace(" ", "\n"), justify="right", no_wrap=True)
    for result in evaluation.results:
        case = (_id(result.case.id), _prompt(result.case.transcript))
        table.add_row(_MARKS[result.status], *(case if wide else (Group(*case),)), *_measured(result, evaluation))
    return table


def _measured(result: CaseResult, evaluation: Evaluation) -> tuple[str, ...]:
    """The cells from ``expected`` on; ``moved`` is the largest difference of a logit from the snapshot's."""
    decision = result.decision
    expected = _route(result.case.expected)
    if decision is None:
        return (expected, "-", "-", "-", "-", "-")
    return (
        expected,
        _route(decision),
        str(decision.token_count),
        _margin(decision.margins.agent, evaluation.floors.agent),
        _margin(decision.margins.role, evaluation.floors.role),
        f"{result.distance.largest:.1e}" if result.distance else "-",
    )


def _print_logits(out: Console, evaluation: Evaluation) -> None:
    """The logits of each case in two lines, which ten numbers in one would not fit on a usual terminal."""
    slots = ", ".join(f"{slot} {label}" for slot, label in enumerate(evaluation.labels))
    out.print(f"\nagent logits: {plain(slots)}; role logits: {', '.join(role.label for role in Role)}", markup=False)
    for result in evaluation.results:
        if result.decision:
            out.print(_id(result.case.id))
            for split in ("agent", "role"):
                values = getattr(result.decision.logits, split)
                out.print(f"  {split:<5} {' '.join(f'{value:9.6f}' for value in values)}", markup=False)


def _summary(evaluation: Evaluation) -> Table:
    table = Table.grid(padding=(0, 2))
    environment, floors = evaluation.environment, evaluation.floors
    failed, runs = len(evaluation.failed), evaluation.determinism_runs
    variant = "".join(f", int{environment['quantize']}" if environment["quantize"] else "")
    rows = (
        (
            "lane",
            f"{environment['artifact']} on {environment['profile']} ({environment['device']}, "
            f"{environment['dtype']}, {environment['kernels']} kernels{variant})",
        ),
        (
            "cases",
            f"{len(evaluation.results) - failed} passed, {failed} failed, {evaluation.suite.name}, "
            f"{runs} run{'s' if runs > 1 else ''} in {evaluation.elapsed_s:.2f} s",
        ),
        ("roles", ", ".join(f"{role.label} {count}" for role, count in evaluation.roles.items())),
        ("slots", ", ".join(f"{slot} {evaluation.labels[slot]} {count}" for slot, count in evaluation.slots.items())),
        ("worst agent margin", _worst(evaluation.worst_agent, floors.agent, floors.agent_source)),
        ("worst role margin", _worst(evaluation.worst_role, floors.role, floors.role_source)),
        ("snapshot", _snapshot(evaluation)),
    )
    for name, value in rows:
        table.add_row(f"[dim]{name}[/]", Text(plain(value)))
    return table


def _snapshot(evaluation: Evaluation) -> str:
    if evaluation.snapshot is None:
        return "none"
    distance = evaluation.distance
    if distance is None:
        return f"{evaluation.snapshot.origin}: no logits to compare"
    hashes = [result.route_hash_drifted for result in evaluation.results if result.route_hash_drifted is not None]
    drifted = f", route hash differs in {sum(hashes)} of {len(hashes)}" if hashes else ""
    return (
        f"{evaluation.snapshot.origin}: cosine {distance.cosine:.7f}, relative L2 {distance.relative_l2:.1e}, "
        f"largest difference {distance.largest:.1e}{drifted}"
    )


def _worst(worst: Worst | None, floor: float | None, source: str) -> str:
    if worst is None:
        return "none"
    asked = f"floor {floor:g} ({source})" if floor is not None else "no floor is known"
    return f"{worst.value:.3f} in {worst.case}; {asked}"


def _margin(margin: float | None, floor: float | None) -> str:
    if margin is None:
        return "-"
    below = floor is not None and margin < floor
    return f"[bold red]{margin:.3f}[/]" if below else f"{margin:.3f}"


def _route(route: Route | RouteDecision) -> str:
    return f"{route.slot} {route.role.label}"


def _id(case: str) -> Text:
    return Text(plain(case), overflow="fold")


def _prompt(transcript: Transcript) -> Text:
    """The last message in one short line."""
    text = " ".join(transcript.messages[-1].text.split())
    short = text if len(text) <= _PROMPT else text[: _PROMPT - 1] + "…"
    return Text(plain(short), style="dim", no_wrap=True, overflow="ellipsis")

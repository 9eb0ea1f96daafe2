"""What a reading window changes, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ...files.models import plain
from ..output import console
from ..tables import plain_table

if TYPE_CHECKING:
    from ...contracts.routing import RouteDecision
    from ...evaluation.windows import WindowComparison, WindowedCase


def print_windows(comparison: WindowComparison) -> None:
    """A row for each case of which something was left out, and what became of all of them."""
    out, window = console(), comparison.window
    if comparison.cut:
        out.print(_table(comparison.cut))
    out.print(
        f"{comparison.suite.name} through head {window.head}, tail {window.tail}, step {window.step}: "
        f"{len(comparison.cases)} cases, {len(comparison.cut)} cut, {len(comparison.changed)} decided otherwise",
        markup=False,
    )
    for case in comparison.cases:
        if case.problem:
            out.print(plain(f"{case.id}: {case.problem}"), markup=False)


def _table(cases: list[WindowedCase]) -> Table:
    table = plain_table("", "case", "tokens", "left out", "whole", "through the window", "largest difference")
    for case in cases:
        gap = case.gap
        mark = "[dim]-[/]" if case.kept is None else "[green]same[/]" if case.kept else "[bold red]other[/]"
        table.add_row(
            mark,
            Text(plain(case.id)),
            str(case.token_count),
            f"{gap.start} to {gap.stop}" if gap else "",
            _route(case.whole),
            _route(case.windowed),
            f"{case.distance.largest:.2f}" if case.distance else "-",
        )
    return table


def _route(decision: RouteDecision | None) -> str:
    return "-" if decision is None else f"{decision.slot} {decision.role.label}"

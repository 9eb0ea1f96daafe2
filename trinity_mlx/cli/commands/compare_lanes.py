"""``trinity-mlx compare-lanes``: two lanes side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...contracts.errors import InputFileError
from ...contracts.routing import Role
from .. import settings
from ..options import NAME, json_option
from ..output import console, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from ...evaluation.compare import ComparedCase, LaneComparison
    from ...evaluation.lane import Lane
    from ...evaluation.snapshot import SnapshotCase

_NAMED = 8
"""So many missing cases are named; the rest is counted."""


@click.command("compare-lanes")
@click.argument("first", type=NAME)
@click.argument("second", type=NAME)
@json_option
@click.pass_context
def compare_lanes(ctx: click.Context, first: str, second: str, as_json: bool) -> None:
    """Compare what two lanes recorded: decisions, logits, margins.

    FIRST and SECOND are lanes as PROFILE/ARTIFACT, or lane files. Exits with 1 when a decision or an input differs.

    \b
    Example:
      trinity-mlx compare-lanes cpu/nano mlx/nano
    """
    from ...evaluation.compare import compare_lanes as compare

    comparison = compare(_find(first), _find(second))
    if as_json:
        print_json(comparison.to_dict())
    else:
        _print(comparison)
    if not comparison.agree:
        ctx.exit(1)


def _find(name: str) -> Lane:
    from ...evaluation.lane import lane_names, read_lane, shipped_lanes, user_lanes
    from ...files.paths import existing_file

    folders = (user_lanes(settings.config_dir()), shipped_lanes())
    for place in (*(folder / f"{name}.json" for folder in folders), Path(name)):
        if (path := existing_file(place)) is not None:
            return read_lane(path)
    known = ", ".join(lane_names(settings.config_dir())) or "(none yet: see trinity-mlx certify)"
    raise InputFileError(f"no lane {name!r}: name a file or one of {known}")


def _print(comparison: LaneComparison) -> None:
    from ...files.models import plain

    out = console()
    lanes = {"first": comparison.first, "second": comparison.second}
    for place, lane in lanes.items():
        out.print(f"{place}: {plain(lane.name)}, {lane.status}", markup=False)
    if comparison.cases:
        out.print(_table(comparison))
    for place, missing in (("first", comparison.only_first), ("second", comparison.only_second)):
        if missing:
            names = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if missing[_NAMED:] else "")
            out.print(f"only in the {place}: {plain(names)}", markup=False)
    out.print(_summary(comparison), markup=False)


def _table(comparison: LaneComparison) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("case", overflow="fold")
    table.add_column("decision")
    for heading in ("agent\nfirst", "margin\nsecond", "role\nfirst", "margin\nsecond", "logits\nmoved"):
        table.add_column(heading, justify="right")
    for case in comparison.cases:
        table.add_row(*_row(case))
    return table


def _row(case: ComparedCase) -> tuple[str, ...]:
    from rich.markup import escape

    from ...files.models import plain

    mark = "same" if case.same_decision else "[bold red]DIFFERS[/]"
    decisions = [_decision(case.first)] if case.same_decision else [_decision(case.first), _decision(case.second)]
    return (
        mark if case.same_input else "[bold red]INPUT[/]",
        escape(plain(case.id)),
        "\n".join(decisions),
        _margin(case.first.agent_margin),
        _margin(case.second.agent_margin),
        _margin(case.first.role_margin),
        _margin(case.second.role_margin),
        f"{case.distance.largest:.1e}" if case.distance else "-",
    )


def _summary(comparison: LaneComparison) -> str:
    if not comparison.cases:
        return "the lanes have no case in common: nothing can be compared"
    changed = sum(not case.same_decision for case in comparison.cases)
    other_input = sum(not case.same_input for case in comparison.cases)
    text = f"{len(comparison.cases)} cases in both, {changed} decided differently, {other_input} of another input"
    if distance := comparison.distance:
        text += (
            f"; logits: cosine {distance.cosine:.7f}, relative L2 {distance.relative_l2:.1e}, "
            f"largest difference {distance.largest:.1e}"
        )
    return text


def _decision(case: SnapshotCase) -> str:
    return f"{case.agent_id} {Role(case.role_id).label}"


def _margin(margin: float | None) -> str:
    return "-" if margin is None else f"{margin:.3f}"

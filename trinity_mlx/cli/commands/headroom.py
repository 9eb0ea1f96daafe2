"""``trinity-mlx headroom``: what a router could gain on a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...contracts.errors import UsageError
from ..options import PLACE, TEXT, json_option, profile_option
from ..output import console, note, print_json
from ..tables import plain_table
from ..training_base import agents_of, choose_base

if TYPE_CHECKING:
    from ...training.headroom import Headroom


@click.command()
@click.argument("table", type=PLACE)
@click.option("--agents", type=TEXT, metavar="A,B,...", help="The agents, in the order of their slots.  [default: all]")
@click.option("--base", help="Base whose hidden vectors are used too: nano, a folder, or OWNER/NAME[@REVISION].")
@profile_option
@click.option(
    "--window", type=TEXT, metavar="HEAD,TAIL", help="Tokens read of a long transcript.  [default: all that fit]"
)
@click.option("--report", type=PLACE, help="Write a page with plots.")
@json_option
def headroom(
    table: Path,
    agents: str | None,
    base: str | None,
    profile: str,
    window: str | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Say what a router could gain on TABLE, and whether training is worth it.

    Best single agent, nearest neighbours and ridge regression on the words (and, with --base, on its hidden vectors),
    the oracle, and the oracle replayed on other repeats: chosen on the splits train and val, and measured on test.

    \b
    Examples:
      trinity-mlx headroom answers.jsonl --agents gpt-5,claude-sonnet,local
      trinity-mlx headroom answers.jsonl --base nano --report headroom.html
    """
    from ...files.atomic import write_file
    from ...training.answers import Answers
    from ...training.headroom import headroom as measure
    from ...training.reading import base_hidden
    from ...training.report import render_headroom
    from ...training.table import read_table
    from ...training.vector_layout import Layout

    if window and not base:
        raise UsageError("a window is of what the base reads, and no base is given: add --base, or leave out --window")
    rows = read_table(table)
    answers = Answers.of(rows, agents_of(rows, agents))
    hidden = None
    if base:
        choice = choose_base(base, profile, window, "role-lines")
        layout = Layout.of(choice.reading.base)
        segments = choice.reading.segments([row.transcript for row in answers.rows])
        features = choice.engine.features(choice.reading.base, layout, segments)
        hidden = base_hidden(features, layout, choice.engine, choice.reading.base)
    result = measure(answers, hidden)
    if report:
        write_file(report, render_headroom(result).encode("utf-8", "replace"))
        note(f"report: {report}")
    print_json(result.to_dict()) if as_json else _print(result)


def _print(found: Headroom) -> None:
    from rich.markup import escape

    from ...training.headroom import summary_rows

    rows = summary_rows(found)
    grid = plain_table(*rows[0], right=rows[0].keys() - {"method", "setting"})
    for row in rows:
        grid.add_row(*map(escape, row.values()))
    console().print(grid)
    click.echo(f"\n{found.paragraph()}")

"""``trinity-mlx table``: tables of recorded answers, checked, shown, split and merged."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..options import PLACE, json_option
from ..output import console, note, print_json
from ..tables import plain_table

if TYPE_CHECKING:
    from ...training.table import Table


@click.group()
def table() -> None:
    """Look at tables of recorded answers.

    A row has an id, a prompt or messages, and a score from 0 to 1 for each agent that was asked; further costs,
    seconds, turns, repeated scores (runs), the answers themselves (responses), a category, a split and a role. JSONL,
    CSV or Parquet, plain or compressed; in CSV and Parquet a column `scores.AGENT` is one agent's.

    \b
    Examples:
      trinity-mlx table check answers.jsonl
      trinity-mlx table split answers.csv --out answers.jsonl.gz
    """


@table.command()
@click.argument("file", type=PLACE)
@json_option
def check(file: Path, as_json: bool) -> None:
    """Read every row of FILE, and say what is wrong, or what it holds.

    \b
    Example:
      trinity-mlx table check answers.jsonl --json
    """
    from ...training.table import read_table

    _tell(read_table(file), as_json)


@table.command()
@click.argument("file", type=PLACE)
@click.option("--rows", type=click.IntRange(min=1), default=5, show_default=True, help="How many rows.")
def show(file: Path, rows: int) -> None:
    """Print the first rows of FILE as JSON.

    \b
    Example:
      trinity-mlx table show answers.csv --rows 1
    """
    from ...training.table import read_table

    for row in read_table(file).rows[:rows]:
        print_json(row.to_dict())


@table.command()
@click.argument("file", type=PLACE)
@click.option("--out", required=True, type=PLACE, help="The new table, JSONL; .gz compresses.")
@click.option(
    "--by",
    type=click.Choice(["text", "category"]),
    default="text",
    show_default=True,
    help="text: equal prompts stay together; category: no category is in two splits.",
)
@click.option("--force", is_flag=True, help="Replace --out.")
def split(file: Path, out: Path, by: str, force: bool) -> None:
    """Give each row of FILE a split: train, val or test, at about 60, 20 and 20 per cent, always the same.

    \b
    Example:
      trinity-mlx table split answers.jsonl --by category --out unseen.jsonl
    """
    from ...training.table import read_table, split_by_category, split_by_text

    whole = read_table(file)
    _write(out, whole.with_splits(split_by_text if by == "text" else split_by_category(whole)), force)


@table.command()
@click.argument("files", type=PLACE, nargs=-1, required=True)
@click.option("--out", required=True, type=PLACE, help="The new table, JSONL; .gz compresses.")
@click.option("--force", is_flag=True, help="Replace --out.")
def merge(files: tuple[Path, ...], out: Path, force: bool) -> None:
    """Put the rows of FILES together; equal prompts become one row with the agents of both.

    \b
    Example:
      trinity-mlx table merge monday.jsonl tuesday.csv --out answers.jsonl
    """
    from ...training.table import merge_tables, read_table

    _write(out, merge_tables([read_table(file) for file in files]), force)


def _write(out: Path, whole: Table, force: bool) -> None:
    from ...contracts.errors import OutputExists
    from ...training.table_files import write_jsonl

    if out.exists() and not force:
        raise OutputExists(f"{out} exists already")
    write_jsonl(out, (row.to_dict() for row in whole.rows))
    splits = _splits(whole)
    note(f"{out}: {len(whole.rows)} rows, {_shares(splits)}")
    missing = [name for name in ("train", "val", "test") if not splits.get(name)]
    if 0 < len(missing) < 3:
        note(f"no row is in {' or '.join(missing)}, and training needs rows in each")


def _splits(whole: Table) -> Counter[str]:
    return Counter(row.split or "none" for row in whole.rows)


def _shares(splits: Counter[str]) -> str:
    if set(splits) == {"none"}:
        return "no splits: training takes them from the prompts"
    return "splits " + ", ".join(f"{name} {splits[name]}" for name in ("train", "val", "test", "none") if splits[name])


def _tell(whole: Table, as_json: bool) -> None:
    from ...training.table import straddling

    known = {agent: [row.scores[agent] for row in whole.rows if agent in row.scores] for agent in whole.agents}
    facts = {
        "rows": len(whole.rows),
        "splits": dict(_splits(whole)),
        "categories": len({row.category for row in whole.rows if row.category}),
        "agents": {agent: {"rows": len(all_), "mean": sum(all_) / len(all_)} for agent, all_ in known.items()},
        "equal_prompts_in_two_splits": len(straddling(whole)),
        "not_read": list(whole.unread),
        "sha256": whole.sha256,
    }
    if as_json:
        print_json(facts)
        return
    _print(whole, facts, known)


def _print(whole: Table, facts: dict[str, object], known: dict[str, list[float]]) -> None:
    from rich.markup import escape

    grid = plain_table("agent", "rows", "mean score", right=["rows", "mean score"])
    for agent, scores in known.items():
        grid.add_row(escape(agent), str(len(scores)), f"{sum(scores) / len(scores):.4f}")
    click.echo(f"{facts['rows']} rows, {facts['categories']} categories, {_shares(_splits(whole))}\n")
    console().print(grid)
    if len(_splits(whole)) > 1 and _splits(whole)["none"]:
        note(f"{_splits(whole)['none']} rows have no split, and others have one: training refuses that")
    if whole.unread:
        note(f"not read: {', '.join(whole.unread)}")
    if facts["equal_prompts_in_two_splits"]:
        note(f"{facts['equal_prompts_in_two_splits']} rows have a prompt that stands in another split as well")

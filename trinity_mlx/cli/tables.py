"""Tables for people: columns under dim headings, without lines."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def plain_table(*headings: str, right: Collection[str] = ()) -> Table:
    """A table under ``headings``, of which those in ``right`` stand over numbers; a long cell is folded, never cut."""
    from rich.table import Table

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    return table

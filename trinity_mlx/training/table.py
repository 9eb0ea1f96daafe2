"""Tables of recorded answers: for each prompt, how well each agent did."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..contracts.errors import TableInvalid, TranscriptError
from .row import FIELDS, SPLITS, Row, row_of
from .table_files import read_records

_TENTHS = 10
_HELD_OUT = {"train": range(6), "val": range(6, 8), "test": range(8, _TENTHS)}


@dataclass(frozen=True, slots=True)
class Table:
    """Rows in their file's order. ``sha256`` is the file's; ``unread`` names fields that were passed over."""

    rows: tuple[Row, ...]
    sha256: str
    unread: tuple[str, ...] = ()

    @property
    def agents(self) -> tuple[str, ...]:
        """Every agent that has a score somewhere, in alphabetic order."""
        return tuple(sorted({agent for row in self.rows for agent in row.scores}))

    def with_splits(self, split: Callable[[Row], str]) -> Table:
        """The same table, each row in the split that ``split`` says."""
        return replace(self, rows=tuple(replace(row, split=split(row)) for row in self.rows))


def read_table(path: Path) -> Table:
    """A table from JSONL, CSV or Parquet, plain or compressed (gzip, bzip2, xz, Zstandard), every row checked.

    Raises:
        TableInvalid: the file cannot be read, or a row is not one; the message names its line.
    """
    rows: list[Row] = []
    unread: dict[str, None] = {}
    lines: dict[str, int] = {}
    for line, record in read_records(path):
        try:
            row = row_of(line, record)
        except (TranscriptError, ValueError) as error:
            raise TableInvalid(f"{path} line {line}: {error}") from None
        if row.id in lines:
            raise TableInvalid(f"{path} line {line}: id {row.id[:80]!r} stands on line {lines[row.id]} already")
        lines[row.id] = line
        unread.update(dict.fromkeys(key for key in record if key not in FIELDS))
        rows.append(row)
    if not rows:
        raise TableInvalid(f"{path} holds no row")
    return Table(tuple(rows), hashlib.sha256(path.read_bytes()).hexdigest(), tuple(unread))


def merge_tables(tables: Sequence[Table]) -> Table:
    """All rows; a row with a prompt of an earlier one adds its agents to that row.

    A row that was named by its line alone is named ``TABLE.LINE`` from the second table on, both from 1.

    Raises:
        TableInvalid: two tables give one agent different scores for one prompt, or one id to two prompts.
    """
    merged: dict[str, Row] = {}
    for row in (_named(row, number) for number, table in enumerate(tables, start=1) for row in table.rows):
        earlier = merged.get(row.text)
        merged[row.text] = row if earlier is None else _joined(earlier, row)
    ids = [row.id for row in merged.values()]
    twice = next((name for name in ids if ids.count(name) > 1), None) if len(set(ids)) < len(ids) else None
    if twice is not None:
        raise TableInvalid(f"id {twice[:80]!r} belongs to two different prompts: rename one of them before merging")
    parts = "".join(table.sha256 for table in tables)
    return Table(tuple(merged.values()), hashlib.sha256(parts.encode()).hexdigest())


def split_by_text(row: Row) -> str:
    """``train``, ``val`` or ``test`` at about 60, 20 and 20 per cent, by a hash of the prompt.

    sha256 of ``split|`` and the text, its first twelve hexadecimal digits modulo 10: 0-5, 6-7, 8-9.
    """
    digit = _hash(f"split|{row.text}") % _TENTHS
    return next(name for name, digits in _HELD_OUT.items() if digit in digits)


def split_by_category(table: Table) -> Callable[[Row], str]:
    """The same shares with every category in one split alone, none of them empty, whatever the order of the rows.

    The largest category first, each goes to the split that still lacks the most rows; equal ones by a hash of their
    names. Rows without a category are one together.

    Raises:
        TableInvalid: there are fewer categories than splits.
    """
    rows = Counter(row.category or "" for row in table.rows)
    if len(rows) < len(SPLITS):
        names = ", ".join(repr(name[:40]) if name else "none" for name in sorted(rows))
        raise TableInvalid(f"all rows are of {names}: {', '.join(SPLITS)} need at least {len(SPLITS)} categories")
    lacking = {name: len(digits) * len(table.rows) for name, digits in _HELD_OUT.items()}
    chosen: dict[str, str] = {}
    for category in sorted(rows, key=lambda name: (-rows[name], _hash(f"split|{name}"))):
        empty = [name for name in SPLITS if name not in chosen.values()]
        is_owed = len(rows) - len(chosen) == len(empty)
        chosen[category] = max(empty if is_owed else SPLITS, key=lacking.__getitem__)
        lacking[chosen[category]] -= _TENTHS * rows[category]
    return lambda row: chosen[row.category or ""]


def straddling(table: Table) -> list[tuple[Row, Row]]:
    """Pairs of rows with one prompt that stand in different splits."""
    first: dict[str, Row] = {}
    pairs = [(first.setdefault(row.text, row), row) for row in table.rows]
    return [(one, other) for one, other in pairs if one.split != other.split]


def _hash(text: str) -> int:
    return int(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12], 16)


def _named(row: Row, number: int) -> Row:
    return replace(row, id=f"{number}.{row.id}") if number > 1 and row.id == str(row.line) else row


def _joined(earlier: Row, later: Row) -> Row:
    for agent in earlier.scores.keys() & later.scores.keys():
        if earlier.scores[agent] != later.scores[agent]:
            raise TableInvalid(
                f"row {later.id[:80]!r} gives {agent} {later.scores[agent]}, and {earlier.id[:80]!r}, "
                f"with the same prompt, gives it {earlier.scores[agent]}"
            )
    return replace(
        earlier,
        scores={**earlier.scores, **later.scores},
        costs={**earlier.costs, **later.costs},
        seconds={**earlier.seconds, **later.seconds},
        turns={**earlier.turns, **later.turns},
        runs={**earlier.runs, **later.runs},
        responses={**earlier.responses, **later.responses},
        category=earlier.category or later.category,
        split=earlier.split or later.split,
        role=later.role if earlier.role is None else earlier.role,
    )

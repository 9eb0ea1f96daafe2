"""Tables of recorded answers: for each prompt, how well each agent did."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from ..contracts.errors import TableInvalid, TranscriptError
from ..contracts.plain import to_plain
from ..contracts.routing import Role
from ..contracts.text_format import TextFormat
from ..contracts.transcript import Transcript
from .table_files import read_records

FIELDS = (
    *("id", "prompt", "messages", "scores", "costs", "seconds", "turns", "runs", "responses"),
    *("category", "split", "role"),
)
"""What is read of a row; any other field is passed over, and ``Table.unread`` names it."""
SPLITS = ("train", "val", "test")
_TENTHS = 10
_HELD_OUT = {"train": range(6), "val": range(6, 8), "test": range(8, _TENTHS)}


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt and what is known of each agent's answer to it, by the agent's name.

    Attributes:
        scores: how good it was, in [0, 1]; an agent that was not asked is missing.
        costs: what it cost, in any one unit.
        seconds: how long it took.
        turns: how many turns it took, where an answer is a run.
        runs: the scores of repeated answers, where there were several; ``scores`` is then their mean.
        responses: the answers themselves, where they were kept.
        category: the kind of prompt.
        split: ``train``, ``val`` or ``test``.
        role: which role is the right one here.
        line: where the row stands in its file, from 1.
    """

    id: str
    transcript: Transcript
    scores: Mapping[str, float]
    costs: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    turns: Mapping[str, float] = field(default_factory=dict)
    runs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    responses: Mapping[str, str] = field(default_factory=dict)
    category: str | None = None
    split: str | None = None
    role: Role | None = None
    line: int = 0

    @property
    def text(self) -> str:
        """What identifies the row's prompt: the text of a lone user message, else role lines of all messages."""
        messages = self.transcript.messages
        if len(messages) == 1 and messages[0].role == "user" and isinstance(messages[0].content, str):
            return messages[0].content
        return TextFormat.ROLE_LINES.render(self.transcript)

    def to_dict(self) -> dict[str, Any]:
        """The row as a line of JSONL holds it."""
        optional = {
            "costs": dict(self.costs),
            "seconds": dict(self.seconds),
            "turns": dict(self.turns),
            "runs": {agent: list(scores) for agent, scores in self.runs.items()},
            "responses": dict(self.responses),
            "category": self.category,
            "split": self.split,
            "role": None if self.role is None else self.role.label,
        }
        messages = [to_plain(message) for message in self.transcript.messages]
        asked = {"prompt": self.text} if _is_prompt(self.transcript) else {"messages": messages}
        return {"id": self.id, **asked, "scores": dict(self.scores)} | {
            name: value for name, value in optional.items() if value not in (None, {})
        }


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
        row = _row(path, line, record)
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


def _is_prompt(transcript: Transcript) -> bool:
    messages = transcript.messages
    return len(messages) == 1 and messages[0].role == "user" and isinstance(messages[0].content, str)


def _row(path: Path, line: int, record: Mapping[str, Any]) -> Row:
    try:
        return _checked(line, record)
    except (TranscriptError, ValueError) as error:
        raise TableInvalid(f"{path} line {line}: {error}") from None


def _checked(line: int, record: Mapping[str, Any]) -> Row:
    runs = {agent: _repeated(agent, values) for agent, values in _mapping(record, "runs").items()}
    given = _numbers(record, "scores", most=1.0)
    scores = {agent: sum(values) / len(values) for agent, values in runs.items()} | given
    if not scores:
        fields = ", ".join(record)
        raise ValueError(
            f"there is no score: `scores` maps at least one agent to a number from 0 to 1; it has {fields:.200}"
        )
    return Row(
        id=_text(record, "id") or str(line),
        transcript=_transcript(record),
        scores=scores,
        costs=_numbers(record, "costs"),
        seconds=_numbers(record, "seconds"),
        turns=_numbers(record, "turns"),
        runs=runs,
        responses=_responses(record),
        category=_text(record, "category"),
        split=_one_of(record, "split", SPLITS),
        role=_role(record),
        line=line,
    )


def _transcript(record: Mapping[str, Any]) -> Transcript:
    given = [name for name in ("prompt", "messages") if record.get(name) is not None]
    if len(given) != 1:
        raise ValueError(
            f"a row has either `prompt` or `messages`, and this one has {' and '.join(given) or 'neither'}"
        )
    value = record[given[0]]
    if given[0] == "prompt" and not isinstance(value, str):
        raise ValueError(f"prompt is {value!r:.60}, and a text is needed")
    if not value:
        raise ValueError(f"{given[0]} is empty")
    return Transcript.of(value)


def _mapping(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and key.strip() for key in value):
        raise ValueError(f"{name} is {value!r:.60}, and an object from agents to numbers is needed")
    return {agent: each for agent, each in value.items() if each is not None}


def _responses(record: Mapping[str, Any]) -> dict[str, str]:
    responses = _mapping(record, "responses")
    wrong = next((agent for agent, text in responses.items() if not isinstance(text, str)), None)
    if wrong is not None:
        raise ValueError(f"responses.{wrong} is {responses[wrong]!r:.60}, and a text is needed")
    return {agent: text for agent, text in responses.items() if text}


def _numbers(record: Mapping[str, Any], name: str, most: float = float("inf")) -> dict[str, float]:
    return {agent: _number(f"{name}.{agent}", value, most) for agent, value in _mapping(record, name).items()}


def _repeated(agent: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, Iterable) or isinstance(values, str | Mapping):
        raise ValueError(f"runs.{agent} is {values!r:.60}, and a list of scores is needed")
    scores = tuple(_number(f"runs.{agent}", value, 1.0) for value in values)
    if not scores:
        raise ValueError(f"runs.{agent} is empty")
    return scores


def _number(name: str, value: Any, most: float) -> float:
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if not is_number or not 0.0 <= value <= most or value == float("inf"):
        allowed = "a number from 0 to 1" if most == 1.0 else "a number of at least 0"
        raise ValueError(f"{name} is {value!r:.60}, and {allowed} is needed")
    return float(value)


def _text(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    if value is not None and (not isinstance(value, str | int) or isinstance(value, bool) or value == ""):
        raise ValueError(f"{name} is {value!r:.60}, and a text is needed")
    return None if value is None else str(value)


def _one_of(record: Mapping[str, Any], name: str, allowed: Sequence[str]) -> str | None:
    value = record.get(name)
    if value is not None and value not in allowed:
        raise ValueError(f"{name} is {value!r:.60}, and one of {', '.join(allowed)} is needed")
    return value


def _role(record: Mapping[str, Any]) -> Role | None:
    name = _one_of(record, "role", [role.label for role in Role])
    return None if name is None else Role[name.upper()]

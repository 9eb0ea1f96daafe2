"""A trace read back: whole lines only, apart by run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..contracts.canonical import unique_keys
from ..contracts.errors import TraceInvalid
from ..contracts.events import SCHEMA_VERSION
from ..contracts.parts import brief
from .jsonl import TORN
from .record import EVENTS, shape_of

_OLD = "it has schema version 1, of trinity-mlx before tools and parts of messages: read it with that version"
_LAST_YEAR = 2500
"""Nanoseconds since 1970, in which spans are timed, end a little later."""


@dataclass(frozen=True, slots=True)
class Line:
    """One event as it stands in the file.

    ``number`` counts the file's lines from 1; ``sha256`` is over the line's bytes without its end; ``record`` is the
    whole object, whose fields have been checked.
    """

    number: int
    sha256: str
    record: Mapping[str, Any]

    @property
    def event(self) -> str:
        """The kind of the event, as in ``run_started``."""
        return str(self.record["event"])

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the run's first event."""
        return float(self.record["elapsed_ms"])

    @property
    def time(self) -> datetime:
        """When it happened, in UTC."""
        return datetime.fromisoformat(self.record["time"])

    def __getitem__(self, field: str) -> Any:
        return self.record[field]


@dataclass(frozen=True, slots=True)
class Run:
    """The events of one run, at least one, in the order of the file."""

    run_id: str
    lines: tuple[Line, ...]

    @property
    def end(self) -> Line | None:
        """The event that ended it; None for a run that did not come to its end."""
        return self.lines[-1] if self.lines[-1].event in ("run_paused", "run_completed", "run_failed") else None

    @property
    def start(self) -> Line | None:
        """The event that began it; None where that is missing."""
        return self.lines[0] if self.lines[0].event == "run_started" else None


@dataclass(frozen=True, slots=True)
class Trace:
    """All runs of a file, in the order of their beginnings, and the numbers of lines that a killed writer left torn."""

    path: Path
    runs: tuple[Run, ...]
    torn: tuple[int, ...]

    def select(self, run_id: str | None) -> tuple[Run, ...]:
        """The runs whose id is ``run_id`` or begins so; all for None.

        Raises:
            TraceInvalid: there is none.
        """
        matches = tuple(run for run in self.runs if run_id is None or run.run_id.startswith(run_id))
        if run_id is not None and not matches:
            raise TraceInvalid(
                f"{self.path} has no run {run_id!r}: it holds {', '.join(run.run_id for run in self.runs) or 'none'}"
            )
        return tuple(run for run in matches if run.run_id == run_id) or matches


def read_trace(path: Path) -> Trace:
    """The trace at ``path``.

    A last line that was never finished is passed over, and so is one that a later writer has closed.

    Raises:
        TraceInvalid: the file cannot be read, or another line is no event of this version.
    """
    lines: dict[str, list[Line]] = {}
    torn: list[int] = []
    for number, raw, is_whole in _raw_lines(path):
        try:
            line = _line(number, raw)
        except ValueError as error:
            if is_whole:
                raise TraceInvalid(f"{path}, line {number}: {error}") from None
            torn.append(number)
        else:
            lines.setdefault(line["run_id"], []).append(line)
    return Trace(path, tuple(Run(run_id, tuple(each)) for run_id, each in lines.items()), tuple(torn))


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Number, bytes without the end, and whether the writer finished it; blank lines are passed over."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TraceInvalid(f"the trace {path} cannot be read: {error.strerror or error}") from None
    *ended, last = content.split(b"\n")
    for number, raw in enumerate(ended, start=1):
        if raw.strip():
            yield number, raw.removesuffix(TORN), not raw.endswith(TORN)
    if last.strip():
        yield len(ended) + 1, last, False


def _line(number: int, raw: bytes) -> Line:
    """The event in ``raw``.

    Raises:
        ValueError: there is none.
    """
    record = _object(raw)
    version, kind = record.get("schema_version"), record.get("event")
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{_OLD if version == 1 else f'it has schema version {brief(version)}'}; this program reads "
            f"version {SCHEMA_VERSION}"
        )
    if not isinstance(kind, str) or kind not in EVENTS:
        raise ValueError(f"there is no event {kind!r}")
    try:
        shape_of(kind).model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the line"
        raise ValueError(f"{field} of {kind} is wrong: {first['msg']}") from None
    _check_time(record["time"])
    return Line(number, hashlib.sha256(raw).hexdigest(), record)


def _check_time(text: str) -> None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None or not 1970 <= time.year < _LAST_YEAR:
        raise ValueError(f"time is {text!r}, which is not a time from 1970 to 2499 in ISO 8601 with its zone")


def _object(raw: bytes) -> dict[str, Any]:
    try:
        record = json.loads(raw.decode("utf-8"), object_pairs_hook=unique_keys, parse_int=_whole_number)
        json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"it is JSON, but not an object: {raw[:40].decode('utf-8', 'replace')}")
    return record


def _whole_number(digits: str) -> int:
    number = int(digits)
    if number.bit_length() > 63:
        raise ValueError("a whole number has more than 63 bits")
    return number

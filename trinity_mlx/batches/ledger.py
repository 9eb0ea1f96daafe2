"""The ledger of a batch: what a file of records was made from, so that work that was broken off can go on.

Beside ``routes.jsonl`` lies ``routes.jsonl.ledger``, lines of JSON. The first says what is asked of every line; another
what computes the answers. Before the records of a chunk are written, an entry says how long the file was, and the
length and the hash of the input up to the end of the chunk. So the ledger is never behind the file, at whatever moment
a process is killed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from io import FileIO
from typing import Any

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a chunk begins in the output, and what has been read of the input at its end.

    Attributes:
        out: bytes of the output before the chunk's records.
        end: bytes of the input up to the end of the chunk.
        sha256: the hash of these bytes.
        routed: records before the chunk.
        failed: how many of them are errors.
        done: there is no such chunk: all is written.
    """

    out: int
    end: int
    sha256: str
    routed: int
    failed: int
    done: bool = False


@dataclass(frozen=True, slots=True)
class Past:
    """What a ledger tells of a file of a given size.

    Attributes:
        asked: what is asked of every line, as plain values.
        seed: what chance decides with where nobody gave a seed.
        by: what computed the records; None where none has been written.
        entry: the last entry that lies within the file; None where there is none.
        length: bytes of the ledger up to the end of that entry.
    """

    asked: Mapping[str, Any]
    seed: int
    by: Mapping[str, Any] | None = None
    entry: Entry | None = None
    length: int = 0


def line_of(kind: str, value: Any) -> bytes:
    """One line of a ledger."""
    return (json.dumps({kind: value}, sort_keys=True) + "\n").encode()


def entry_line(entry: Entry) -> bytes:
    """The line of an entry."""
    return line_of("entry", asdict(entry))


def read_ledger(file: FileIO, size: int) -> Past | None:
    """What the ledger ``file`` tells of an output of ``size`` bytes; None where it has no beginning.

    A torn last line, and entries beyond the output, count as not written.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is no ledger.
    """
    past: Past | None = None
    position = 0
    for raw in _whole_lines(file):
        position += len(raw)
        [(kind, value)] = json.loads(raw).items()
        if kind == "entry" and value["out"] > size:
            break
        past = replace(_extended(past, kind, value), length=position)
    return past


def _extended(past: Past | None, kind: str, value: Any) -> Past:
    """``past`` with one more line of the ledger."""
    if past is None:
        if kind != "batch":
            raise ValueError("it has no beginning")
        return Past(value["asked"], int(value["seed"]))
    return replace(past, entry=Entry(**value)) if kind == "entry" else replace(past, by=value)


def _whole_lines(file: FileIO) -> Iterator[bytes]:
    """The lines from where ``file`` stands, with their ends; a torn last one is left out."""
    rest = b""
    while block := file.read(_BLOCK):
        *whole, rest = (rest + block).split(b"\n")
        yield from (line + b"\n" for line in whole)

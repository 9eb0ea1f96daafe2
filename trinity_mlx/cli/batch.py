"""Many transcripts, one a line: read as they come, so that a program that waits for an answer gets one."""

from __future__ import annotations

import select
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..contracts.errors import InputFileError, UsageError
from ..contracts.transcript import Transcript
from .inputs import decode, messages_of, parse, unreadable

_CHUNK = 1 << 20


@dataclass(frozen=True)
class BatchLine:
    """One line of a batch: a transcript, or what is wrong with the line.

    Attributes:
        number: the line's number, from 1.
        echo: ``{"id": ...}`` with the line's own id as it came; empty where it has none.
        transcript: what to route, or why nothing can be.
        nbytes: the length of the line.
    """

    number: int
    echo: dict[str, Any]
    transcript: Transcript | UsageError
    nbytes: int

    @property
    def name(self) -> str:
        """What to call the line in a list for people."""
        return str(self.echo.get("id", self.number))


def read_batch(file: BinaryIO, name: str, most: int) -> Iterator[list[BatchLine]]:
    """The lines of the JSONL file called ``name``, a few at a time; blank lines are passed over.

    A line is a list of messages, an object with ``messages`` or ``prompt`` (and perhaps ``id``), or a prompt as a
    JSON string. Lines come in lists of up to ``most``, and of fewer where whoever writes the file waits for an answer.

    Raises:
        InputFileError: the file fails while it is read.
    """
    number = 0
    for raws in _line_windows(file, name, most):
        numbered = list(enumerate(raws, start=number + 1))
        number += len(raws)
        if window := [_batch_line(at, raw) for at, raw in numbered if raw.strip()]:
            yield window


def _line_windows(file: BinaryIO, name: str, most: int) -> Iterator[list[bytes]]:
    """Lines of ``file``; reading never waits while there is a line that has not been given out."""
    pieces: list[bytes] = []
    lines: list[bytes] = []
    while chunk := _read(file, name):
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            lines.append(b"".join((*pieces, line)))
            pieces.clear()
        pieces.append(rest)
        while len(lines) >= most or (lines and not _is_ready(file)):
            yield lines[:most]
            del lines[:most]
    lines.append(b"".join(pieces))
    for start in range(0, len(lines), most):
        yield lines[start : start + most]


def _read(file: BinaryIO, name: str) -> bytes:
    """What can be read now, waiting only where nothing can; empty at the end."""
    try:
        read = getattr(file, "read1", file.read)
        chunk: bytes = read(_CHUNK)
        return chunk
    except (OSError, ValueError) as error:
        raise unreadable(name, error) from None


def _is_ready(file: BinaryIO) -> bool:
    """Whether a read would not wait; True for what cannot be asked, as it lies in memory."""
    try:
        return bool(select.select([file], [], [], 0)[0])
    except (OSError, ValueError, TypeError):
        return True


def _batch_line(number: int, raw: bytes) -> BatchLine:
    echo: dict[str, Any] = {}
    try:
        value = parse(decode(raw, f"line {number}"))
        echo = _echo(value)
        return BatchLine(number, echo, Transcript.of(messages_of(value)), len(raw))
    except (ValueError, RecursionError) as error:
        return BatchLine(number, echo, InputFileError(f"line {number} is not JSON: {error}"), len(raw))
    except UsageError as error:
        return BatchLine(number, echo, error, len(raw))


def _echo(value: Any) -> dict[str, Any]:
    """The id of a line, to be given back as it is.

    Raises:
        InputFileError: it is a list or an object.
    """
    if not isinstance(value, dict) or "id" not in value:
        return {}
    if isinstance(value["id"], list | dict):
        raise InputFileError("an id is a text or a number, not a list or an object")
    return {"id": value["id"]}

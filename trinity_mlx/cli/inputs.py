"""From files and standard input to transcripts, with errors that say what is wrong and where."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..contracts.errors import InputFileError, TranscriptError, UsageError
from ..contracts.transcript import Transcript

STANDARD_INPUT = "-"


def read_prompt(prompt: str) -> Transcript:
    """A prompt from the command line, or from standard input for ``-``."""
    return Transcript.of(_decode(sys.stdin.buffer.read(), "standard input") if prompt == STANDARD_INPUT else prompt)


def read_messages(name: str) -> Transcript:
    """A transcript from a JSON file: a list of ``{role, content}``, or an object with such a list as ``messages``.

    Raises:
        InputFileError: the file is not there, not UTF-8, not JSON, or holds something else.
        TranscriptError: the messages in it are not a transcript.
    """
    with open_input(name) as file:
        text = _decode(file.read(), _display(name))
    try:
        return Transcript.of(_messages(json.loads(text)))
    except (ValueError, RecursionError) as error:
        raise InputFileError(f"{_display(name)} is not JSON: {error}") from None
    except TranscriptError as error:
        raise TranscriptError(f"{_display(name)}: {error}") from None


@dataclass(frozen=True)
class BatchLine:
    """One line of a batch: a transcript or what is wrong with the line, its number and its ``id``, if it has one."""

    number: int
    id: str | None
    transcript: Transcript | UsageError
    nbytes: int


def read_batch(file: BinaryIO) -> Iterator[BatchLine]:
    """The lines of a JSONL file, lazily; blank lines are passed over.

    A line is a list of messages, an object with ``messages`` or ``prompt`` (and perhaps ``id``), or a prompt as a
    JSON string.
    """
    for number, raw in enumerate(file, start=1):
        if raw.strip():
            yield _batch_line(number, raw)


def open_input(name: str) -> BinaryIO:
    """The file ``name`` for reading bytes; ``-`` is standard input.

    Raises:
        InputFileError: it cannot be opened.
    """
    if name == STANDARD_INPUT:
        return sys.stdin.buffer
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise InputFileError(f"{name} cannot be read: {error.strerror or error}") from None


def _batch_line(number: int, raw: bytes) -> BatchLine:
    identity = None
    try:
        value = json.loads(_decode(raw, f"line {number}"))
        if isinstance(value, dict) and value.get("id") is not None:
            identity = str(value["id"])
        return BatchLine(number, identity, Transcript.of(_messages(value)), len(raw))
    except (ValueError, RecursionError) as error:
        return BatchLine(number, identity, InputFileError(f"line {number} is not JSON: {error}"), len(raw))
    except UsageError as error:
        return BatchLine(number, identity, error, len(raw))


def _messages(value: Any) -> Any:
    if isinstance(value, dict):
        if "messages" in value:
            return value["messages"]
        if "prompt" in value:
            return value["prompt"]
        raise TranscriptError('the object has no messages: pass {"messages": [{"role": ..., "content": ...}]}')
    return value


def _decode(raw: bytes, name: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputFileError(f"{name} is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}") from None


def _display(name: str) -> str:
    return "standard input" if name == STANDARD_INPUT else name

"""One line of a batch: from bytes to a transcript, or to what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..contracts.canonical import unique_keys
from ..contracts.errors import InputFileError, TranscriptError, UsageError
from ..contracts.transcript import Transcript

LONGEST = 1 << 26
"""Bytes of a line that is read; a longer one is an error of its own, and is not kept in memory."""


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One line of a batch: a transcript, or what is wrong with the line.

    Attributes:
        number: the line's number, from 1.
        echo: ``{"id": ...}`` with the line's own id as it came; empty where it has none.
        transcript: what to route, or why nothing can be.
    """

    number: int
    echo: dict[str, Any]
    transcript: Transcript | UsageError


def batch_line(number: int, raw: bytes) -> BatchLine:
    """The line ``raw``: a text, a list of messages, or an object with ``messages`` or ``prompt``; perhaps an ``id``."""
    if len(raw) > LONGEST:
        too_long = InputFileError(f"line {number} has more than {LONGEST} bytes, which is more than is read")
        return BatchLine(number, {}, too_long)
    echo: dict[str, Any] = {}
    try:
        value = parse(decode(raw, f"line {number}"))
        echo = _echo(value)
        return BatchLine(number, echo, Transcript.of(messages_of(value)))
    except (ValueError, RecursionError) as error:
        return BatchLine(number, echo, InputFileError(f"line {number} is not JSON: {error}"))
    except UsageError as error:
        return BatchLine(number, echo, error)


def decode(raw: bytes, name: str) -> str:
    """``raw`` as text.

    Raises:
        InputFileError: it is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputFileError(f"{name} is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}") from None


def parse(text: str) -> Any:
    """JSON as a value.

    Raises:
        ValueError: it is no JSON: ``NaN`` and infinities are none, nor is a number too large to be one, nor an object
            in which a key stands twice.
    """
    return json.loads(text, object_pairs_hook=unique_keys, parse_constant=_refuse, parse_float=_finite)


def messages_of(value: Any) -> Any:
    """What ``Transcript.of`` takes, from a list of messages, an object with one, or one with a prompt.

    Raises:
        TranscriptError: it is none of these, or holds both.
    """
    if not isinstance(value, dict):
        return value
    if "messages" in value and "prompt" in value:
        raise TranscriptError("the object has messages and a prompt beside them: give one of the two")
    if "prompt" in value:
        return _checked(value["prompt"], str, "prompt must be a text")
    if "messages" in value:
        return _checked(value["messages"], list, "messages must be a list of {role, content}")
    raise TranscriptError('the object has no messages: pass {"messages": [{"role": ..., "content": ...}]}')


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


def _checked(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise TranscriptError(f"{what}, not {type(value).__name__}")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    number = float(text)
    return number if abs(number) < float("inf") else _refuse(text[:40])

"""From files and standard input to transcripts, with errors that say what is wrong and where."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, BinaryIO

from ..contracts.canonical import unique_keys
from ..contracts.errors import InputFileError, TranscriptError, UsageError
from ..contracts.transcript import Transcript

STANDARD_INPUT = "-"


def read_prompt(prompt: str) -> Transcript:
    """A prompt from the command line, or from standard input for ``-``.

    Raises:
        InputFileError: standard input cannot be read, or is not UTF-8.
    """
    if prompt != STANDARD_INPUT:
        return Transcript.of(prompt)
    return Transcript.of(decode(_read_all(STANDARD_INPUT), displayed(STANDARD_INPUT)))


def read_messages(name: str) -> Transcript:
    """A transcript from a JSON file: a list of ``{role, content}``, or an object with such a list as ``messages``.

    Raises:
        InputFileError: the file is not there, not UTF-8, not JSON, or holds something else.
        TranscriptError: the messages in it are not a transcript.
    """
    text = decode(_read_all(name), displayed(name))
    try:
        return Transcript.of(messages_of(parse(text)))
    except (ValueError, RecursionError) as error:
        raise InputFileError(f"{displayed(name)} is not JSON: {error}") from None
    except TranscriptError as error:
        raise TranscriptError(f"{displayed(name)}: {error}") from None


def open_input(name: str) -> BinaryIO:
    """The file ``name`` for reading bytes as they come; ``-`` is standard input.

    Raises:
        InputFileError: it cannot be opened.
    """
    try:
        return sys.stdin.buffer if name == STANDARD_INPUT else Path(name).open("rb", buffering=0)
    except (OSError, ValueError) as error:
        raise unreadable(name, error) from None


def unreadable(name: str, error: Exception) -> InputFileError:
    """The error for an input that cannot be opened or read."""
    reason = getattr(error, "strerror", None) or error
    return InputFileError(f"{displayed(name)} cannot be read: {reason}")


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


def decode(raw: bytes, name: str) -> str:
    """``raw`` as text.

    Raises:
        InputFileError: it is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputFileError(f"{name} is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}") from None


def displayed(name: str) -> str:
    """What to call an input in a message."""
    return "standard input" if name == STANDARD_INPUT else name


def _read_all(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == STANDARD_INPUT else Path(name).read_bytes()
    except (OSError, ValueError, UsageError) as error:
        raise unreadable(name, error) from None


def _checked(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise TranscriptError(f"{what}, not {type(value).__name__}")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    number = float(text)
    return number if abs(number) < float("inf") else _refuse(text[:40])

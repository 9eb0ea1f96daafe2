"""From files and standard input to transcripts, with errors that say what is wrong and where."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

from ..batches.chunks import open_lines, unreadable
from ..batches.lines import decode, messages_of, parse
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
    """The file ``name`` for reading bytes as they come; ``-`` is standard input, without a buffer and its lock.

    Raises:
        InputFileError: it cannot be opened.
    """
    return getattr(sys.stdin.buffer, "raw", sys.stdin.buffer) if name == STANDARD_INPUT else open_lines(name)


def displayed(name: str) -> str:
    """What to call an input in a message."""
    return "standard input" if name == STANDARD_INPUT else name


def _read_all(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == STANDARD_INPUT else Path(name).read_bytes()
    except (OSError, ValueError, UsageError) as error:
        raise unreadable(displayed(name), error) from None

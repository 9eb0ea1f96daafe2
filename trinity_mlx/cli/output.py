"""The one sink that every command prints through."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from .process import is_encodable, say

if TYPE_CHECKING:
    from rich.console import Console


def print_json(value: Any) -> None:
    """``value`` on standard output, indented: one object for a program."""
    click.echo(_json(value, indent=2))


def console() -> Console:
    """Standard output for people: colours only where it is a terminal, and a wide page where it is none.

    Square brackets are markup to it: put ``rich.markup.escape`` around text that may hold some.
    """
    from rich.console import Console

    class Sink(Console):
        """Leaves it to the process what a reader that went away means."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Sink(highlight=False, width=None if sys.stdout.isatty() else 140)


def note(text: str) -> None:
    """A line for people on the error stream, so that standard output stays clean."""
    say(text)


def holds_unicode() -> bool:
    """Whether standard output can hold every character."""
    return (sys.stdout.encoding or "").replace("-", "").lower() == "utf8"


def _json(value: Any, indent: int | None = None) -> str:
    """JSON that every parser takes and that standard output can hold: ASCII where that is not UTF-8."""
    plain = _without_infinities(value)
    text = json.dumps(plain, indent=indent, ensure_ascii=not holds_unicode(), allow_nan=False)
    return text if is_encodable(text) else json.dumps(plain, indent=indent, allow_nan=False)


def _without_infinities(value: Any) -> Any:
    """``value`` with null for every number that JSON has no form for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_infinities(item) for key, item in value.items()}
    return [_without_infinities(item) for item in value] if isinstance(value, list | tuple) else value

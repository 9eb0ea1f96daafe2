"""The one sink that every command prints through."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console


def print_json(value: Any) -> None:
    """``value`` on standard output, indented: one object for a program."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_line(value: Any) -> None:
    """``value`` on standard output in one line: one of many objects for a program."""
    click.echo(json.dumps(value, ensure_ascii=False))


def console() -> Console:
    """Standard output for people: colours only where it is a terminal, and a wide page where it is none.

    Square brackets are markup to it: put ``rich.markup.escape`` around text that may hold some.
    """
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def note(text: str) -> None:
    """A line for people on the error stream, so that standard output stays clean."""
    click.echo(text, err=True)

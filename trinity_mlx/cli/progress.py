"""What shows on the error stream that work goes on; nothing where that is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress


@contextmanager
def spinner(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner with a text; gives what changes the text."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield status.update


def bars(*columns: Any) -> Progress:
    """Bars that go away at the end, with rich's own columns unless others are given."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


@contextmanager
def counter(text: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """One bar; gives what advances it."""
    with bars() as progress:
        task = progress.add_task(text, total=total)
        yield lambda steps: progress.advance(task, steps)


@contextmanager
def meter(text: str, total: int | None) -> Iterator[Callable[[int, int], None]]:
    """One bar with the lines a second and, where the bytes in all are known, the time that remains.

    It gives what sets it to so many bytes and so many lines; its rate counts from the first setting.
    """
    if not sys.stderr.isatty():
        yield lambda nbytes, lines: None
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    left = [TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn()] if total else [TimeElapsedColumn()]
    shown = TextColumn("{task.fields[lines]:,} lines"), TextColumn("{task.fields[rate]:,.0f} lines/s")
    with bars(TextColumn(text), BarColumn(), *shown, *left) as progress:
        task = progress.add_task(text, total=total, start=False, lines=0, rate=0.0)
        begun: list[tuple[float, int]] = []

        def show(nbytes: int, lines: int) -> None:
            if not begun:
                begun.append((time.monotonic(), lines))
                progress.start_task(task)
            elapsed = time.monotonic() - begun[0][0]
            rate = (lines - begun[0][1]) / elapsed if elapsed else 0.0
            progress.update(task, completed=nbytes, lines=lines, rate=rate)

        yield show

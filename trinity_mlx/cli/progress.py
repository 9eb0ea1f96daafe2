"""What shows on the error stream that work goes on; nothing where that is no terminal."""

from __future__ import annotations

import sys
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

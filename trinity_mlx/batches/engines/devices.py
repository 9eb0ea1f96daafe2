"""Routing on several devices of this machine, with a process for each.

Processes and not threads: reading lines, making tokens and writing records is Python's own work and takes about as long
as a small model does, so threads would wait for each other; and a process that dies, for want of memory say, takes
nothing else with it. They are started afresh, since a copy of a process that has used a GPU cannot use it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import BinaryIO, cast

from ...routing.recipe import Recipe
from ..chunks import Chunk
from ..frames import Frame, chunk_frame, receive, refuse_error, routed_of, send
from ..records import Question, Routed
from .crew import Crew, WorkerLost

COMMAND = (sys.executable, "-m", "trinity_mlx.batches.worker")
_GRACE_S = 5.0


def on_devices(
    recipe: Recipe,
    devices: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    tell: Callable[[str], None] = lambda text: None,
    command: Sequence[str] = COMMAND,
) -> Crew:
    """What routes on ``devices``, each with a process of its own; one may be named twice.

    Args:
        recipe: how each of them loads its router.
        devices: names of the backend's devices.
        environment: of the processes; by default this one's.
        tell: what is told of every process that dies.
        command: what a process runs.
    """
    started = partial(_process, command=command, environment=environment)
    return Crew([(name, partial(started, replace(recipe, device=name))) for name in devices], tell)


class _Process:
    """A process at the other end of two pipes."""

    def __init__(self, process: subprocess.Popen[bytes], opening: Frame) -> None:
        self._process = process
        self._asks = cast(BinaryIO, process.stdin)
        self._replies = cast(BinaryIO, process.stdout)
        self._opening = opening

    def ready(self) -> None:
        """Wait until it has loaded its router."""
        refuse_error(self._ask(self._opening))

    def answer(self, chunk: Chunk) -> Routed:
        """The answers to ``chunk``."""
        return routed_of(self._ask(chunk_frame(chunk)))

    def _ask(self, frame: Frame) -> Frame:
        try:
            send(self._asks, *frame)
            reply = receive(self._replies)
        except (OSError, ValueError):
            reply = None
        if reply is None:
            raise WorkerLost(self._end())
        return reply

    def abort(self) -> None:
        """End the process at once; it keeps nothing that could be lost."""
        self._process.kill()

    def close(self) -> None:
        """End the process, and what led to it."""
        self.abort()
        self._process.wait()
        with suppress(OSError):
            self._asks.close()
        self._replies.close()

    def _end(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
        code = self._process.returncode
        return "it does not answer" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"


@contextmanager
def _process(
    recipe: Recipe, question: Question, *, command: Sequence[str], environment: Mapping[str, str] | None
) -> Iterator[_Process]:
    opening = {"recipe": recipe.to_dict(), "question": question.to_dict() | {"timings": question.timings}}
    with _uninterrupted():
        pipes = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    process = _Process(pipes, (opening, b""))
    try:
        yield process
    finally:
        process.close()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes started here never see Ctrl-C, not even before their first line: a blocked signal is inherited."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

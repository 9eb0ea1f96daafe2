"""Runs of a trace log in processes that die at one point each: ``python -m tests.fuzz.killed_writer FOLDER``.

Prints, for each point, how many events had been acknowledged when the process died, and whether it died at all.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Collection
from itertools import count
from pathlib import Path

from trinity_mlx.tracing.jsonl import TraceWriter
from trinity_mlx.tracing.log import TraceLog

from .. import trace_builders as build

RUNS = 3


class Mortal(TraceWriter):
    """Dies at point number ``dies_at``: before a write, in the middle of it, after it, and around each fsync."""

    dies_at = 0
    points = count()

    def reached(self) -> bool:
        return next(Mortal.points) == Mortal.dies_at

    def append(self, lines: Collection[bytes]) -> None:
        if self.reached():
            os._exit(9)
        if self.reached():
            data = b"".join(line + b"\n" for line in lines)
            self._file.write(data[: len(data) // 2])
            os._exit(9)
        super().append(lines)
        if self.reached():
            os._exit(9)

    def sync(self) -> None:
        if self.reached():
            os._exit(9)
        super().sync()
        if self.reached():
            os._exit(9)


async def runs(path: Path, acknowledged: int) -> None:
    """Some runs one after another and at once; a byte in the pipe for each event that is acknowledged."""
    log = TraceLog(path, Mortal)

    async def one(number: int) -> None:
        async with log.run(f"run-{number}", keep_content=True) as trace:
            for event in build.good_run():
                await trace.emit(event)
                os.write(acknowledged, b"%d" % number)

    await one(0)
    await asyncio.gather(*(one(number) for number in range(1, RUNS)))


def died_at(point: int, path: Path) -> tuple[bytes, bool]:
    """The number of its run for each event that was acknowledged, and whether the process died."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        Mortal.dies_at = point
        asyncio.run(runs(path, writing))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        acknowledged = pipe.read()
    return acknowledged, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def main(folder: Path) -> None:
    build.write(folder / "first.jsonl", build.good_run())  # what is imported once is imported before the forks
    for point in count():
        acknowledged, is_dead = died_at(point, folder / f"{point}.jsonl")
        print(point, acknowledged.decode() or "-", is_dead, flush=True)
        if not is_dead:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))

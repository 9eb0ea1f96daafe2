"""One file for many runs: written by threads, acknowledged once it is safe, and never in the way of the event loop."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import threading
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from trinity_mlx.contracts.errors import FolderUnavailable, UsageError
from trinity_mlx.contracts.events import Event, TurnStarted
from trinity_mlx.tracing.jsonl import JsonlTrace, TraceWriter
from trinity_mlx.tracing.log import RunTrace, TraceLog
from trinity_mlx.tracing.reader import read_trace
from trinity_mlx.tracing.verify import verify

from .. import trace_builders as build

RUNS = 50


class Disk:
    """A slow one: each time something is forced to it, that waits until the test lets it go."""

    def __init__(self) -> None:
        self.syncs = 0
        self.let_go = threading.Event()
        self.loop_thread = threading.get_ident()

    def fsync(self, descriptor: int) -> None:
        assert threading.get_ident() != self.loop_thread, "the event loop waits for the disk"
        self.syncs += 1
        assert self.let_go.wait(120)
        os.fsync(descriptor)

    def open(self, path: Path) -> TraceWriter:
        return TraceWriter(path, fsync=self.fsync)


async def tell(trace: RunTrace, events: Iterable[Event]) -> None:
    for event in events:
        await trace.emit(event)


async def whole_run(log: TraceLog, run_id: str) -> None:
    async with log.run(run_id) as trace:
        await tell(trace, build.good_run())


def descriptors(path: Path) -> int:
    return sum(os.path.realpath(link) == str(path) for link in Path("/proc/self/fd").iterdir())


def test_many_runs_share_one_descriptor_and_leave_none(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"

    async def main() -> int:
        log = TraceLog(path)
        async with AsyncExitStack() as stack:
            traces = [await stack.enter_async_context(log.run(f"run-{number}")) for number in range(RUNS)]
            await asyncio.gather(*(tell(trace, build.good_run()) for trace in traces))
            return descriptors(path)

    assert asyncio.run(main()) == 1
    for thread in [each for each in threading.enumerate() if each.name.startswith("trace-")]:
        thread.join(60)
    assert descriptors(path) == 0
    trace = read_trace(path)
    assert len(trace.runs) == RUNS
    assert not any(report.problems for report in verify(trace))


def test_four_hundred_runs_need_few_descriptors(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:

        async def main() -> None:
            log = TraceLog(path)
            await asyncio.gather(*(whole_run(log, f"run-{number}") for number in range(400)))

        asyncio.run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sum(run.end is not None for run in read_trace(path).runs) == 400


def test_a_slow_disk_delays_ends_alone_and_serves_all_of_them_at_once(tmp_path: Path) -> None:
    """While one sync waits, other runs' events are acknowledged; and all ends that came meanwhile share the next.

    What a later batch holds is acknowledged once the batch before it has been handed over, ends and all.
    """
    path, disk = tmp_path / "trace.jsonl", Disk()

    async def main() -> None:
        log = TraceLog(path, disk.open)
        async with AsyncExitStack() as stack:
            traces = [await stack.enter_async_context(log.run(f"run-{number}")) for number in range(RUNS)]
            *before, end = build.good_run()
            first = asyncio.ensure_future(tell(traces[0], [*before, end]))
            while disk.syncs == 0:
                await asyncio.sleep(0.001)
            await asyncio.gather(*(tell(trace, before) for trace in traces[1:]))
            ends = [asyncio.ensure_future(tell(trace, [end])) for trace in traces[1:]]
            beside = await stack.enter_async_context(log.run("beside"))
            await tell(beside, before[:2])
            assert path.read_bytes().count(b'"run_completed"') == RUNS
            assert not first.done()
            assert not any(each.done() for each in ends)
            disk.let_go.set()
            await asyncio.gather(first, *ends)

    asyncio.run(main())
    assert disk.syncs == 2
    assert not any(report.problems for report in verify(read_trace(path)))


def test_a_cancelled_wait_loses_no_event(tmp_path: Path) -> None:
    path, disk = tmp_path / "trace.jsonl", Disk()

    async def main() -> None:
        async with TraceLog(path, disk.open).run("run-1") as trace:
            task = asyncio.ensure_future(tell(trace, build.good_run()))
            while disk.syncs == 0:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        disk.let_go.set()

    asyncio.run(main())
    (run,) = read_trace(path).runs
    assert run.end is not None


def test_an_event_that_does_not_fit_harms_no_other_run(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"

    async def main() -> None:
        log = TraceLog(path)
        async with log.run("bad") as bad, log.run("good") as good:
            odd = bad.emit(build.failed(0, status="four hundred"))
            written = asyncio.gather(*(good.emit(event) for event in build.good_run()))
            with pytest.raises(UsageError, match="an event provider_failed cannot be written: status is wrong"):
                await odd
            await written

    asyncio.run(main())
    trace = read_trace(path)
    assert [run.run_id for run in trace.runs] == ["good"]
    assert not any(report.problems for report in verify(trace))


def test_after_an_event_that_does_not_fit_a_run_has_nothing_but_its_end(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    odd = [build.started(), TurnStarted(0, "one", "a" * 64), build.routed(0), build.failure()]  # type: ignore[arg-type]

    async def main() -> list[Any]:
        async with TraceLog(path).run("run-1") as trace:
            return await asyncio.gather(*(trace.emit(event) for event in odd), return_exceptions=True)

    results = asyncio.run(main())
    assert [type(each) for each in results] == [type(None), UsageError, UsageError, type(None)]
    (run,) = read_trace(path).runs
    assert [line.event for line in run.lines] == ["run_started", "run_failed"]
    assert not verify(read_trace(path))[0].problems


class Full(TraceWriter):
    def append(self, lines: Any) -> None:
        raise FolderUnavailable("the trace cannot be written: no space left on the device")


class Unsynced(TraceWriter):
    def sync(self) -> None:
        raise FolderUnavailable("the trace cannot be written: input/output error")


@pytest.mark.parametrize(("kind", "event"), [(Full, build.started()), (Unsynced, build.ended())])
def test_who_waits_hears_of_a_failure(tmp_path: Path, kind: type[TraceWriter], event: Event) -> None:
    async def main() -> None:
        async with TraceLog(tmp_path / "trace.jsonl", kind).run("run-1") as trace:
            with pytest.raises(FolderUnavailable, match="cannot be written"):
                await trace.emit(event)

    asyncio.run(main())


def test_a_file_that_cannot_be_opened_is_named_and_the_next_run_tries_again(tmp_path: Path) -> None:
    log = TraceLog(tmp_path / "later" / "trace.jsonl")
    with pytest.raises(FolderUnavailable, match="No such file"):
        asyncio.run(whole_run(log, "first"))
    (tmp_path / "later").mkdir()
    asyncio.run(whole_run(log, "second"))
    assert [run.run_id for run in read_trace(tmp_path / "later" / "trace.jsonl").runs] == ["second"]


@pytest.mark.parametrize("make", [lambda path: TraceWriter(path, lock_s=0.05)])
def test_a_file_that_another_program_holds_is_given_up(tmp_path: Path, make: Callable[[Path], TraceWriter]) -> None:
    path = tmp_path / "trace.jsonl"
    with path.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        writer = make(path)
        with pytest.raises(FolderUnavailable, match=r"another program has held it for 0.05 s"):
            writer.append([b"{}"])
        writer.close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("device", ["/dev/null"])
def test_a_device_is_no_disk_and_is_not_forced(device: str) -> None:
    trace = JsonlTrace(Path(device), "run-1")
    for event in build.good_run():
        trace.emit(event)
    trace.close()
    asyncio.run(whole_run(TraceLog(Path(device)), "run-2"))

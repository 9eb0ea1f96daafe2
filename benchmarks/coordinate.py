"""What the coordinator itself costs a turn: everything but the router's reading and the provider's thinking.

The agents answer from a script without delay, and the router at once with a decision of the real contracts; so the
time of a run, divided by its turns, is the coordinator's own: the machine, the way to the router's thread and back,
attempts, limits, events, and the trace where one is written. Each run has three turns: Worker, Thinker, Verifier.

Beside that, how long the event loop stands still while many runs at once share a trace on a disk whose every fsync
takes a quarter of a second.

    python benchmarks/coordinate.py [--json FILE] [--runs N]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

from trinity_mlx.contracts.backend import Variant
from trinity_mlx.contracts.pool import Agent, Pool, Price
from trinity_mlx.contracts.routing import ArtifactIdentity, Role, RouteLogits
from trinity_mlx.contracts.text_format import TextFormat
from trinity_mlx.contracts.transcript import Message, Transcript
from trinity_mlx.evaluation.provenance import describe_machine, describe_software
from trinity_mlx.routing.router import RouterIdentity
from trinity_mlx.runs.coordinator import Coordinator, TraceFile
from trinity_mlx.runs.result import RunResult, RunStatus
from trinity_mlx.tracing.jsonl import TraceWriter
from trinity_mlx.tracing.log import TraceLog

SLOTS = 7
TURNS = (Role.WORKER, Role.THINKER, Role.VERIFIER)
WARM_UP = 10
TARGET_MS = 2.0
SHORT = Transcript.of("What is the sum of all multiples of 3 below 100?")
LONG = Transcript(
    tuple(
        Message("user" if number % 2 else "assistant", f"Message {number}. " + "A sentence of a talk. " * 20)
        for number in range(20)
    )
)


AT_ONCE = 50
SLOW_FSYNC_S = 0.25
STALL_TARGET_MS = 20.0


class InstantRouter:
    """Gives a run its roles in order, by how many replies have joined ``task``, without reading anything."""

    def __init__(self, task: Transcript) -> None:
        self._begun = len(task.messages)
        self.identity = RouterIdentity(
            artifact=ArtifactIdentity("instant", "a" * 64, "b" * 64),
            head_ref="c" * 64,
            labels=tuple(f"label {slot}" for slot in range(SLOTS)),
            text_format=TextFormat.ROLE_LINES,
            max_positions=40960,
            profile="cpu",
            device="cpu",
            dtype="float32",
            variant=Variant(),
            load_ms=0.0,
        )

    async def read(self, transcript: Transcript) -> InstantRead:
        """The next role, and the slot of the same number."""
        turn = len(transcript.messages) - self._begun
        logits = RouteLogits(
            tuple(float(slot == turn) for slot in range(SLOTS)), tuple(float(role == TURNS[turn]) for role in Role)
        )
        return InstantRead(logits)


@dataclass(frozen=True)
class InstantRead:
    """What nobody has read."""

    logits: RouteLogits
    token_count: int = 1
    transcript_hash: str = ""


@dataclass(frozen=True)
class Scenario:
    """A task, and what is kept of its runs: nothing, hashes, or texts as well."""

    name: str
    task: Transcript
    trace: str


SCENARIOS = tuple(
    Scenario(f"{name}, {label}", task, trace)
    for name, task in (("one message", SHORT), ("20 messages", LONG))
    for label, trace in (("no trace", "none"), ("a trace", "hashes"), ("a trace with texts", "texts"))
)


@dataclass(frozen=True)
class Measurement:
    """Milliseconds a turn of each run."""

    name: str
    turn_ms: list[float]

    @property
    def median_ms(self) -> float:
        """The median of the runs."""
        return median(self.turn_ms)

    @property
    def slow_ms(self) -> float:
        """What 19 runs of 20 stay under."""
        return quantiles(self.turn_ms, n=20)[-1]


def pool() -> Pool:
    """A Worker, a Thinker and a Verifier who accepts, all of whom answer at once."""
    texts = ("The answer is 1683.", "Check the sum.", "ACCEPT: 33 * 34 / 2 * 3")
    return Pool(
        "instant",
        tuple(
            Agent(slot, f"agent-{slot}", "scripted", price=Price(1.0, 2.0), extra={"replies": [{"text": text}]})
            for slot, text in enumerate(texts)
        ),
    )


async def measure(scenario: Scenario, runs: int, folder: Path) -> Measurement:
    """Run after run of ``scenario`` in one coordinator."""
    path = folder / f"{scenario.name}.jsonl"
    trace = None if scenario.trace == "none" else TraceFile(path, content=scenario.trace == "texts")
    async with Coordinator(InstantRouter(scenario.task), pool(), trace=trace) as coordinator:
        times = [await timed_run(coordinator, scenario.task) for _ in range(WARM_UP + runs)]
    return Measurement(scenario.name, times[WARM_UP:])


async def timed_run(coordinator: Coordinator, task: Transcript) -> float:
    """Milliseconds a turn of one run, which has to come out as it should."""
    begun = time.perf_counter()
    result = await coordinator.arun(task)
    elapsed_ms = (time.perf_counter() - begun) * 1000
    if result.status is not RunStatus.ACCEPTED or len(result.turns) != len(TURNS):
        raise RuntimeError(f"the run did not go as planned: {result}")
    return elapsed_ms / len(TURNS)


@dataclass(frozen=True)
class Stalls:
    """How long the event loop stood still with ``runs`` runs at once: traced with a slow fsync, and without a trace."""

    runs: int
    fsync_s: float
    longest_ms: float
    untraced_ms: float


async def stalls(folder: Path) -> Stalls:
    """Both stalls, each the median of several rounds, after one that does not count."""
    slow, none = [], []
    for number in range(6):
        slow.append(await one_stall(TraceLog(folder / f"slow-{number}.jsonl", slow_writer)))
        none.append(await one_stall(None))
    return Stalls(AT_ONCE, SLOW_FSYNC_S, median(slow[1:]), median(none[1:]))


def slow_writer(path: Path) -> TraceWriter:
    """A trace file on a slow disk."""
    return TraceWriter(path, fsync=lambda descriptor: time.sleep(SLOW_FSYNC_S))


async def one_stall(log: TraceLog | None) -> float:
    """Milliseconds of the longest time for which the loop did nothing else, while runs began one after another."""
    async with Coordinator(InstantRouter(SHORT), pool()) as coordinator:
        await coordinator.arun(SHORT)
        watch = asyncio.create_task(watched())
        runs = []
        for _ in range(AT_ONCE):
            runs.append(asyncio.create_task(traced_run(coordinator, log)))
            await asyncio.sleep(0)
        results = await asyncio.gather(*runs)
        watch.cancel()
        longest = await watch
    if {result.status for result in results} != {RunStatus.ACCEPTED}:
        raise RuntimeError("a run did not go as planned")
    return longest * 1000


async def traced_run(coordinator: Coordinator, log: TraceLog | None) -> RunResult:
    """One run, with a line in ``log`` for each event."""
    if log is None:
        return await coordinator.arun(SHORT)
    async with log.run(uuid.uuid4().hex) as trace:
        return await coordinator.arun(SHORT, sinks=[trace])


async def watched() -> float:
    """Seconds of the longest time between two turns of the event loop, up to its cancellation."""
    longest, before = 0.0, time.perf_counter()
    try:
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now
    except asyncio.CancelledError:
        return longest


def figures_table(measurements: Sequence[Measurement]) -> Table:
    """The measurements, readable."""
    table = Table(title="The coordinator's own time, milliseconds a turn")
    for heading in ("task", "median", "95 % under", "at most"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for item in measurements:
        style = "green" if item.median_ms < TARGET_MS else "red"
        table.add_row(item.name, f"[{style}]{item.median_ms:.2f}[/]", f"{item.slow_ms:.2f}", f"{TARGET_MS:.1f}")
    return table


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time the coordinator without its router and its providers.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--runs", type=at_least_two, default=300, metavar="N", help="runs of each kind (default 300)")
    return parser.parse_args(arguments)


def at_least_two(text: str) -> int:
    """A count from the command line, of which there can be a spread."""
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError(f"{text} is less than 2")
    return number


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    options = parse_arguments(arguments)
    machine = describe_machine() | {"load_average": os.getloadavg()}
    with tempfile.TemporaryDirectory() as folder:
        measurements = [asyncio.run(measure(scenario, options.runs, Path(folder))) for scenario in SCENARIOS]
        stalled = asyncio.run(stalls(Path(folder)))
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(figures_table(measurements))
    console.print(
        f"longest stall of the event loop, {stalled.runs} runs at once: {stalled.longest_ms:.1f} ms with each fsync "
        f"slowed to {stalled.fsync_s} s (at most {STALL_TARGET_MS:.0f} ms), {stalled.untraced_ms:.1f} ms untraced"
    )
    kinds = f"{options.runs} runs of {len(TURNS)} turns each"
    console.print(f"{machine['processor']}, {machine['cores']} cores, {kinds}")
    if options.json:
        figures = report(options.runs, machine, measurements, stalled)
        options.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


def report(runs: int, machine: dict[str, Any], measurements: Sequence[Measurement], stalled: Stalls) -> dict[str, Any]:
    """Every figure, and what it comes from."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "versions": describe_software(),
        "settings": {"runs": runs, "turns": len(TURNS), "target_ms": TARGET_MS},
        "stalls": asdict(stalled),
        "turns": [{**asdict(item), "median_ms": item.median_ms, "slow_ms": item.slow_ms} for item in measurements],
    }


if __name__ == "__main__":
    main()

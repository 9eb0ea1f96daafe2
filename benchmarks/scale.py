"""How the cost of routing grows: with the tokens of a transcript, with a batch, with the lines of a file, with devices.

Each table has a row a size, with the exponent by which time grew since the row before (1 is linear), and the exponent
that fits the upper half of the sizes. Tokens and batches are timed in this process, in which nothing is remembered:
nano through its router, and the architecture of Qwen3-0.6B with random weights in bfloat16 through its backend. Lines
are timed as whole processes of ``trinity-mlx route --batch``, start to exit, with the most memory that one of its
processes had. Then the same lines by one process, by two that share the CPU, and by a Ray cluster of two workers on
this machine, which is started beforehand; their files must be the same.

    python benchmarks/scale.py [--quick] [--json FILE] [--base DIR] [--only tokens,batch,lines,engines]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table
from route import Lane, Ours, Place, base_folder, random_tokens

from trinity_mlx.evaluation.provenance import describe_machine, describe_software
from trinity_mlx.routing.loading import load_router
from trinity_mlx.routing.router import Router

PROFILE = "cpu"
PARTS = ("tokens", "batch", "lines", "engines")
BATCH_TOKENS = 16
ENOUGH_S = 1.0
"""A size is timed again, up to five times, while that takes less."""
LAUNCHER = """
import json, os, subprocess, sys
_, status, usage = os.wait4(subprocess.Popen(sys.argv[1:]).pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss]))
"""
"""Starts a command from a small process: on Linux the peak of a process counts what its starter had in memory."""
progress = Console(stderr=True)


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    nano_tokens: Sequence[int] = (1, 8, 32, 128, 512, 1024, 2000)
    full_tokens: Sequence[int] = (1, 8, 32, 128, 512, 1024, 2048, 4096, 8192)
    nano_batch: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    full_batch: Sequence[int] = (1, 4, 16, 64, 256, 512)
    lines: Sequence[int] = (100, 1_000, 10_000, 100_000)
    engine_lines: int = 10_000


QUICK = Sizes((1, 8, 32, 128, 512), (), (1, 4, 16, 64), (), (100, 1_000), 1_000)


@dataclass(frozen=True)
class Row:
    """One size: how much, and how long it took; the most memory in bytes of a process of its own, else 0."""

    size: int
    seconds: float
    peak_bytes: int = 0


@dataclass(frozen=True)
class Growth:
    """Rows by size."""

    title: str
    unit: str
    rows: Sequence[Row]

    def exponent(self, index: int) -> float | None:
        """By which power of the size the time grew since the row before; None at the first."""
        return slope(self.rows[index - 1 : index + 1]) if index else None

    @property
    def fitted(self) -> float:
        """The exponent that fits the upper half of the sizes."""
        return slope(self.rows[-max(len(self.rows) // 2 + 1, 2) :])


def slope(rows: Sequence[Row]) -> float:
    """The exponent of a power law through ``rows``, by least squares of logarithms."""
    points = [(math.log(row.size), math.log(row.seconds)) for row in rows]
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def timed(work: Callable[[], object]) -> float:
    """Median seconds of ``work``, which has been done once beforehand where it is short."""
    seconds: list[float] = []
    while len(seconds) < 6 and sum(seconds) < ENOUGH_S:
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return median(seconds[1:] or seconds)


def text_of(router: Router, tokens: int) -> str:
    """A prompt of about so many tokens, by the template's own and one a word."""
    words = random.Random(tokens).choices(("how", "many", "are", "there", "in", "all", "of", "it"), k=tokens)
    own = router.route("a").token_count - 1
    return " ".join(words[: max(tokens - own, 1)])


def tokens_of_nano(sizes: Sizes) -> Growth:
    """One prompt after the other, through the router."""
    rows = []
    with load_router("nano", profile=PROFILE, cache_bytes=0) as router:
        for wanted in sizes.nano_tokens:
            prompt = text_of(router, wanted)
            count = router.route(prompt).token_count
            rows.append(Row(count, timed(lambda prompt=prompt: router.route(prompt))))  # type: ignore[misc]
    return Growth("nano, float32, one transcript", "tokens", rows)


def tokens_of_full_size(ours: Ours, sizes: Sizes) -> Growth:
    """One sequence after the other, through the backend."""
    ours.read(random_tokens(64, 0))
    rows = [Row(count, timed(lambda: ours.read(random_tokens(count, 1)))) for count in sizes.full_tokens]  # noqa: B023
    return Growth("Qwen3-0.6B's size, bfloat16, one transcript", "tokens", rows)


def batches_of_nano(sizes: Sizes) -> Growth:
    """Prompts of about equal length in one call."""
    rows = []
    with load_router("nano", profile=PROFILE, cache_bytes=0) as router:
        for count in sizes.nano_batch:
            prompts = list(prompts_of(count))
            rows.append(Row(count, timed(lambda prompts=prompts: router.route_many(prompts))))  # type: ignore[misc]
    return Growth("nano, float32, prompts of 15 to 20 tokens in one call", "prompts", rows)


def batches_of_full_size(ours: Ours, sizes: Sizes) -> Growth:
    """Sequences of equal length, in as few passes as the device wants."""
    rows = []
    for count in sizes.full_batch:
        sequences = [random_tokens(BATCH_TOKENS, seed) for seed in range(count)]
        rows.append(Row(count, timed(lambda sequences=sequences: ours.read_many(sequences))))  # type: ignore[misc]
    return Growth(f"Qwen3-0.6B's size, bfloat16, {BATCH_TOKENS} tokens each, together", "prompts", rows)


def prompts_of(count: int) -> Iterator[str]:
    """Different short prompts."""
    draw = random.Random(0)
    for _ in range(count):
        yield f"What is {draw.randrange(10_000)} + {draw.randrange(10_000)}? Answer briefly."


def write_lines(path: Path, count: int) -> Path:
    """A batch of so many lines."""
    with path.open("w", encoding="utf-8") as file:
        for number, prompt in enumerate(prompts_of(count)):
            file.write(json.dumps({"id": number, "prompt": prompt}) + "\n")
    return path


def route_lines(source: Path, out: Path, *how: str) -> Row:
    """Route a file by the command; its time, and the most memory that one of its processes had."""
    with source.open("rb") as file:
        count = sum(1 for _ in file)
    command = [sys.executable, "-m", "trinity_mlx.cli", "route", "--artifact", "nano", "--profile", PROFILE]
    started = time.perf_counter()
    batch = ["--batch", str(source), "--out", str(out), "--force", *how]
    done = subprocess.run([sys.executable, "-c", LAUNCHER, *command, *batch], stdout=subprocess.PIPE, check=True)
    seconds = time.perf_counter() - started
    code, peak = json.loads(done.stdout)
    if code:
        raise SystemExit(f"the command failed with {code}")
    return Row(count, seconds, peak * (1 if sys.platform == "darwin" else 1024))


def lines_of_files(folder: Path, sizes: Sizes) -> Growth:
    """Files of different lengths, by one process."""
    rows = [route_lines(write_lines(folder / "in.jsonl", count), folder / "out.jsonl") for count in sizes.lines]
    return Growth("nano, float32, lines of a file through the command", "lines", rows)


def engines(folder: Path, sizes: Sizes) -> dict[str, Row]:
    """The same file by one process, by two, and by a cluster; all must write the same."""
    source = write_lines(folder / "in.jsonl", sizes.engine_lines)
    found = {"one process": route_lines(source, folder / "one")}
    found["--devices cpu,cpu"] = route_lines(source, folder / "two", "--devices", "cpu,cpu")
    if find_spec("ray"):
        with cluster() as address:
            found["--engine ray, two workers"] = route_lines(
                source, folder / "ray", "--engine", "ray", "--ray-address", address
            )
    results = {path.read_bytes() for name in ("one", "two", "ray") if (path := folder / name).exists()}
    if len(results) != 1:
        raise SystemExit("the engines did not write the same file")
    return found


@contextmanager
def cluster() -> Iterator[str]:
    """A Ray cluster of this machine with room for two workers; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        options = ["--num-cpus=2", "--object-store-memory=100000000", "--include-dashboard=false", f"--port={port}"]
        start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options]
        place = ["--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
        quiet = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
        process = subprocess.Popen(
            [*start, *place], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=quiet
        )
        top = psutil.Process(process.pid)
        try:
            if not any("Ray runtime started" in line for line in process.stdout or ()):
                raise SystemExit("no Ray cluster could be started")
            yield f"127.0.0.1:{port}"
        finally:
            for child in [*top.children(recursive=True), top]:
                with suppress(psutil.NoSuchProcess):
                    child.send_signal(signal.SIGKILL)
            process.wait()


def growth_table(growth: Growth) -> Table:
    """Rows with exponents."""
    table = Table(box=None)
    for heading in (growth.unit, "seconds", f"{growth.unit}/s", "exponent", "peak MB"):
        table.add_column(heading, justify="right")
    for index, row in enumerate(growth.rows):
        exponent = growth.exponent(index)
        table.add_row(
            f"{row.size:,}",
            f"{row.seconds:.4f}",
            f"{row.size / row.seconds:,.0f}",
            "" if exponent is None else f"{exponent:.2f}",
            f"{row.peak_bytes / 1e6:,.0f}" if row.peak_bytes else "",
        )
    return table


def engine_table(found: dict[str, Row]) -> Table:
    """Engines side by side; memory is that of the largest process, of a cluster without its own."""
    first = next(iter(found.values()))
    table = Table(box=None)
    for heading in ("engine", "seconds", "lines/s", "times as fast", "peak MB"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for name, row in found.items():
        speed, peak = f"{row.size / row.seconds:,.0f}", f"{row.peak_bytes / 1e6:,.0f}"
        table.add_row(name, f"{row.seconds:.2f}", speed, f"{first.seconds / row.seconds:.2f}", peak)
    return table


def measure(sizes: Sizes, parts: Sequence[str], base: Path | None) -> tuple[list[Growth], dict[str, Row]]:
    """Everything that was asked for."""
    growths: list[Growth] = []
    makers = {"tokens": tokens_of_nano, "batch": batches_of_nano}
    for part in (part for part in makers if part in parts):
        progress.print(f"{part}, nano")
        growths.append(makers[part](sizes))
    if sizes.full_tokens and {"tokens", "batch"} & {*parts}:
        with base_folder(base) as folder:
            ours = Ours(folder, Place.of(PROFILE), Lane("bfloat16"))
            full = {"tokens": tokens_of_full_size, "batch": batches_of_full_size}
            for part in (part for part in full if part in parts):
                progress.print(f"{part}, full size")
                growths.append(full[part](ours, sizes))
    with tempfile.TemporaryDirectory() as temporary:
        if "lines" in parts:
            progress.print("lines")
            growths.append(lines_of_files(Path(temporary), sizes))
        if "engines" not in parts:
            return growths, {}
        progress.print("engines")
        return growths, engines(Path(temporary), sizes)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure how the cost of routing grows.")
    parser.add_argument("--quick", action="store_true", help="small sizes, and nothing at full size")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--base", type=Path, metavar="DIR", help="keep the base there, and reuse it if it is there")
    parser.add_argument("--only", default=",".join(PARTS), metavar="A,B", help=f"some of: {', '.join(PARTS)}")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    options = parse_arguments(arguments)
    started = time.perf_counter()
    growths, found = measure(QUICK if options.quick else Sizes(), options.only.split(","), options.base)
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine() | {"load_average": os.getloadavg()},
        "software": describe_software(),
        "profile": PROFILE,
        "growth": [asdict(growth) | {"fitted_exponent": growth.fitted} for growth in growths],
        "engines": {name: asdict(row) for name, row in found.items()},
        "seconds": time.perf_counter() - started,
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console = Console(width=None if sys.stdout.isatty() else 120)
    for growth in growths:
        console.print(f"{growth.title}: fitted exponent {growth.fitted:.2f}", growth_table(growth), "")
    if found:
        console.print("the same lines, the same file", engine_table(found), "")
    machine = report["machine"]
    console.print(f"{machine['processor']}, {machine['cores']} cores, {report['date']}; {report['seconds']:.0f} s")


if __name__ == "__main__":
    main()

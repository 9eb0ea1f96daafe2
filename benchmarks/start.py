"""What starting costs: importing the package, and whole processes of the command line.

    python benchmarks/start.py

Each figure is a median over fresh processes. The import is timed inside its process, without the interpreter's own
start; a command from start to exit. Processor time is given beside the time on the wall, as a busy machine changes it
less.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

RUNS = 15
IMPORT = (
    "import time; wall, cpu = time.perf_counter(), time.process_time(); import trinity_mlx{more};"
    "print(time.perf_counter() - wall, time.process_time() - cpu)"
)
PROFILES = ("mlx", "cpu")


def imported(more: str = "") -> tuple[float, float]:
    """Seconds of one import in a fresh process, on the wall and on the processor."""
    wall, cpu = subprocess.check_output([sys.executable, "-c", IMPORT.format(more=more)]).split()
    return float(wall), float(cpu)


def whole(*arguments: str) -> tuple[float, float]:
    """Seconds of one whole command."""
    wall, cpu = time.perf_counter(), _children()
    subprocess.run([sys.executable, "-m", "trinity_mlx.cli", *arguments], check=True, capture_output=True)
    return time.perf_counter() - wall, _children() - cpu


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print the table."""
    rows: dict[str, Callable[[], tuple[float, float]]] = {
        "import trinity_mlx": imported,
        "import trinity_mlx; trinity_mlx.load_router": lambda: imported("; trinity_mlx.load_router"),
        "trinity-mlx --help": lambda: whole("--help"),
        "trinity-mlx run --help": lambda: whole("run", "--help"),
    }
    for profile in PROFILES:
        route = ("route", "hi", "--artifact", "nano", "--profile", profile)
        rows[f"trinity-mlx {' '.join(route)}"] = partial(whole, *route)
    for name, measure in rows.items():
        walls, cpus = zip(*(measure() for _ in range(RUNS)), strict=True)
        wall, cpu = (statistics.median(times) * 1000 for times in (walls, cpus))
        print(f"{name:<52} {wall:6.0f} ms on the wall, {cpu:6.0f} ms of the processor")


if __name__ == "__main__":
    main()

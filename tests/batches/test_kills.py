"""Real batches that are killed, as a whole and in part, again and again, and end as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

LINES, KILLS = 6_000, 3
ROUTE = (sys.executable, "-m", "trinity_mlx.cli", "route", "--artifact", "nano", "--profile", "cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an input, and the file that an uninterrupted batch makes of it."""
    folder = tmp_path_factory.mktemp("batch")
    lines = (json.dumps({"id": number, "prompt": f"What is {number} + {number % 7}?"}) for number in range(LINES))
    (folder / "in.jsonl").write_text("\n".join(lines))
    subprocess.run(command(folder, folder / "whole"), check=True)
    return folder


def command(folder: Path, out: Path, *more: str) -> list[str]:
    return [*ROUTE, "--batch", str(folder / "in.jsonl"), "--out", str(out), *more]


def await_growth(out: Path, size: int, process: subprocess.Popen[bytes]) -> None:
    """Until more than ``size`` bytes are written, or the process has ended."""
    while process.poll() is None and (not out.exists() or out.stat().st_size <= size):
        time.sleep(0.01)


def workers_of(top: psutil.Process, word: str) -> list[psutil.Process]:
    """The processes under ``top`` with ``word`` in their command: one at least where anything is written."""
    found = []
    for child in top.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if word in "".join(child.cmdline()):
                found.append(child)
    return found


@pytest.mark.parametrize("how", [[], ["--devices", "cpu,cpu"]], ids=["alone", "shared"])
def test_a_batch_that_is_killed_again_and_again_ends_with_the_same_file(whole: Path, how: list[str]) -> None:
    out, chance, codes = whole / f"killed{len(how)}", random.Random(5), []
    for _ in range(KILLS):
        size = out.stat().st_size if out.exists() else 0
        with subprocess.Popen(command(whole, out, "--resume", *how)) as process:
            await_growth(out, size, process)
            time.sleep(chance.random() * 0.3)
            process.send_signal(signal.SIGKILL)
        codes.append(process.returncode)
        assert process.returncode == 0 or out.stat().st_size > size
    assert set(codes) - {0} == {-signal.SIGKILL}  # the last may have come too late
    subprocess.run(command(whole, out, "--resume", *how), check=True)
    assert out.read_bytes() == (whole / "whole").read_bytes()


def test_a_process_that_is_killed_in_the_middle_is_told_and_loses_nothing(whole: Path) -> None:
    out = whole / "one-killed"
    asked = command(whole, out, "--devices", "cpu,cpu")
    with subprocess.Popen(asked, stderr=subprocess.PIPE, text=True) as process:
        await_growth(out, 0, process)  # type: ignore[arg-type]
        workers_of(psutil.Process(process.pid), "batches.worker")[0].kill()
        _, told = process.communicate()
    assert process.returncode == 0
    assert told.count("\n") == 1
    assert "a worker on cpu has died (signal 9); its lines are given to another" in told
    assert out.read_bytes() == (whole / "whole").read_bytes()


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, psutil.Process]]:
    """The address of a Ray cluster with room for two workers, and the process that its own are under."""
    pytest.importorskip("ray", reason="Ray comes with the extra ray")
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        options = ["--num-cpus=2", "--object-store-memory=100000000", "--include-dashboard=false"]
        options += ["--port=0", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
        start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options]
        quiet = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
        with subprocess.Popen(start, stdout=subprocess.PIPE, text=True, env=quiet) as process:
            top = psutil.Process(process.pid)
            try:
                assert process.stdout
                told = (re.search(r"--address='[^']*:(\d+)'", line) for line in process.stdout)
                port = next(filter(None, told))[1]
                assert any("--block" in line for line in process.stdout)
                yield f"127.0.0.1:{port}", top
            finally:
                for child in [*top.children(recursive=True), top]:
                    with suppress(psutil.NoSuchProcess):
                        child.kill()


def test_a_cluster_writes_the_same_file_also_where_a_worker_is_killed(
    whole: Path, cluster: tuple[str, psutil.Process]
) -> None:
    out, (address, top) = whole / "cluster", cluster
    with subprocess.Popen(command(whole, out, "--engine", "ray", "--ray-address", address)) as process:
        await_growth(out, 0, process)
        workers_of(top, "RayWorker")[0].kill()
    assert process.returncode == 0
    assert out.read_bytes() == (whole / "whole").read_bytes()


def test_a_cluster_goes_on_with_what_one_machine_began(whole: Path, cluster: tuple[str, psutil.Process]) -> None:
    out = whole / "moved"
    with subprocess.Popen(command(whole, out)) as process:
        await_growth(out, 0, process)
        process.kill()
    more = ["--resume", "--engine", "ray", "--ray-address", cluster[0]]
    subprocess.run(command(whole, out, *more), check=True)
    assert out.read_bytes() == (whole / "whole").read_bytes()


def test_ctrl_c_ends_all_processes_and_the_batch_goes_on(whole: Path) -> None:
    out = whole / "cancelled"
    asked = command(whole, out, "--devices", "cpu,cpu")
    with subprocess.Popen(asked, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        await_growth(out, 0, process)  # type: ignore[arg-type]
        workers = psutil.Process(process.pid).children()
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate()
    assert (process.returncode, told) == (130, "cancelled\n")
    assert not [worker for worker in workers if worker.is_running()]
    subprocess.run(command(whole, out, "--resume"), check=True)
    assert out.read_bytes() == (whole / "whole").read_bytes()

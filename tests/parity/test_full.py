"""Every tensor of a router in the real shapes, on both backends, and what it takes in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from trinity_mlx.contracts.artifact import Base
from trinity_mlx.parity.compare import compare, open_stages
from trinity_mlx.parity.record import Task, plan, record_reference, record_run
from trinity_mlx.profiles.backends import load_backend

from .. import builders

pytestmark = pytest.mark.slow

REAL = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "initializer_range": 0.02,
}
LIMIT = 400 * 2**20
MEASURE = """
import json, sys, threading
from pathlib import Path
import numpy as np
from trinity_mlx.artifacts.base import open_base
from trinity_mlx.parity.compare import compare, open_stages
from trinity_mlx.parity.record import plan, record_run
from trinity_mlx.profiles.backends import load_backend

base, vector, tensor, out, backend = sys.argv[1:]

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

def peak_of(work):
    done, peaks, before = threading.Event(), [0], anonymous()
    def watch():
        while not done.wait(0.002):
            peaks[0] = max(peaks[0], anonymous())
    thread = threading.Thread(target=watch)
    thread.start()
    work()
    done.set()
    thread.join()
    return peaks[0] - before

loaded = load_backend(backend)
loaded.matrix_product("cpu")(np.ones((2, 2)), np.ones((2, 2)))
task = plan(open_base(base), np.load(vector), "0" * 64, tensor)
run = peak_of(lambda: record_run(task, Path(out), loaded, "cpu", "cpu"))
side = open_stages(Path(out))
print(json.dumps({"run": run, "compare": peak_of(lambda: compare(side, side))}))
"""


@pytest.fixture(scope="module", autouse=True)
def all_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


def make(folder: Path, rows: int) -> tuple[Base, np.ndarray]:
    """A base of random weights in bfloat16 with layers of the real shapes, and a random vector for it."""
    base = builders.make_base(folder, dtype=torch.bfloat16, vocab_size=rows, **REAL)
    draw = np.random.default_rng(5)
    return base, np.concatenate([draw.normal(0, 0.02, 9216), draw.normal(0, 0.3, 10240)]).astype(np.float32)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    base, vector = make(tmp_path_factory.mktemp("real") / "base", rows=6000)
    return plan(base, vector, "0" * 64)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory, task: Task) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("references")
    for dtype in ("float32", "float64"):
        record_reference(task, folder / dtype, dtype)
    return {dtype: folder / dtype for dtype in ("float32", "float64")}


@pytest.mark.parametrize("backend", builders.BACKENDS)
@pytest.mark.parametrize(("dtype", "own"), [("float32", False), ("float64", False), ("float64", True)])
def test_every_required_stage_of_all_nine_tensors_passes(
    tmp_path: Path, task: Task, references: dict[str, Path], backend: str, dtype: str, own: bool
) -> None:
    components = None if own else references[dtype]
    record_run(task, tmp_path, load_backend(backend), "cpu", builders.PROFILES[backend], components)
    found = compare(open_stages(references[dtype]), open_stages(tmp_path))
    assert found.components == ("different" if own else "same")
    assert sum(check.limits.required for check in found.checks) == 81
    assert found.failed == []


@pytest.mark.timeout(3600)  # MLX's own matrix product on a CPU is slow
@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is read from /proc")
@pytest.mark.parametrize("backend", builders.BACKENDS)
def test_memory_stays_bounded_whatever_the_rows(tmp_path: Path, backend: str) -> None:
    base, vector = make(tmp_path / "base", rows=60000)
    np.save(tmp_path / "vector.npy", vector)
    arguments = (base.folder, tmp_path / "vector.npy", builders.EMBEDDING, tmp_path / "out", backend)
    script = [sys.executable, "-c", MEASURE, *map(str, arguments)]
    result = subprocess.run(script, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    peaks = json.loads(result.stdout)
    assert max(peaks.values()) < LIMIT, {name: f"{peak / 2**20:.0f} MiB" for name, peak in peaks.items()}

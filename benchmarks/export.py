"""What an export costs, side by side with the reference pipeline.

The reference takes each of the nine tensors through ``torch.svd`` in float32, multiplies ``U diag(scaled) V^T`` out,
rounds to the source's number type and writes a checkpoint. Ours writes the same adapted tensors (``merged``), or the
small factors (``factored``). Both work on the architecture of Qwen3-0.6B at full size with seeded random weights.

Every run has a process of its own, so that its memory is its own: anonymous memory is sampled, and counted above its
level after imports. The floating-point limit is the time that the export's arithmetic would take at the speed at which
this machine multiplies large matrices in float64, measured in the same run.

    python benchmarks/export.py [--json FILE] [--base DIR] [--vector FILE] [--only NAME,NAME] [--repeats N]

For MLX on Linux preload a fast BLAS, as in LD_PRELOAD=/usr/lib/x86_64-linux-gnu/openblas-openmp/libopenblas.so.0.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from qwen3_0_6b import FULL_SIZE
from rich.console import Console
from rich.table import Table

from trinity_mlx.evaluation.provenance import describe_machine, describe_software

SEED = 0
SAMPLE_SECONDS = 0.002
RUNS = ("torch factored", "torch merged", "mlx factored", "mlx merged", "reference")
ROWS = (37984, 75968, 151936)
MEMORY_TARGET = 400e6
SPEED_TARGET = 3.0


class AnonymousMemory:
    """Samples this process's anonymous memory on a thread, where the system tells it (Linux)."""

    def __init__(self) -> None:
        self._start = self._peak = _anonymous_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Peak above the level at the start, in bytes."""
        self._done.set()
        self._thread.join()
        return self._peak - self._start

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, _anonymous_bytes())


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = _options()
    if options.worker:
        print(json.dumps(_worker(options.worker, options.base, options.vector, options.out)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        report = _measure(options, Path(scratch))
    _print(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--base", type=Path, help="a base in Hugging Face layout; by default one with random weights")
    parser.add_argument("--vector", type=Path, help="a trained vector; by default a random one")
    parser.add_argument("--only", default=",".join(RUNS), help="runs to take, by name, with commas")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each; the fastest counts")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    base = options.base or _random_base(scratch / "base")
    vector = options.vector or _random_vector(scratch / "vector.npy")
    found: dict[str, list[dict[str, Any]]] = {}
    for repeat in range(options.repeats):
        for name in options.only.split(","):
            _note(f"{name}, run {repeat + 1} of {options.repeats}")
            found.setdefault(name, []).append(_run(name, base, vector, scratch / "out"))
    _note("matrix products, sums of more rows")
    scaling = _run("scaling", base, vector, scratch / "out")
    runs = {name: min(results, key=lambda result: result["seconds"]) for name, results in found.items()}
    return {"machine": _machine(), "runs": runs, "scaling": scaling}


def _run(name: str, base: Path, vector: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", name, "--base", base, "--vector", vector, "--out", out]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _worker(name: str, base: Path, vector: Path, out: Path) -> dict[str, Any]:
    """One run, in a process that does nothing else."""
    if name == "scaling":
        return _scaling(base)
    if name == "reference":
        return _reference(base, vector, out)
    backend, write = name.split()
    return _ours(backend, write, base, vector, out)


def _ours(backend: str, write: str, base: Path, vector: Path, out: Path) -> dict[str, Any]:
    from trinity_mlx.artifacts.base import open_base
    from trinity_mlx.export.pipeline import export
    from trinity_mlx.export.plan import plan_export
    from trinity_mlx.export.request import ExportRequest, Write
    from trinity_mlx.profiles.backends import load_backend

    request = ExportRequest(
        open_base(base), "benchmark", vector, out, load_backend(backend), write=Write(write), force=True
    )
    flops = plan_export(request).flops
    return _timed(lambda: export(request)) | {"flops": flops}


def _reference(base: Path, vector: Path, out: Path) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    from trinity_mlx.artifacts.base import open_base
    from trinity_mlx.artifacts.vector import adapted_shapes, split_vector

    model = open_base(base)
    shapes = adapted_shapes(model.config)
    offsets = split_vector(np.load(vector).astype(np.float32), shapes, model.config.hidden_size).offsets
    out.mkdir(exist_ok=True)

    def work() -> None:
        for index, (name, values) in enumerate(offsets.items()):
            source = _source(model, name)
            left, singular, right = torch.svd(source.float())
            scaled = singular * (1 + torch.from_numpy(values))
            adapted = (singular.sum() / scaled.sum()) * ((left * scaled) @ right.T)
            save_file({name: adapted.to(source.dtype).contiguous()}, out / f"{index}.safetensors")

    return _timed(work)


def _source(model: Any, name: str) -> Any:
    """A tensor of the base, memory-mapped; ``lm_head`` of a tied base is its embedding."""
    from safetensors import safe_open

    location = model.tensors.get(name) or model.tensors["model.embed_tokens.weight"]
    with safe_open(location.path, framework="pt") as file:
        return file.get_tensor(location.name)


def _scaling(base: Path) -> dict[str, Any]:
    """Seconds to decompose the first rows of the embedding, and the machine's speed at matrix products."""
    from trinity_mlx.artifacts.base import open_base
    from trinity_mlx.factorization.gram import gram_matrix, spectrum_of
    from trinity_mlx.files.safetensors import map_tensor

    embedding = open_base(base).tensors["model.embed_tokens.weight"]
    matrix = map_tensor(embedding)
    sums = {rows: _fastest(lambda rows=rows: gram_matrix(matrix[:rows])) for rows in ROWS}  # type: ignore[misc]
    gram = gram_matrix(matrix[:4096])
    return {
        "gram_seconds": sums,
        "eigenpairs_seconds": _fastest(lambda: spectrum_of(gram)),
        "gflops": {kind: _multiplication_speed(np.dtype(kind)) for kind in ("float32", "float64")},
    }


def _multiplication_speed(dtype: np.dtype[Any]) -> float:
    side = 3072
    left = np.random.default_rng(SEED).normal(size=(side, side)).astype(dtype)
    right = left.T.copy()
    return 2 * side**3 / _fastest(lambda: left @ right) / 1e9


def _fastest(work: Callable[[], Any], times: int = 3) -> float:
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def _timed(work: Callable[[], Any]) -> dict[str, Any]:
    memory = AnonymousMemory()
    started, before = time.perf_counter(), time.process_time()
    work()
    seconds, cpu = time.perf_counter() - started, time.process_time() - before
    return {"seconds": seconds, "cpu_seconds": cpu, "anonymous_bytes": memory.stop()}


def _anonymous_bytes() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def _random_base(folder: Path) -> Path:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    _note("a base with random weights")
    torch.manual_seed(SEED)
    model = Qwen3ForCausalLM(Qwen3Config(**FULL_SIZE)).to(torch.bfloat16)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    return folder


def _random_vector(path: Path) -> Path:
    np.save(path, np.random.default_rng(SEED).normal(0, 0.03, 19456))
    return path


def _machine() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        **describe_machine(),
        "load": os.getloadavg(),
        "preload": Path(os.environ.get("LD_PRELOAD", "")).name,
        "versions": describe_software(),
    }


def _print(report: dict[str, Any]) -> None:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("run", "seconds", "CPU s", "anonymous MB", "GFLOP", "limit s", "times as fast"):
        table.add_column(heading, justify="left" if heading == "run" else "right", no_wrap=True)
    for row in _rows(report):
        table.add_row(*row)
    console = Console()
    console.print(report["machine"], table)
    sums = ", ".join(f"{rows} rows {seconds:.2f} s" for rows, seconds in report["scaling"]["gram_seconds"].items())
    console.print(f"Gram sums: {sums}; eigenpairs {report['scaling']['eigenpairs_seconds']:.2f} s")
    speeds = report["scaling"]["gflops"]
    console.print(f"matrix products: {speeds['float32']:.0f} GFLOP/s in float32, {speeds['float64']:.0f} in float64")
    console.print(f"targets: {SPEED_TARGET} times as fast as the reference, {MEMORY_TARGET / 1e6:.0f} MB")


def _rows(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    reference = report["runs"].get("reference", {}).get("seconds")
    for name, run in report["runs"].items():
        flops = run.get("flops")
        yield (
            name,
            f"{run['seconds']:.1f}",
            f"{run['cpu_seconds']:.1f}",
            f"{run['anonymous_bytes'] / 1e6:.0f}",
            f"{flops / 1e9:.0f}" if flops else "-",
            f"{flops / 1e9 / report['scaling']['gflops']['float64']:.1f}" if flops else "-",
            f"{reference / run['seconds']:.1f}" if reference else "-",
        )


def _note(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()

"""A profile looked at closely on this machine: what its owner can send to those who have no such hardware.

Everything is measured: the self-check of the device, the gates of every artifact that is there, an export of small
matrices against float64, and how long routes take. A part that fails says how, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np

from ..contracts.artifact import Execution, TensorLocation
from ..contracts.backend import Backend, TellsSettings
from ..factorization.host import factorizer_of
from ..files.safetensors import read_float32, read_header
from ..files.safetensors_writer import write_float32
from ..profiles.backends import load_backend
from ..profiles.memory import available_on
from ..profiles.registry import Profile
from ..routing.loading import FindsArtifacts, load_router
from ..routing.router import Router
from ..routing.selfcheck import LENGTHS, check_device
from .gates import evaluate
from .standards import gates_for

T = TypeVar("T")

PROMPT = "What is 17 + 25? Answer briefly."
PROMPTS = ((PROMPT, 20), (PROMPT * 80, 3))
"""Texts that are timed, and how often."""
SHAPES = ((1536, 192), (192, 1536))
"""A tall and a wide matrix, of several tiles' rows on no device and of odd sizes for most kernels."""


def examine(
    profile: Profile,
    device: str,
    artifacts: Sequence[str] = ("nano",),
    *,
    library: FindsArtifacts | None = None,
    config_dir: Path | None = None,
    longest: int = LENGTHS[-1],
) -> dict[str, Any]:
    """What ``profile`` does on ``device``: plain values for JSON.

    Args:
        profile: the profile.
        device: the device that it uses here.
        artifacts: names of artifacts that are here.
        library: what finds those that do not come with the package.
        config_dir: the folder with the user's own profiles and lanes.
        longest: the longest sequence of the self-check.
    """
    backend = load_backend(profile.backend)
    info = backend.info()
    return {
        "profile": profile.name,
        "device": device,
        "dtype": profile.dtype,
        "versions": info.versions,
        "hardware": dict(info.hardware),
        "settings": dict(backend.settings()) if isinstance(backend, TellsSettings) else {},
        "free_memory_bytes": _told(lambda: available_on(backend, device)),
        "self_check": _told(lambda: asdict(check_device(backend, device, profile.dtype, longest))),
        "artifacts": {name: _told(partial(_artifact, profile, name, library, config_dir)) for name in artifacts},
        "export": _told(lambda: _export(backend, device)),
    }


def _told(part: Callable[[], T]) -> T | dict[str, str]:
    """What ``part`` found, or how it failed: on hardware that nobody here has, anything may."""
    try:
        return part()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _artifact(profile: Profile, name: str, library: FindsArtifacts | None, config_dir: Path | None) -> dict[str, Any]:
    """The gates of one artifact against its lane, and times of a short route and a long one, each from nothing."""
    with load_router(name, profile=profile.name, library=library, cache_bytes=0, config_dir=config_dir) as router:
        return {
            "kernels": router.identity.variant.kernels,
            "load_ms": round(router.identity.load_ms, 1),
            "gates": _told(lambda: _gates(router, config_dir)),
            "routes": [_told(partial(_timed, router, prompt, repeats)) for prompt, repeats in PROMPTS],
        }


def _gates(router: Router, config_dir: Path | None) -> dict[str, Any]:
    """The lane's suite twice: how it went, what failed and why, and what it was held against."""
    suite, gates = gates_for(router, config_dir=config_dir, determinism_runs=2)
    evaluation = evaluate(router, suite, gates, config_dir=config_dir)
    found = evaluation.to_dict()
    summary: dict[str, Any] = found["summary"]
    return summary | {
        "failures": [f"{result.case.id}: {'; '.join(result.reasons)}" for result in evaluation.failed],
        "floors": found["floors"],
        "determinism": found["environment"]["determinism"],
        "notes": found["notes"],
    }


def _timed(router: Router, prompt: str, repeats: int) -> dict[str, float]:
    """How long a route of ``prompt`` takes, the middle of ``repeats``."""
    times = []
    for _ in range(repeats):
        router.forget()
        decision = router.route(prompt)
        times.append(decision.timings.route)
    return {"tokens": decision.token_count, "route_ms": round(median(times), 2)}


def _export(backend: Backend, device: str) -> dict[str, Any]:
    """Gram sums and adapted tensors of small matrices, as relative differences from float64."""
    with TemporaryDirectory(prefix="trinity-mlx-deep-") as folder:
        started = time.perf_counter()
        found = {f"{rows} x {columns}": each for (rows, columns), each in _matrices(backend, device, Path(folder))}
        return found | {"seconds": round(time.perf_counter() - started, 3)}


def _matrices(backend: Backend, device: str, folder: Path) -> Iterator[tuple[tuple[int, int], dict[str, float]]]:
    factorizer, draw = factorizer_of(backend, device), np.random.default_rng(0)
    for shape in SHAPES:
        matrix = draw.normal(size=shape).astype(np.float32)
        side = min(shape)
        tall = shape[0] >= shape[1]
        change = draw.normal(0.0, 0.1, (side, side)) / side**0.5
        location = _written(folder / f"{shape[0]}.safetensors", matrix)
        exact = matrix.astype(np.float64)
        expected = exact + (exact @ change if tall else change @ exact)
        tiles = factorizer.adapted_tiles(location, Execution.RIGHT if tall else Execution.LEFT, change)
        adapted = np.frombuffer(b"".join(tiles), dtype=np.float32).reshape(shape)
        gram = factorizer.gram(location)
        yield (
            shape,
            {
                "gram": _relative(gram, exact.T @ exact if tall else exact @ exact.T),
                "adapted": _relative(adapted, expected),
            },
        )


def _written(path: Path, matrix: np.ndarray) -> TensorLocation:
    write_float32(path, {"matrix": matrix})
    location = read_header(path)["matrix"]
    if not np.array_equal(read_float32(location), matrix):
        raise ValueError(f"{path} does not hold what was written to it")
    return location


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))

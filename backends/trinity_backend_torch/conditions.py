"""What work needs of torch's settings, for as long as it takes: float32 in full, threads that pay, errors in words.

A host program may have shortened float32 products for its own sake (``torch.set_float32_matmul_precision``); a lane in
float32 and the head mean what they say whatever the host wants.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

from trinity_mlx.contracts.artifact import BackboneConfig
from trinity_mlx.sharing.shortage import within_memory_of

SMALL = 1 << 18
"""Entries of a layer's largest matrix up to which one thread is the fastest: starting a second takes as long."""


WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""By this variable cuBLAS is given a fixed work space, and with it the same order of sums every time."""


class _FullFloat32:
    """Products in full float32 while anybody is inside; then what was set before."""

    def __init__(self) -> None:
        self._settings: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
        self._lock = Lock()
        self._inside = 0
        self._before: list[str] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._before = [setting.fp32_precision for setting in self._settings]
                self._set(["ieee"] * len(self._settings))
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._set(self._before)

    def _set(self, values: list[str]) -> None:
        for setting, value in zip(self._settings, values, strict=True):
            if setting.fp32_precision != value:
                setting.fp32_precision = value


full_float32 = _FullFloat32()
"""A context in which torch shortens no float32 product, on any device."""


@contextmanager
def at_most(threads: int | None) -> Iterator[None]:
    """At most so many threads of torch for the calling thread's work; as many as it has for None."""
    before = torch.get_num_threads()
    if threads is None or before <= threads:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def reproducing(device: torch.device) -> Iterator[dict[str, str]]:
    """Deterministic algorithms on CUDA, and what bears on it besides; elsewhere there is nothing to choose.

    cuBLAS reads its variable once, when it is first used, so it must be set before the process starts or computes.
    Where an operation has no deterministic algorithm, torch warns, and the runs are held against each other anyway.
    """
    if device.type != "cuda":
        yield {}
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield {"deterministic algorithms": "on", WORKSPACE: os.environ.get(WORKSPACE, "not set")}
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def threads_for(config: BackboneConfig) -> int | None:
    """How many threads pay for a model, read or loaded: one for a small one, all for others."""
    return 1 if config.hidden_size * config.intermediate_size <= SMALL else None


def ran_out(error: Exception) -> bool:
    """Whether ``error`` says that a device has no memory left; only CUDA has a class for it."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory")
    )


def _give_back() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


within_memory = within_memory_of("torch", ran_out, _give_back)
"""For work that may run out of a device's memory: an error in words, which keeps nothing of the attempt."""

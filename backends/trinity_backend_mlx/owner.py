"""Threads that own MLX work: MLX keeps its streams per thread, so a model is loaded and run on one and the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import mlx.core as mx

from trinity_mlx.sharing.owner import OwnerThread
from trinity_mlx.sharing.shortage import within_memory_of

from . import ops

R = TypeVar("R")

CACHE_BYTES = 1 << 28
"""What MLX may keep of freed buffers for reuse once a piece of work is done: each new length leaves some behind."""

_SHORT_OF_MEMORY = ("unable to allocate", "attempting to allocate", "insufficient memory", "outofmemory")


def trim_cache() -> None:
    """Give freed buffers back to the system where MLX keeps too many; its own limit is the host program's to set."""
    if mx.get_cache_memory() > CACHE_BYTES:
        mx.clear_cache()


def ran_out(error: Exception) -> bool:
    """Whether ``error`` says that a device has no memory left; Metal's errors are told by their words."""
    said = str(error).lower()
    return any(words in said for words in _SHORT_OF_MEMORY)


class MlxThread(OwnerThread[None]):
    """A thread whose work runs on ``device``; after each piece, ``trim`` bounds what MLX keeps of freed buffers."""

    def __init__(self, device: mx.DeviceType, trim: Callable[[], None] = trim_cache) -> None:
        super().__init__(partial(_streams, device), name="trinity-mlx-owner")
        self._trim = trim

    def run(self, work: Callable[[None], R]) -> R:
        """The result of ``work``, or the exception that it raised.

        Raises:
            NotEnoughMemory: the device had no memory left for it; nothing is kept of the attempt.
        """
        return _run(super().run, partial(_trimmed, self._trim, work))


def _trimmed(trim: Callable[[], None], work: Callable[[None], R], owned: None) -> R:
    try:
        return work(owned)
    finally:
        trim()


@within_memory_of("MLX", ran_out, mx.clear_cache)
def _run(run: Callable[[Callable[[None], R]], R], work: Callable[[None], R]) -> R:
    return run(work)


@contextmanager
def _streams(device: mx.DeviceType) -> Iterator[None]:
    """``device`` as this thread's own; what streams the work made are cleared by the thread that made them."""
    try:
        with ops.on(device):
            yield
    finally:
        mx.clear_streams()

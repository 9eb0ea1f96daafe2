"""Threads that own MLX work: MLX keeps its streams per thread, so a model is loaded and run on one and the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import mlx.core as mx

from trinity_mlx.sharing.owner import OwnerThread

from . import ops

CACHE_BYTES = 1 << 28
"""What MLX may keep of freed buffers for reuse once a piece of work is done: each new length leaves some behind."""


def trim_cache() -> None:
    """Give freed buffers back to the system where MLX keeps too many; its own limit is the host program's to set."""
    if mx.get_cache_memory() > CACHE_BYTES:
        mx.clear_cache()


def mlx_thread(device: mx.DeviceType) -> OwnerThread[None]:
    """A thread whose work runs on ``device``."""
    return OwnerThread(partial(_streams, device), name="trinity-mlx-owner")


@contextmanager
def _streams(device: mx.DeviceType) -> Iterator[None]:
    """``device`` as this thread's own; what streams the work made are cleared by the thread that made them."""
    try:
        with ops.on(device):
            yield
    finally:
        mx.clear_streams()

"""How much memory this machine has to give."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def available_bytes(limits: Iterable[Path] = _LIMITS) -> int:
    """Memory that can be had without pushing anything out: free and reclaimable, within the container's limits.

    Args:
        limits: files that hold a limit in bytes each, or a word for none; those that are missing say nothing.
    """
    free: int = psutil.virtual_memory().available
    return min([free, *filter(None, map(_limit, limits))])


def _limit(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None

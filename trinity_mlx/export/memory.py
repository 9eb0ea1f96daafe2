"""How much memory this machine has to give."""

from __future__ import annotations

from pathlib import Path

import psutil

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def available_bytes() -> int:
    """Memory that can be had without pushing anything out: free and reclaimable, within the container's limit."""
    free: int = psutil.virtual_memory().available
    return min([free, *filter(None, map(_limit, _LIMITS))])


def _limit(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None

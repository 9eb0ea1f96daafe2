"""How much memory a device of this machine has to give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..contracts.backend import Backend, TellsMemory

_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class ControlGroup:
    """Where Linux says what a container may take and what it has taken, in bytes.

    Attributes:
        limit: a file with a number, or a word for no limit.
        usage: a file with what is taken, files that are only kept for later among it.
        details: a file with lines of a name and a number.
        kept: the names of those files' bytes among the details.
    """

    limit: Path
    usage: Path
    details: Path
    kept: tuple[str, ...]

    def free(self) -> int | None:
        """What is left of the limit; None without one."""
        limit, usage = _number(self.limit), _number(self.usage)
        return None if limit is None else max(0, limit - max(0, (usage or 0) - self._kept_bytes()))

    def _kept_bytes(self) -> int:
        try:
            lines = [line.split() for line in self.details.read_text().splitlines()]
            return sum(int(line[1]) for line in lines if line[0] in self.kept)
        except (OSError, ValueError, IndexError):
            return 0


_CONTAINER = (
    ControlGroup(
        _GROUPS / "memory.max",
        _GROUPS / "memory.current",
        _GROUPS / "memory.stat",
        ("inactive_file", "active_file"),
    ),
    ControlGroup(
        _GROUPS / "memory/memory.limit_in_bytes",
        _GROUPS / "memory/memory.usage_in_bytes",
        _GROUPS / "memory/memory.stat",
        ("total_inactive_file", "total_active_file"),
    ),
)
"""The second and the first version of control groups."""


def available_bytes(groups: Iterable[ControlGroup] = _CONTAINER) -> int:
    """Memory of the host that can be had without pushing anything out, within the container's limits."""
    free: int = psutil.virtual_memory().available
    return min([free, *(left for group in groups if (left := group.free()) is not None)])


def available_on(backend: Backend, device: str) -> int:
    """Memory that can be had on ``device``: the device's own, the host's, or what both allow where it is shared."""
    own = backend.device_memory(device) if isinstance(backend, TellsMemory) else None
    if own is None:
        return available_bytes()
    return min(own.free, available_bytes()) if own.is_host else own.free


def in_bytes(count: int) -> str:
    """``count`` bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None

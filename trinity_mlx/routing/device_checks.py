"""What the self-check found of each device, remembered, and which kernels a device gets by that."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..contracts.backend import Backend, Kernels
from ..contracts.errors import TrinityError
from ..files.atomic import write_json
from .selfcheck import LENGTHS, SelfCheck, check_device

MEMORY_FILE = "device-checks.json"
"""Results, beside the file that remembers hashes."""
_log = logging.getLogger(__name__)


class CheckMemory:
    """Results by backend, device, number type and machine, kept in a file, or in the process alone without one."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._results: dict[str, SelfCheck] = _read(path) if path else {}

    def find(self, key: str) -> SelfCheck | None:
        """What was seen before."""
        return self._results.get(key)

    def keep(self, key: str, result: SelfCheck) -> None:
        """Remember ``result``; a file that cannot be written costs the memory, and nothing else."""
        self._results[key] = result
        if self._path:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self._path, {name: asdict(each) for name, each in self._results.items()})
            except (OSError, TrinityError):
                self._path = None

    def items(self) -> Iterator[tuple[str, SelfCheck]]:
        """All results by key."""
        yield from self._results.items()


_PROCESS = CheckMemory()
"""Where a caller has no folder to remember in."""


def memory_beside(hash_memory: Path | None) -> CheckMemory:
    """The memory in the folder of ``hash_memory``, or this process's."""
    return CheckMemory(hash_memory.with_name(MEMORY_FILE)) if hash_memory else _PROCESS


def usable_kernels(backend: Backend, device: str, dtype: str, asked: Kernels, memory: CheckMemory) -> Kernels:
    """``asked``, or composed kernels where the fused ones of this device break a law; that is said once.

    The first time a device other than the CPU is met, it is checked; the CPU's kernels are tested where this is built.

    Raises:
        TrinityError: the device cannot load the small base.
    """
    if asked == "composed" or device == "cpu":
        return asked
    result, is_new = checked(memory, backend, device, dtype)
    if result.failures and is_new:
        laws = "; ".join(result.failures)
        _log.warning("%s on %s computes wrongly (not so: %s): composed kernels instead", dtype, device, laws)
    return result.kernels


def check_key(backend: Backend, device: str, dtype: str) -> str:
    """What a result holds for: with another driver, framework or machine the question is open again."""
    info = backend.info()
    versions = " ".join(f"{name} {version}" for name, version in sorted(info.versions.items()))
    hardware = ", ".join(f"{name} {value}" for name, value in sorted(info.hardware.items()))
    return f"{info.backend_id} {device} {dtype} ({versions}; {hardware}; {platform.platform()})"


def checked(
    memory: CheckMemory, backend: Backend, device: str, dtype: str, *, longest: int = LENGTHS[-1], again: bool = False
) -> tuple[SelfCheck, bool]:
    """The device's result, remembered or found now, and whether it was found now."""
    key = check_key(backend, device, dtype)
    known = None if again else memory.find(key)
    if known:
        return known, False
    result = check_device(backend, device, dtype, longest)
    memory.keep(key, result)
    return result, True


def _read(path: Path) -> dict[str, SelfCheck]:
    """What a memory's file holds; a damaged one is as good as none."""
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {
            key: SelfCheck(dict(each["differences"]), tuple(each["failures"]), float(each["seconds"]))
            for key, each in stored.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}

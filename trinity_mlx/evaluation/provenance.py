"""What figures come from: the machine and the software, in words that identify nobody."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("trinity-mlx", "mlx", "torch", "numpy", "tokenizers")
_GPU = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
_APPLE_CHIP = ("sysctl", "-n", "machdep.cpu.brand_string")


def describe_machine() -> dict[str, str]:
    """Processor, NVIDIA GPUs where there are any, cores, memory and system; no name of a host or a user."""
    gpus = _ask(_GPU)
    return {
        "processor": _processor(),
        **({"gpu": ", ".join(gpus.splitlines())} if gpus else {}),
        "cores": str(os.cpu_count()),
        "memory": f"{_memory_bytes() / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
    }


def describe_software() -> dict[str, str]:
    """Versions of Python and of what takes part in a route; what is not installed is left out."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    chip = _ask(_APPLE_CHIP) if platform.system() == "Darwin" else ""
    return chip or platform.processor() or platform.machine()


def _ask(command: tuple[str, ...]) -> str:
    """What a system tool prints; nothing where it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

"""What holds for every test. The fixtures that need a tensor framework are in ``tiny_models``."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a third of a short run would be compiling, here and in every process
sys.dont_write_bytecode = False
if threading.current_thread() is threading.main_thread():
    # A background job of a script ignores Ctrl-C, and its children inherit that; tests send it to children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are the workers': a library's own threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile(
    "shared",
    max_examples=50,
    derandomize=True,  # the same change gives the same result; ``thorough`` (--hypothesis-profile) draws new examples
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("thorough", settings.get_profile("shared"), max_examples=1000, derandomize=False)
settings.load_profile("shared")


IN_MEMORY = Path("/dev/shm")
"""A disk in memory, where there is one: the fast tests wait for tens of thousands of fsyncs, seconds of each minute."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Here, and not in ``tests/fuzz``, so that they are known wherever a run begins."""
    parser.addoption("--cases", type=int, help="cases of each fuzz search; by default as many as CI has time for")
    parser.addoption("--seed", type=int, default=0, help="what the cases of the fuzz searches are drawn from")
    text = "run the tests of backends there alone: cpu, cuda, mps, gpu (MLX); by default wherever this machine can"
    parser.addoption("--device", default=None, metavar="DEVICE", help=text)


def is_roomy(folder: Path) -> bool:
    """Whether programs may be run in ``folder``, and it has more bytes than the fast tests ever write."""
    if not os.access(folder, os.W_OK):
        return False
    disk = os.statvfs(folder)
    return not disk.f_flag & os.ST_NOEXEC and disk.f_bavail * disk.f_frsize > 4 << 30


def pytest_configure(config: pytest.Config) -> None:
    """A process that only hands out tests (``-n``) needs no tensor framework, and none takes less than seconds."""
    hands_out = bool(config.getoption("tx", None)) and not hasattr(config, "workerinput")
    if hands_out:
        if is_roomy(IN_MEMORY):
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))
    else:
        config.pluginmanager.register(importlib.import_module(".tiny_models", __package__), "tiny_models")


def pytest_sessionstart() -> None:
    """What commands show does not depend on the terminal of whoever runs the tests."""
    for name in ("COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        os.environ.pop(name, None)
    if os.environ.get("TERM") in ("dumb", "unknown"):
        del os.environ["TERM"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores for ``-n auto``: a good part of the tests waits for a process, a server, a browser."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return (cores or 1) + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported for the tests stays until the end: the collector would go over it again and again in vain."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def public_files() -> Path:
    """The folder with what was published of the router's evaluation, which the project does not ship."""
    places = (parent / "shared" / "reference" / "sakana" for parent in Path(__file__).parents)
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        pytest.skip("the published evaluation files are not on this machine")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with one MiB; skipped where this process may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux":
        pytest.skip("small disks are mounted on Linux alone")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this process may not mount a disk: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)

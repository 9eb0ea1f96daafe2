"""A folder put in another's place: in one step where the system has one, and never so that neither can be had again.

The new folder is made in a scratch folder beside its place, ``.<name>.new``, locked while somebody works there.
What a killed process left in it is swept, or put back where it was, by whoever works there next.
"""

from __future__ import annotations

import ctypes
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..contracts.errors import FolderUnavailable

_AT_FDCWD = -100
_EXCHANGE = 2
"""``RENAME_EXCHANGE`` on Linux and ``RENAME_SWAP`` on macOS."""
_OLD = "old"


@contextmanager
def scratch_beside(place: Path) -> Iterator[Path]:
    """A folder beside ``place``, for this process alone, gone afterwards with all that is left in it.

    Raises:
        FolderUnavailable: another process works there.
        OSError: it cannot be made.
    """
    place = place.resolve()
    scratch = place.with_name(f".{place.name}.new")
    scratch.mkdir(parents=True, exist_ok=True)
    lock = FileLock(scratch / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FolderUnavailable(f"another process is making {place}: wait for it, or stop it") from None
    try:
        _recover(scratch, place)
        yield scratch
    finally:
        _recover(scratch, place)
        shutil.rmtree(scratch, ignore_errors=True)
        lock.release()


def put_in_place(fresh: Path, place: Path) -> None:
    """Let the folder ``fresh``, which lies in ``scratch_beside(place)``, be at ``place``; what was there is gone.

    Raises:
        OSError: it cannot; what was there is there again.
    """
    place = place.resolve()
    if not place.exists():
        fresh.rename(place)
    elif not exchange(fresh, place):
        place.rename(fresh.with_name(_OLD))
        fresh.rename(place)


def exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where this system or file system cannot, and nothing has happened."""
    names = bytes(one), bytes(other)
    with suppress(OSError, AttributeError):
        if sys.platform == "darwin":
            return bool(ctypes.CDLL(None).renamex_np(*names, _EXCHANGE) == 0)
        return bool(ctypes.CDLL(None).renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE) == 0)
    return False


def _recover(scratch: Path, place: Path) -> None:
    """Put back what was moved aside for a folder that never came, and sweep the rest."""
    old = scratch / _OLD
    if old.exists() and not place.exists():
        old.rename(place)
    for left in scratch.iterdir():
        if left.name != "lock":
            shutil.rmtree(left, ignore_errors=True)

"""Regular files, and nothing that only looks like one: a pipe would wait for ever, a device never end."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

LARGEST = 1 << 28
"""No description, manifest or suite is larger, in bytes."""
_CHUNK_BYTES = 1 << 20


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[BufferedReader, os.stat_result]]:
    """The regular file at ``path``, links followed, opened to be read as bytes, and what the system says about it.

    Raises:
        OSError: it cannot be opened, is something else, or its name can belong to no file.
    """
    descriptor = _open(path)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    with os.fdopen(descriptor, "rb") as file:
        yield file, status


def read_regular(path: Path) -> bytes:
    """The whole content of the regular file at ``path``.

    Raises:
        OSError: it cannot be read, is something else, or holds more than ``LARGEST`` bytes.
    """
    with open_regular(path) as (file, _):
        return read_bounded(file, path)


def read_bounded(file: BinaryIO, path: Path, most: int = LARGEST) -> bytes:
    """What is left in ``file``, which lies at ``path``.

    Raises:
        OSError: it cannot be read, or there are more than ``most`` bytes.
    """
    content = bytearray()
    while chunk := file.read(_CHUNK_BYTES):
        content += chunk
        if len(content) > most:
            raise OSError(errno.EFBIG, f"it holds more than {most} bytes", str(path))
    return bytes(content)


def _open(path: Path) -> int:
    """A descriptor, at once: opening a pipe does not wait for somebody to write."""
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError:  # a null byte, or half a surrogate pair
        raise OSError(errno.EINVAL, "no file can have such a name", str(path)) from None

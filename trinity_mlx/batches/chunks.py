"""An input cut into chunks of lines, read as it comes: the only place that decides which lines are routed together.

A pass reads transcripts together, and the last bits of a transcript's logits depend on what stands beside it. So where
a result must not depend on when lines came, who routes them, or how often the work was broken off, they are cut by
their number and length alone (``whole``). Otherwise a chunk ends where a read would wait, so that a program that
waits for each answer gets it.
"""

from __future__ import annotations

import hashlib
import select
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..contracts.errors import InputFileError
from .lines import LONGEST, BatchLine, batch_line

LINES = 256
"""Lines of a chunk at most."""
BYTES = 1 << 22
"""Bytes after which a chunk ends all the same: the line that reaches them is its last."""
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines that are routed together.

    Attributes:
        first: the number of the first line, from 1.
        lines: the lines without their ends, blank ones included; of one that is too long, more than ``LONGEST`` bytes.
        start: how many bytes of the input lie before the chunk.
        end: how many bytes of the input lie before the end of the chunk.
        sha256: the hash of these bytes.
    """

    first: int
    lines: tuple[bytes, ...]
    start: int
    end: int
    sha256: str

    def parsed(self) -> list[BatchLine]:
        """The lines that say something; blank ones are passed over, and counted."""
        return [batch_line(number, raw) for number, raw in enumerate(self.lines, self.first) if raw.strip()]


def chunks(file: BinaryIO, name: str, *, whole: bool, most: int = LINES) -> Iterator[Chunk]:
    """The chunks of ``file``; no more of it is in memory than a chunk and a block.

    Args:
        file: the input; it is read by ``read1`` or ``read``.
        name: what to call it in messages.
        whole: cut by numbers and lengths of lines alone; else a chunk also ends where the next read would wait.
        most: lines of a chunk.

    Raises:
        InputFileError: the file fails while it is read.
    """
    source, number = _Lines(file, name), 1
    lines: list[bytes] = []
    weight = 0
    for line in source:
        if line is not None:
            lines.append(line)
            weight += len(line)
        is_due = len(lines) == most or weight >= BYTES or (line is None and not whole)
        if lines and is_due:
            yield source.chunk(number, lines)
            number, weight = number + len(lines), 0
            lines.clear()
    if lines:
        yield source.chunk(number, lines)


class _Lines:
    """The lines of a file one by one, and None wherever the next read would wait.

    ``end`` and the hash cover what has been given out, and nothing beyond.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._digest = hashlib.sha256()
        self._start = self._end = 0
        self._pieces: list[bytes] = []
        self._length = 0

    def chunk(self, first: int, lines: list[bytes]) -> Chunk:
        """A chunk that ends with the line that was given out last."""
        start, self._start = self._start, self._end
        return Chunk(first, tuple(lines), start, self._end, self._digest.hexdigest())

    def __iter__(self) -> Iterator[bytes | None]:
        while block := self._read():
            *ended, rest = block.split(b"\n")
            for piece in ended:
                self._take(piece)
                yield self._line(b"\n")
            self._take(rest)
            if not _is_ready(self._file):
                yield None
        if self._length:
            yield self._line(b"")

    def _take(self, piece: bytes) -> None:
        """A piece of the current line; what is beyond the longest line is counted and hashed alone."""
        self._digest.update(piece)
        if self._length <= LONGEST:
            self._pieces.append(piece)
        self._length += len(piece)

    def _line(self, ending: bytes) -> bytes:
        self._digest.update(ending)
        self._end += self._length + len(ending)
        line = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._length = 0
        return line

    def _read(self) -> bytes:
        """What can be read now, waiting only where nothing can; empty at the end."""
        try:
            read = getattr(self._file, "read1", self._file.read)
            block: bytes = read(_BLOCK)
            return block
        except (OSError, ValueError) as error:
            raise unreadable(self._name, error) from None


def open_lines(name: str | Path) -> BinaryIO:
    """The file ``name`` for reading bytes as they come.

    Raises:
        InputFileError: it cannot be opened.
    """
    try:
        return Path(name).open("rb", buffering=0)
    except (OSError, ValueError) as error:
        raise unreadable(str(name), error) from None


def unreadable(name: str, error: Exception) -> InputFileError:
    """The error for an input that cannot be opened or read."""
    return InputFileError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}")


def _is_ready(file: BinaryIO) -> bool:
    """Whether a read would not wait; True for what cannot be asked, as it lies in memory."""
    try:
        return bool(select.select([file], [], [], 0)[0])
    except (OSError, ValueError, TypeError):
        return True

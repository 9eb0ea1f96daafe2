"""The file of a batch's records: killed at any moment, nothing that was complete is lost, and work goes on.

Whoever goes on reads the input up to the ledger's last entry, holds it against the hash there, and routes that one
chunk again for the records that are missing. Chunks depend on the input alone, and records on their chunk, so what is
written is what an uninterrupted run would have written.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from io import FileIO
from pathlib import Path
from typing import Any

from ..contracts.errors import FolderUnavailable, OutputExists, ResumeRefused, UsageError, bounded
from .chunks import BYTES, LINES, Chunk
from .ledger import Entry, Past, entry_line, line_of, read_ledger
from .records import Question, Routed

SUFFIX = ".ledger"
_NOTHING = hashlib.sha256().hexdigest()
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is: bytes of its input, records, and how many of these are errors."""

    end: int = 0
    routed: int = 0
    failed: int = 0

    def after(self, chunk: Chunk, routed: Routed) -> Progress:
        """How far it is after one more chunk."""
        return Progress(chunk.end, self.routed + len(routed.records), self.failed + routed.failed)


@contextmanager
def open_output(path: Path, question: Question, *, resume: bool = False, force: bool = False) -> Iterator[BatchOutput]:
    """The file ``path`` for the records of a batch, held by this process alone.

    Args:
        path: the file; its ledger lies beside it.
        question: what is asked of every line.
        resume: go on with what is there, if anything is.
        force: replace what is there.

    Where the work fails before anything is written, nothing is left behind.

    Raises:
        OutputExists: something is there, and neither ``resume`` nor ``force`` allows to touch it.
        UsageError: it is no regular file.
        ResumeRefused: what is there was begun with another question, or its ledger is missing or broken.
        FolderUnavailable: it cannot be written, or another process is at it.
    """
    _refuse_occupied(path, resume=resume, force=force)
    with ExitStack() as held:
        with _writing(path):
            ledger = held.enter_context(_ledger_of(path).open("a+b", buffering=0))
            _lock(ledger, path)
            if force:
                path.unlink(missing_ok=True)
            past = _found(path, ledger, question) if path.exists() else _begun(ledger, question)
            out = held.enter_context(path.open("a+b", buffering=0))
            output = BatchOutput(path, out, ledger, past, question)
        try:
            yield output
        except BaseException:
            if not os.fstat(out.fileno()).st_size:
                path.unlink(missing_ok=True)
                _ledger_of(path).unlink(missing_ok=True)
            raise


class BatchOutput:
    """The records of one batch on their way into a file. Made by ``open_output``.

    Attributes:
        path: the file.
        question: what is asked of every line; where chance decides, with the seed that the file was begun with.
        progress: how far it is.
    """

    def __init__(self, path: Path, out: FileIO, ledger: FileIO, past: Past, question: Question) -> None:
        self.path = path
        self.question = question.seeded(past.seed)
        self._out = out
        self._ledger = ledger
        self._by = past.by
        self._resumed = past.entry
        self._last = past.entry or Entry(0, 0, _NOTHING, 0, 0)
        self._present = _whole_lines_after(out, self._last.out)
        self.progress = Progress(self._last.end, self._last.routed, self._last.failed)
        if self._present < 0 or (self._last.done and self._present):
            raise _changed(path)

    def remaining(self, source: Iterator[Chunk]) -> Iterator[Chunk]:
        """The chunks of ``source`` whose records are not all written.

        Raises:
            ResumeRefused: the input is not the one that the file was begun with.
        """
        if self._resumed:
            chunk = self._last_chunk(source)
            if self._resumed.done and next(source, None):
                raise self._other_input()
            if chunk and not self._resumed.done:
                yield chunk
        yield from source

    def write(self, chunk: Chunk, routed: Routed) -> None:
        """Append the records of the next chunk; those that are there already stay as they are.

        Raises:
            ResumeRefused: what computed them is not what computed those before.
            FolderUnavailable: they cannot be written.
        """
        if self._present > len(routed.records):
            raise _changed(self.path)
        missing = "".join(f"{record}\n" for record in routed.records[self._present :]).encode()
        with _writing(self.path):
            self._check_computer(routed.by)
            if self._resumed:
                self._resumed = None
            else:
                self._note(chunk.end, chunk.sha256)
            _append(self._out, missing)
        self._present = 0
        self.progress = self.progress.after(chunk, routed)

    def finish(self) -> None:
        """Say that all is written.

        Raises:
            FolderUnavailable: that cannot be written.
        """
        if not self._last.done:
            with _writing(self.path):
                self._note(self._last.end, self._last.sha256, done=True)

    def _last_chunk(self, source: Iterator[Chunk]) -> Chunk | None:
        """The chunk with which the last entry ends, once the input is seen to be the same up to there."""
        end, sha256 = self._last.end, self._last.sha256
        if not end:
            return None
        chunk = next((chunk for chunk in source if chunk.end >= end), None)
        if chunk is None or (chunk.end, chunk.sha256) != (end, sha256):
            raise self._other_input()
        return chunk

    def _note(self, end: int, sha256: str, done: bool = False) -> None:
        size = os.fstat(self._out.fileno()).st_size
        self._last = Entry(size, end, sha256, self.progress.routed, self.progress.failed, done)
        _append(self._ledger, entry_line(self._last))

    def _check_computer(self, by: Mapping[str, Any]) -> None:
        if self._by is None:
            _append(self._ledger, line_of("by", by))
            self._by = by
        if differences := _differences(self._by, by):
            raise ResumeRefused(f"{self.path} was begun with another router: {differences}; choose another file")

    def _other_input(self) -> ResumeRefused:
        return ResumeRefused(
            f"{self.path} was begun with another input: the first {self._last.end} bytes are not the same; "
            "choose another file"
            if not self._last.done
            else f"{self.path} is complete, and was made from another input; choose another file"
        )


def _refuse_occupied(path: Path, *, resume: bool, force: bool) -> None:
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no regular file: choose another")
    if path.exists() and not (resume or force):
        raise OutputExists(f"{path} exists: go on with it, replace it, or choose another file")
    if path.exists() and not force and not _ledger_of(path).is_file():
        raise ResumeRefused(
            f"{path} has no ledger beside it ({_ledger_of(path).name}), so nobody knows what it was made from: "
            "replace it, or choose another file"
        )


def _found(path: Path, ledger: FileIO, question: Question) -> Past:
    """What is there, which is to go on; the ledger ends with the last entry that counts."""
    ledger.seek(0)
    try:
        past = read_ledger(ledger, path.stat().st_size)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ResumeRefused(f"{_ledger_of(path)} is no ledger ({bounded(str(error), 200)}): replace {path}") from None
    if past is None:
        raise ResumeRefused(f"{_ledger_of(path)} is empty, so nobody knows what {path} was made from: replace it")
    if differences := _differences(past.asked, _asked(question)):
        raise ResumeRefused(f"{path} was begun with another question: {differences}; choose another file")
    ledger.truncate(past.length)
    return past


def _begun(ledger: FileIO, question: Question) -> Past:
    past = Past(_asked(question), secrets.randbits(32))
    ledger.truncate(0)
    _append(ledger, line_of("batch", {"asked": past.asked, "seed": past.seed}))
    return past


def _asked(question: Question) -> dict[str, Any]:
    return question.to_dict() | {"program": version("trinity-mlx"), "chunk": [LINES, BYTES]}


def _whole_lines_after(out: FileIO, start: int) -> int:
    """How many whole lines stand behind ``start``; what follows them goes. -1 where no line begins at ``start``."""
    out.seek(max(start - 1, 0))
    if start and out.read(1) != b"\n":
        return -1
    count, position, end = 0, start, start
    while block := out.read(_BLOCK):
        count += block.count(b"\n")
        end = position + block.rindex(b"\n") + 1 if b"\n" in block else end
        position += len(block)
    out.truncate(end)
    return count


def _append(file: FileIO, data: bytes) -> None:
    """Add ``data``; a write is cut short only where the disk is full, and the next one then says so."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FolderUnavailable(f"{path} cannot be written: {error.strerror or error}") from None


def _lock(ledger: FileIO, path: Path) -> None:
    try:
        fcntl.flock(ledger.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FolderUnavailable(f"{path} is being written by another process") from None


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What changed, in words; empty where nothing did."""
    keys = [*before, *(key for key in now if key not in before)]
    changed = [
        f"{key} was {bounded(str(before.get(key)), 80)} and is {bounded(str(now.get(key)), 80)}"
        for key in keys
        if before.get(key) != now.get(key)
    ]
    return ", ".join(changed)


def _changed(path: Path) -> ResumeRefused:
    return ResumeRefused(f"{path} has changed since it was written: replace it, or choose another file")


def _ledger_of(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)

"""Fetching what a pin names: resumed where it broke off, verified before anything carries its final name.

A file grows under ``<destination>/.fetch/<sha256>.part`` and is renamed to its place when its size and hash are the
pinned ones, so what lies under a final name is whole and right, whenever a process was killed. A lock beside it lets
one process at a time work in a destination; the second then finds everything there.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from ..contracts.errors import FileMismatch, FolderUnavailable, HomeUnavailable
from ..files.hashing import FileHashes
from .addresses import shown
from .homes import Homes, Interruption
from .pins import WORK_FOLDER, Pin, PinnedFile, matches


class Status(StrEnum):
    """What fetching a file took."""

    PRESENT = "present"
    ADOPTED = "adopted"
    """Linked or copied from another place on this machine."""
    FETCHED = "fetched"
    RESUMED = "resumed"


@dataclass(frozen=True)
class Fetched:
    """A file that is now in place and verified; ``size`` in bytes."""

    path: str
    size: int
    sha256: str
    status: Status


@dataclass(frozen=True)
class Patience:
    """When to try again and when to give up; times in seconds.

    ``attempts`` counts failures in a row without a new byte; ``total_s`` bounds one file, waits included.
    """

    attempts: int = 6
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0
    total_s: float = 6 * 3600.0


@dataclass(frozen=True)
class Listener:
    """Who is told what happens: ``advance`` with a file and its bytes so far, ``note`` with a line for people."""

    advance: Callable[[PinnedFile, int], None] = lambda file, done: None
    note: Callable[[str], None] = lambda text: None


def fetch(
    pin: Pin,
    folder: Path,
    homes: Homes,
    *,
    hashes: FileHashes | None = None,
    shelf: Mapping[str, Path] | None = None,
    patience: Patience | None = None,
    listener: Listener | None = None,
) -> list[Fetched]:
    """Bring every file of ``pin`` into ``folder``; one that is there and right is left alone.

    Args:
        pin: what to fetch.
        folder: the destination; made where it is missing.
        homes: opens the files' homes.
        hashes: remembers hashes of large files.
        shelf: files on this machine by sha256, taken instead of a download where they hold.
        patience: retries and time limits.
        listener: is told of progress.

    Raises:
        FileMismatch: a home gives other bytes than the pinned ones.
        ArtifactNotFound, HomeUnavailable: a home does not have a file, refuses, or cannot be reached.
        FolderUnavailable: the destination cannot be written to, has no room, or a file would leave it.
    """
    job = _Job(folder, homes, hashes or FileHashes(), shelf or {}, patience or Patience(), listener or Listener())
    with _writing(folder), job.locked():
        _require_room(pin, job)
        return [job.bring(file) for file in pin.files]


@dataclass(frozen=True)
class _Job:
    """One fetch into one destination."""

    folder: Path
    homes: Homes
    hashes: FileHashes
    shelf: Mapping[str, Path]
    patience: Patience
    listener: Listener

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the destination alone; wait for another process, as long as a file may take."""
        work = self.folder / WORK_FOLDER
        work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(work / "lock")
        self._acquire(lock)
        try:
            yield
        finally:
            lock.release()

    def _acquire(self, lock: FileLock) -> None:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.listener.note(f"another process fetches into {self.folder}; waiting for it")
            try:
                lock.acquire(timeout=self.patience.total_s)
            except Timeout:
                raise FolderUnavailable(f"{self.folder} is still in use by another process: try again later") from None

    def bring(self, file: PinnedFile) -> Fetched:
        """See to it that ``file`` is in its place."""
        target = self._target(file)
        if self.holds(file):
            return self._done(file, target, Status.PRESENT)
        work = self.folder / WORK_FOLDER
        adopted, part = work / f"{file.sha256}.adopted", work / f"{file.sha256}.part"
        status = Status.ADOPTED if self._adopt(file, adopted) else self._download(file, part)
        target.parent.mkdir(parents=True, exist_ok=True)
        (adopted if status is Status.ADOPTED else part).replace(target)
        part.unlink(missing_ok=True)
        return self._done(file, target, status)

    def holds(self, file: PinnedFile) -> bool:
        """True if the pinned bytes are in their place already."""
        return matches(self.folder / file.path, file, self.hashes)

    def _done(self, file: PinnedFile, target: Path, status: Status) -> Fetched:
        size = target.stat().st_size
        self.listener.advance(file, size)
        return Fetched(file.path, size, file.sha256, status)

    def _target(self, file: PinnedFile) -> Path:
        target = self.folder / file.path
        if not target.resolve().is_relative_to(self.folder.resolve()):
            raise FolderUnavailable(
                f"{target} is a link that leaves {self.folder}: remove it, or choose another folder"
            )
        return target

    def _adopt(self, file: PinnedFile, path: Path) -> bool:
        """Take the file from this machine where that has it: a second name for the same bytes, or else a copy.

        It never takes the name under which a download grows, since writing there would change both.
        """
        for source in filter(None, (self.shelf.get(file.sha256), self.homes.nearby(file.home))):
            if matches(source, file, self.hashes):
                path.unlink(missing_ok=True)
                try:
                    os.link(source, path)
                except OSError:
                    shutil.copyfile(source, path)
                if matches(path, file, FileHashes()):
                    return True
        path.unlink(missing_ok=True)
        return False

    def _download(self, file: PinnedFile, path: Path) -> Status:
        """Fill ``path`` with the pinned bytes; what an earlier run left there is carried on with where it is right."""
        with _Part(path) as part:
            if part.size > file.size:
                part.restart()
            self._transfer(file, part)
            if part.digest != file.sha256 and part.pieced:
                self.listener.note(f"{file.path}: its parts do not make the pinned file; starting over")
                part.restart()
                self._transfer(file, part)
            if part.digest == file.sha256:
                part.save()
                return Status.RESUMED if part.kept else Status.FETCHED
        path.unlink()
        raise FileMismatch(
            f"{file.path} from {shown(file.home)} has sha256 {part.digest}, and the pin says {file.sha256}: "
            "the bytes were thrown away; the home has changed, or something on the way alters them"
        )

    def _transfer(self, file: PinnedFile, part: _Part) -> None:
        """Read from the home until the file has its size, through as many interruptions as patience allows."""
        clock = _Clock(file, self.patience, self.listener)
        while part.size < file.size:
            try:
                self._read_once(file, part, clock)
            except Interruption as error:
                clock.wait_after(error, part.size)

    def _read_once(self, file: PinnedFile, part: _Part, clock: _Clock) -> None:
        with self.homes.open(file.home, part.size) as stream:
            if stream.total is not None and stream.total != file.size:
                raise _wrong_size(file, f"{stream.total} bytes")
            if stream.start != part.size:
                part.restart()
            if stream.start > part.size:
                raise Interruption(f"{shown(file.home)} began at byte {stream.start}, which was not asked for")
            part.pieced = part.size > 0
            for chunk in stream.chunks:
                if part.size + len(chunk) > file.size:
                    part.restart()
                    raise _wrong_size(file, f"more than {file.size} bytes")
                part.append(chunk)
                self.listener.advance(file, part.size)
                clock.check()
        if part.size < file.size:
            raise Interruption(f"{shown(file.home)} ended after {part.size} of {file.size} bytes")


class _Part:
    """A file under way: its bytes on the disk and their hash so far. A context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b")
        self._file.seek(0)
        self._hash = hashlib.file_digest(self._file, "sha256")
        self.size = self._file.seek(0, os.SEEK_END)
        self.kept = self.pieced = self.size > 0
        """Whether bytes of an earlier run are in use, and whether the bytes come from more than one reading."""

    def __enter__(self) -> _Part:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def digest(self) -> str:
        """Lower-case sha256 of the bytes so far."""
        return self._hash.hexdigest()

    def append(self, chunk: bytes) -> None:
        """Add bytes at the end."""
        self._file.write(chunk)
        self._hash.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        """Throw everything away."""
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.size = 0
        self.kept = self.pieced = False

    def save(self) -> None:
        """Have the bytes on the disk, not on their way there."""
        self._file.flush()
        os.fsync(self._file.fileno())


class _Clock:
    """Counts failures and time for one file, and ends what leads nowhere."""

    def __init__(self, file: PinnedFile, patience: Patience, listener: Listener) -> None:
        self._file, self._patience, self._listener = file, patience, listener
        self._deadline = time.monotonic() + patience.total_s
        self._failures = 0
        self._furthest = 0

    def check(self) -> None:
        """Give up if the time for this file is over."""
        if time.monotonic() > self._deadline:
            raise HomeUnavailable(
                f"{self._file.path} from {shown(self._file.home)} took longer than {self._patience.total_s:g} s: "
                "what came is kept; run this again to go on from there"
            )

    def wait_after(self, error: Interruption, size: int) -> None:
        """Sleep before another attempt, longer each time; give up after too many without a byte more than before."""
        self.check()
        self._failures = 1 if size > self._furthest else self._failures + 1
        self._furthest = max(self._furthest, size)
        if self._failures >= self._patience.attempts:
            raise HomeUnavailable(
                f"{self._file.path} cannot be had after {self._failures} attempts: {error}. "
                "What came is kept; check the network and run this again"
            )
        wait = self._patience.first_wait_s * 2 ** (self._failures - 1) * random.uniform(0.8, 1.2)
        wait = min(max(wait, error.retry_after or 0.0), self._patience.longest_wait_s)
        self._listener.note(f"{self._file.path}: {error}; trying again in {wait:.1f} s")
        time.sleep(min(wait, max(self._deadline - time.monotonic(), 0.0)))


def _require_room(pin: Pin, job: _Job) -> None:
    """Refuse before the first byte where the disk cannot take what is missing."""
    work = job.folder / WORK_FOLDER
    parts = {path.stem: path.stat().st_size for path in work.glob("*.part")}
    missing = [file for file in pin.files if file.sha256 not in job.shelf and not job.holds(file)]
    needed = sum(max(file.size - parts.get(file.sha256, 0), 0) for file in missing)
    free = shutil.disk_usage(job.folder).free
    if needed > free:
        raise FolderUnavailable(
            f"{pin.name} needs {needed / 1e6:.0f} MB more in {job.folder}, and {free / 1e6:.0f} MB are free: "
            "make room, or choose another folder"
        )


def _wrong_size(file: PinnedFile, actual: str) -> FileMismatch:
    return FileMismatch(
        f"{file.path} from {shown(file.home)} has {actual}, and the pin says {file.size} with sha256 {file.sha256}: "
        "the home has changed, or something on the way answers in its place"
    )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Trouble with the disk in words."""
    try:
        yield
    except OSError as error:
        raise FolderUnavailable(
            f"cannot write into {folder}: {error.strerror or error}; make room or rights there, or choose another"
        ) from None

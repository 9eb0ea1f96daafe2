"""Hashes that are remembered only as long as nothing says that the file may have changed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from trinity_mlx.files.hashing import FileHashes

from .. import builders


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights")
    return path


def later() -> int:
    """A clock by which every file has lain as it is for an hour."""
    return time.time_ns() + 3600 * 10**9


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def change(path: Path, content: bytes) -> None:
    """Write ``content`` with a time that differs from the last one."""
    before = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def plant(memory: Path, file: Path, digest: str) -> None:
    """Let ``memory`` claim ``digest`` for ``file`` as it is now."""
    FileHashes(memory, clock=later).sha256(file)
    memory.write_text(memory.read_text().replace(sha256(file.read_bytes()), digest))


@pytest.mark.parametrize("content", [b"", b"abc", b"\0" * 3_000_000])
def test_a_hash_is_the_sha256_of_the_bytes(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert FileHashes().sha256(file) == sha256(content)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileHashes().sha256(tmp_path / "gone")


def test_an_unchanged_file_is_not_read_again(file: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    plant(memory, file, "remembered")
    assert FileHashes(memory).sha256(file) == "remembered"
    assert FileHashes().sha256(file) == sha256(b"weights")


def test_a_memory_serves_every_way_to_name_a_file(file: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    plant(memory, file, "remembered")
    link = tmp_path / "link"
    link.symlink_to(file)
    assert FileHashes(memory).sha256(link) == "remembered"
    assert FileHashes(memory).sha256(tmp_path / "." / "weights.bin") == "remembered"


@pytest.mark.parametrize("content", [b"WEIGHTS", b"longer weights"])
def test_a_changed_file_is_hashed_again_and_remembered_anew(file: Path, tmp_path: Path, content: bytes) -> None:
    memory = tmp_path / "memory.json"
    hashes = FileHashes(memory, clock=later)
    hashes.sha256(file)
    change(file, content)
    assert hashes.sha256(file) == sha256(content)
    assert FileHashes(memory).sha256(file) == sha256(content)
    assert sha256(content) in memory.read_text()
    assert sha256(b"weights") not in memory.read_text()


def test_a_change_of_size_alone_is_noticed(file: Path) -> None:
    hashes = FileHashes()
    hashes.sha256(file)
    stamp = file.stat().st_mtime_ns
    file.write_bytes(b"weights and more")
    os.utime(file, ns=(stamp, stamp))
    assert hashes.sha256(file) == sha256(b"weights and more")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\xfa",
        b"{",
        b"null",
        b"[1, 2]",
        b"17",
        b'{"a": 1, "b": null, "c": {}}',
        pytest.param(b"[" * 100_000, id="deeply nested"),
    ],
)
def test_a_corrupt_memory_is_ignored_and_replaced(file: Path, tmp_path: Path, content: bytes) -> None:
    memory = tmp_path / "memory.json"
    memory.write_bytes(content)
    assert FileHashes(memory, clock=later).sha256(file) == sha256(b"weights")
    assert sha256(b"weights") in json.loads(memory.read_bytes())[str(file.resolve())]


@pytest.mark.parametrize("entry", [[], [None], [7], "text", 7, {}, [7, 7, None], [None, None, "x"]])
def test_a_corrupt_entry_is_ignored(file: Path, tmp_path: Path, entry: Any) -> None:
    memory = tmp_path / "memory.json"
    memory.write_text(json.dumps({str(file.resolve()): entry}))
    assert FileHashes(memory).sha256(file) == sha256(b"weights")


def test_a_memory_that_cannot_be_written_is_done_without(file: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("a file where a folder is needed")
    assert FileHashes(tmp_path / "plain" / "memory.json").sha256(file) == sha256(b"weights")
    assert FileHashes(tmp_path).sha256(file) == sha256(b"weights")


@pytest.mark.parametrize("rewrite", ["in place", "another file moved there"])
def test_a_change_that_keeps_size_and_time_of_modification_is_noticed(file: Path, tmp_path: Path, rewrite: str) -> None:
    memory = tmp_path / "memory.json"
    os.utime(file, ns=(0, 0))
    assert FileHashes(memory, clock=later).sha256(file) == sha256(b"weights")
    builders.until_clock_ticks(file)
    target = file if rewrite == "in place" else tmp_path / "other"
    target.write_bytes(b"WEIGHTS")
    os.utime(target, ns=(0, 0))
    target.replace(file)
    assert FileHashes(memory, clock=later).sha256(file) == sha256(b"WEIGHTS")


def test_what_is_remembered_is_not_believed_against_an_expectation(file: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    plant(memory, file, "remembered")
    hashes = FileHashes(memory, clock=later)
    assert hashes.sha256(file, expected="remembered") == "remembered"
    assert hashes.sha256(file, expected=sha256(b"weights")) == sha256(b"weights")
    assert FileHashes(memory).sha256(file) == sha256(b"weights")


@pytest.mark.parametrize(
    ("seconds", "remembered"),
    [(0, False), (2, False), (-3600, False), (3, True)],
    ids=["just written", "a tick ago", "written before a clock went back", "settled"],
)
def test_a_file_that_may_change_within_a_tick_of_the_clock_is_not_remembered(
    file: Path, tmp_path: Path, seconds: int, remembered: bool
) -> None:
    memory, written = tmp_path / "memory.json", file.stat().st_ctime_ns
    hashes = FileHashes(memory, clock=lambda: written + seconds * 10**9)
    assert hashes.sha256(file) == sha256(b"weights")
    assert memory.exists() == remembered


def test_two_processes_keep_what_the_other_has_remembered(file: Path, tmp_path: Path) -> None:
    memory, other = tmp_path / "memory.json", tmp_path / "other"
    other.write_bytes(b"other")
    one, another = FileHashes(memory, clock=later), FileHashes(memory, clock=later)
    one.sha256(file)
    another.sha256(other)
    assert set(json.loads(memory.read_bytes())) == {str(file.resolve()), str(other.resolve())}


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_an_os_error_at_once(tmp_path: Path, kind: str) -> None:
    with pytest.raises(OSError, match=r"regular file|directory"):
        FileHashes().sha256(odd_file(tmp_path, kind))


def odd_file(folder: Path, kind: str) -> Path:
    path = folder / kind
    if kind == "pipe":
        os.mkfifo(path)
    return {"pipe": path, "device": Path("/dev/zero"), "folder": folder}[kind]

"""Hashes that are remembered only as long as they hold, and files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.files.hashing import FileHashes, write_atomically


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights")
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def change(path: Path, content: bytes) -> None:
    """Write ``content`` with a time that differs from the last one."""
    before = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def plant(memory: Path, file: Path, digest: str) -> None:
    """Let ``memory`` claim ``digest`` for ``file`` as it is now."""
    FileHashes(memory).sha256(file)
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
    hashes = FileHashes(memory)
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
    assert FileHashes(memory).sha256(file) == sha256(b"weights")
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


@given(st.binary(max_size=300))
def test_what_was_written_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "made" / "on the way" / "file"
    write_atomically(path, content)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_content_and_leaves_nothing_behind(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"weights"
    assert list(file.parent.iterdir()) == [file]


def test_an_interrupted_rename_keeps_the_old_content_and_leaves_nothing_behind(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"weights"
    assert list(file.parent.iterdir()) == [file]


def test_content_that_is_no_bytes_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "file", "text")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_readers_see_the_old_file_until_the_new_one_is_whole(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    flush = os.fsync

    def watched(descriptor: int) -> None:
        seen.append(file.read_bytes())
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_atomically(file, b"new")
    assert seen == [b"weights"]
    assert file.read_bytes() == b"new"

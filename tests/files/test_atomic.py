"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.files.atomic import write_atomically

from .. import builders


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights")
    return path


@given(st.binary(max_size=300))
def test_what_was_written_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "made" / "on the way" / "file"
    write_atomically(path, content)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_content_and_leaves_nothing_behind(file: Path) -> None:
    with builders.no_file_over(1000), pytest.raises(OSError, match="File too large"):
        write_atomically(file, bytes(10_000))
    assert file.read_bytes() == b"weights"
    assert list(file.parent.iterdir()) == [file]


def test_a_rename_that_fails_keeps_what_was_there_and_leaves_nothing_behind(file: Path) -> None:
    with pytest.raises(OSError):
        write_atomically(file.parent, b"no file can take the place of a folder")
    assert file.read_bytes() == b"weights"
    assert list(file.parent.parent.glob(f".{file.parent.name}.*")) == []


def test_what_a_killed_process_left_goes_and_what_another_is_writing_stays(file: Path) -> None:
    left, new, other = (file.with_name(name) for name in (".weights.bin.0123abcd", ".weights.bin.4567cdef", ".other"))
    for path in (left, new, other):
        path.write_bytes(b"half")
    os.utime(left, times=(0, 0))
    os.utime(other, times=(0, 0))
    write_atomically(file, b"new")
    assert {path.name for path in file.parent.iterdir()} == {file.name, new.name, other.name}


def test_content_that_is_no_bytes_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "file", "text")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_readers_see_one_of_the_files_and_never_a_part(file: Path) -> None:
    contents = [bytes([number]) * 500_000 for number in range(20)]
    write_atomically(file, contents[0])
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(lambda: {file.read_bytes() for _ in range(50)})
        for content in cycle(contents):
            write_atomically(file, content)
            if reading.done():
                break
    assert reading.result() <= set(contents)

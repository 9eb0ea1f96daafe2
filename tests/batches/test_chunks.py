"""Inputs cut into chunks: the lines of the file however it is read, in bounded memory, with a hash of what was read."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.batches import chunks as room
from trinity_mlx.batches.chunks import Chunk, chunks
from trinity_mlx.batches.lines import LONGEST
from trinity_mlx.contracts.errors import InputFileError, UsageError

LINES = st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line), max_size=30)


class Trickle(io.BytesIO):
    """A file that gives a few bytes for each read, and cannot be asked whether it is ready."""

    def __init__(self, raw: bytes, sizes: list[int]) -> None:
        super().__init__(raw)
        self._sizes = sizes

    def read1(self, size: int | None = -1) -> bytes:
        return super().read1(self._sizes.pop(0) if self._sizes else 1)


class Endless(io.RawIOBase):
    """A file of so many equal lines that are made when they are read, and never lie anywhere."""

    def __init__(self, line: bytes, count: int) -> None:
        self._line = line
        self._left = count
        self.given = 0

    def read1(self, size: int) -> bytes:
        taken = min(self._left, max(size // len(self._line), 1))
        self._left -= taken
        self.given += taken * len(self._line)
        return self._line * taken


@given(LINES, st.integers(1, 5), st.lists(st.integers(1, 9), max_size=20), st.booleans())
def test_lines_are_those_of_the_file_however_it_is_read(
    lines: list[bytes], most: int, sizes: list[int], whole: bool
) -> None:
    raw = b"\n".join(lines)
    cut = list(chunks(Trickle(raw, sizes), "x", whole=whole, most=most))
    numbered = [(number, line) for chunk in cut for number, line in enumerate(chunk.lines, chunk.first)]
    assert [pair for pair in numbered if pair[1]] == [pair for pair in enumerate(lines, 1) if pair[1]]
    assert all(0 < len(chunk.lines) <= most for chunk in cut)
    for chunk in cut:
        assert chunk.sha256 == hashlib.sha256(raw[: chunk.end]).hexdigest()
    assert (cut[-1].end if cut else 0) == len(raw)


@given(LINES, st.integers(1, 5), st.lists(st.integers(1, 9), max_size=20), st.lists(st.integers(1, 9), max_size=20))
def test_whole_chunks_do_not_depend_on_how_the_input_comes(
    lines: list[bytes], most: int, one: list[int], other: list[int]
) -> None:
    def cut(sizes: list[int]) -> list[Chunk]:
        return list(chunks(Trickle(b"\n".join(lines), sizes), "x", whole=True, most=most))

    assert cut(one) == cut(other)


def test_blank_lines_are_counted_and_passed_over() -> None:
    [chunk] = chunks(io.BytesIO(b'\n"a"\n  \n\n"b"\n\n'), "x", whole=True)
    assert [line.number for line in chunk.parsed()] == [2, 5]


def test_a_chunk_is_full_where_lines_lie_ready() -> None:
    cut = list(chunks(io.BytesIO(b'"hi"\n' * 600), "x", whole=False))
    assert [len(chunk.lines) for chunk in cut] == [256, 256, 88]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    os.close(ends[1])


@pytest.mark.parametrize(("whole", "counts"), [(False, [3, 2]), (True, [5])])
def test_a_chunk_ends_where_a_read_would_wait_unless_it_is_to_be_whole(
    pipe: tuple[int, int], whole: bool, counts: list[int]
) -> None:
    with open(pipe[0], "rb", buffering=0) as file:  # noqa: PTH123
        os.write(pipe[1], b"1\n2\n3\n")
        cut = chunks(file, "x", whole=whole)
        seen = [len(next(cut).lines)] if not whole else []
        os.write(pipe[1], b"4\n5\n")
        os.dup2(os.open(os.devnull, os.O_RDONLY), pipe[1])
        assert seen + [len(chunk.lines) for chunk in cut] == counts


def test_heavy_lines_make_smaller_chunks() -> None:
    line = b"x" * (room.BYTES // 4) + b"\n"
    assert [len(chunk.lines) for chunk in chunks(io.BytesIO(line * 10), "x", whole=True)] == [4, 4, 2]


def test_no_more_is_read_than_a_chunk_and_a_block_ahead_of_what_was_asked_for() -> None:
    file = Endless(b'{"prompt": "What is 17 + 25?"}\n', 200_000)
    ahead = [file.given - chunk.end for chunk in chunks(file, "x", whole=True)]  # type: ignore[arg-type]
    assert len(ahead) == 200_000 // room.LINES + 1
    assert max(ahead) <= 1 << 20


def test_a_line_without_end_is_not_kept_and_the_rest_goes_on() -> None:
    file = Endless(b"x" * (1 << 20), (LONGEST >> 20) + 20)
    [chunk] = chunks(file, "x", whole=True)  # type: ignore[arg-type]
    assert LONGEST < len(chunk.lines[0]) <= LONGEST + (1 << 20)
    assert chunk.end == file.given
    [line] = chunk.parsed()
    assert isinstance(line.transcript, UsageError)
    assert "more than" in str(line.transcript)


def test_a_file_that_fails_is_named() -> None:
    class Failing(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(InputFileError, match="the input cannot be read: Input/output error"):
        list(chunks(Failing(), "the input", whole=True))

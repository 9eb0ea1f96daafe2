"""Batches of ``trinity-mlx route``: one line never ends the rest, ids come back as they came, answers come at once."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.cli import main
from trinity_mlx.cli.batch import BatchLine, read_batch

LINES = st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line), max_size=30)


class Trickle(io.BytesIO):
    """A file that gives a few bytes for each read, and cannot be asked whether it is ready."""

    def __init__(self, raw: bytes, sizes: list[int]) -> None:
        super().__init__(raw)
        self._sizes = sizes

    def read1(self, size: int | None = -1) -> bytes:
        return super().read1(self._sizes.pop(0) if self._sizes else 1)


def route_lines(*lines: str) -> list[dict[str, Any]]:
    arguments = ["route", "--batch", "-", "--artifact", "nano", "--profile", "mlx", "--json"]
    result = CliRunner().invoke(main, arguments, input="\n".join(lines))
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_an_id_that_is_no_text_does_not_end_the_batch() -> None:
    records = route_lines('{"prompt":"one"}', '{"id":"\\ud800","prompt":"two"}', '{"prompt":"three"}')
    assert [record["line"] for record in records] == [1, 2, 3]
    assert records[1]["id"] == "\ud800"
    assert all("agent" in record for record in records)


@pytest.mark.parametrize(
    "identity", ["5", '"5"', "-1.5", "true", "false", "null", '""', "0", "123456789012345678901234567890", '"\\u0000"']
)
def test_an_id_comes_back_as_it_came(identity: str) -> None:
    [good, bad] = route_lines(f'{{"id": {identity}, "prompt": "hi"}}', f'{{"id": {identity}, "prompt": 5}}')
    for record in (good, bad):
        assert repr(record["id"]) == repr(json.loads(identity))
    assert "error" in bad


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        ('{"id": NaN, "prompt": "hi"}', "NaN"),
        ('{"id": 1e999, "prompt": "hi"}', "1e999"),
        ('{"id": [1], "prompt": "hi"}', "an id is"),
        ('{"id": {}, "prompt": "hi"}', "an id is"),
        ('{"prompt": "hi", "prompt": "ho"}', "twice"),
        ('{"prompt": "hi", "messages": []}', "beside"),
        ('{"messages": "text"}', "must be a list"),
        ('{"prompt": ["hi"]}', "must be a text"),
        ('[{"role": "user", "role": "system", "content": "x"}]', "twice"),
        ("5", "list of"),
        ('{"role": "' + "x" * 1_000_000 + '"}', "no messages"),
        ('[{"role": "' + "x" * 1_000_000 + '", "content": "x"}]', "unknown role"),
    ],
)
def test_a_line_that_cannot_be_used_gives_a_record_that_says_why(line: str, fragment: str) -> None:
    [bad, good] = route_lines(line, '"hi"')
    assert fragment in bad["error"]["message"]
    assert len(bad["error"]["message"]) < 1200
    assert "agent" in good


@given(LINES, st.integers(1, 5), st.lists(st.integers(1, 9), max_size=20))
def test_lines_are_those_of_the_file_however_it_is_read(lines: list[bytes], most: int, sizes: list[int]) -> None:
    windows = list(read_batch(Trickle(b"\n".join(lines), sizes), "x", most))
    expected = [(number, len(line)) for number, line in enumerate(lines, start=1) if line.strip()]
    found: list[BatchLine] = [line for window in windows for line in window]
    assert [(line.number, line.nbytes) for line in found] == expected
    assert all(0 < len(window) <= most for window in windows)


def test_a_window_is_full_where_lines_lie_ready() -> None:
    windows = list(read_batch(io.BytesIO(b'"hi"\n' * 600), "x", 256))
    assert [len(window) for window in windows] == [256, 256, 88]


def test_a_program_that_waits_for_each_answer_gets_it() -> None:
    command = [sys.executable, "-m", "trinity_mlx.cli", "route", "--batch", "-", "--artifact", "nano", "--json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin
        assert child.stdout
        for number in range(3):
            child.stdin.write(json.dumps({"id": number, "prompt": f"What is {number} + 1?"}) + "\n")
            child.stdin.flush()
            assert json.loads(child.stdout.readline())["id"] == number
        child.stdin.close()
        assert child.wait() == 0

"""Files of records: broken off at any byte and resumed, they end as if nothing had happened, or a line says why not."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trinity_mlx.batches.chunks import LINES
from trinity_mlx.batches.job import write_batch
from trinity_mlx.batches.output import SUFFIX, Progress, open_output
from trinity_mlx.batches.records import Question
from trinity_mlx.contracts.errors import FolderUnavailable, OutputExists, ResumeRefused, UsageError
from trinity_mlx.contracts.routing import Selection, SelectionMode

from .echo import Echo

INPUT = b"".join(b"\n" if number % 50 == 7 else f"line {number}\n".encode() for number in range(3 * LINES + 40))
DRAWING = Question(Selection(SelectionMode.SAMPLE))


def write(
    out: Path, raw: bytes = INPUT, engine: Echo | None = None, question: Question | None = None, **how: bool
) -> Progress:
    asked = {"resume": False, "force": False} | how
    *_, last = write_batch(io.BytesIO(raw), "the input", out, engine or Echo(), question or Question(), **asked)
    return last


def ledger_of(out: Path) -> Path:
    return out.with_name(out.name + SUFFIX)


def after_kills(records: bytes, ledger: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """Every state that a killed process can leave, as (ledger, records), in the order of the writes."""
    lines = ledger.splitlines(keepends=True)
    begins = [json.loads(line).get("entry", {"out": 0})["out"] for line in lines] + [len(records)]
    for number, line in enumerate(lines):
        before = b"".join(lines[:number])
        if number == 0:
            yield b"", None
            yield line, None
        else:
            yield before + line[: len(line) // 2], records[: begins[number]]
        for size in {begins[number], begins[number + 1], *range(begins[number], begins[number + 1], 997)}:
            yield before + line, records[:size]
            yield before + line, records[: max(size - 1, begins[number])]


@pytest.mark.parametrize("raw", [INPUT, INPUT.rstrip(), b"one", b"", b"\n\n", b"\n" * 600 + b"last"])
def test_whatever_a_kill_leaves_is_completed(raw: bytes, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    write(whole, raw, question=DRAWING)
    expected, ledger = whole.read_bytes(), ledger_of(whole).read_bytes()
    seed = json.loads(ledger.splitlines()[0])["batch"]["seed"]
    out = tmp_path / "out"
    for left, records in after_kills(expected, ledger):
        ledger_of(out).write_bytes(left)
        out.unlink(missing_ok=True)
        if records is not None:
            out.write_bytes(records)
        write(out, raw, question=DRAWING if records is not None else with_seed(seed), resume=True)
        assert out.read_bytes() == expected


def with_seed(seed: int) -> Question:
    return replace(DRAWING, selection=replace(DRAWING.selection, seed=seed))


def test_what_was_complete_is_not_routed_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError):
        write(out, engine=Echo(fails_after=2))
    rest = Echo()
    assert write(out, engine=rest, resume=True).routed == sum(bool(line) for line in INPUT.split(b"\n"))
    assert rest.routed == [LINES + 1, 2 * LINES + 1, 3 * LINES + 1]
    nothing = Echo()
    write(out, engine=nothing, resume=True)
    assert nothing.routed == []


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3), max_size=5))
def test_errors_are_counted_once_however_often_it_is_broken_off(tmp_path_factory: Any, stops: list[int]) -> None:
    out = tmp_path_factory.mktemp("batch") / "out"
    raw = b"good\nbad\n" * 500
    for stop in stops:
        try:
            write(out, raw, Echo(fails_after=stop), resume=True)
        except RuntimeError:
            continue
    assert write(out, raw, resume=True) == Progress(len(raw), 1000, 500)


def test_what_fails_before_anything_is_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        write(tmp_path / "out", engine=Echo(fails_after=0))
    assert list(tmp_path.iterdir()) == []


def test_resume_where_nothing_is_begins(tmp_path: Path) -> None:
    assert write(tmp_path / "out", b"one\n", resume=True).routed == 1


def test_something_that_is_there_is_neither_overwritten_nor_believed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("mine\n")
    with pytest.raises(OutputExists, match="exists"):
        write(out)
    with pytest.raises(ResumeRefused, match="no ledger beside it"):
        write(out, resume=True)
    assert out.read_text() == "mine\n"
    assert not ledger_of(out).exists()
    write(out, force=True)
    assert out.read_text() != "mine\n"


@pytest.mark.parametrize("kind", ["folder", "device"])
def test_what_is_no_regular_file_is_left_alone(kind: str, tmp_path: Path) -> None:
    place = tmp_path if kind == "folder" else Path(os.devnull)
    with pytest.raises(UsageError, match="no regular file"):
        write(place, force=True)


def broken_off(tmp_path: Path, question: Question | None = None) -> Path:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError):
        write(out, engine=Echo(fails_after=2), question=question)
    return out


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"raw": INPUT.replace(b"line 300", b"line x00")}, "another input"),
        ({"raw": INPUT[:-1].replace(b"\n", b"\r\n")}, "another input"),
        ({"raw": INPUT[:500]}, "another input"),
        ({"raw": b""}, "another input"),
        ({"engine": Echo({"artifact": "other"})}, "artifact was echo and is other"),
        ({"engine": Echo({"artifact": "echo", "profile": "cpu"})}, "profile was None and is cpu"),
        ({"question": Question(allow_slots=(1, 2))}, "allow_slots was None and is [1, 2]"),
        ({"question": Question(Selection(temperature=2.0))}, "temperature"),
        ({"question": DRAWING}, "sample"),
        ({"question": Question(Selection(seed=3))}, "seed was None and is 3"),
    ],
)
def test_what_was_begun_otherwise_is_not_gone_on_with(change: dict[str, Any], fragment: str, tmp_path: Path) -> None:
    out = broken_off(tmp_path)
    before = out.read_bytes()
    with pytest.raises(ResumeRefused) as refused:
        write(out, resume=True, **change)
    assert fragment in str(refused.value)
    assert "\n" not in str(refused.value)
    assert out.read_bytes() == before
    write(out, resume=True)


def test_an_input_that_differs_only_in_what_was_not_reached_goes_on(tmp_path: Path) -> None:
    out, other = broken_off(tmp_path), INPUT.replace(b"line 700", b"line x00")
    write(out, other, resume=True)
    write(tmp_path / "whole", other)
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("raw", [INPUT + b"more\n", INPUT[:-9], INPUT.replace(b"line 0\n", b"line x\n")])
def test_a_complete_file_is_none_of_another_input(raw: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out)
    with pytest.raises(ResumeRefused, match="another input"):
        write(out, raw, resume=True)


@pytest.mark.parametrize(
    "ledger", [b"nonsense\n", b"[]\n", b"{}\n", b'{"batch": {}}\n', b'{"entry": 5}\n', b"\xff\n", b""]
)
def test_a_ledger_that_is_none_is_told_and_nothing_is_lost(ledger: bytes, tmp_path: Path) -> None:
    out = broken_off(tmp_path)
    before = out.read_bytes()
    ledger_of(out).write_bytes(ledger)
    with pytest.raises(ResumeRefused, match="ledger"):
        write(out, resume=True)
    assert out.read_bytes() == before


def test_a_file_that_was_changed_by_hand_is_not_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out)
    out.write_bytes(out.read_bytes() + b"more\n")
    with pytest.raises(ResumeRefused, match="has changed"):
        write(out, resume=True)


def test_a_file_whose_lines_were_changed_by_hand_is_not_gone_on_with(tmp_path: Path) -> None:
    out = broken_off(tmp_path)
    out.write_bytes(b"x" * out.stat().st_size)
    with pytest.raises(ResumeRefused, match="has changed"):
        write(out, resume=True)


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_output(out, Question()), pytest.raises(FolderUnavailable, match="another process"):
        write(out, resume=True)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FolderUnavailable, match="cannot be written: No such file"):
        write(tmp_path / "none" / "out")


def test_chance_is_one_and_the_same_for_the_whole_file(tmp_path: Path) -> None:
    out = broken_off(tmp_path, DRAWING)
    write(out, question=DRAWING, resume=True)
    seeds = {json.loads(line)["seed"] for line in out.read_text().splitlines()}
    assert len(seeds) == 1
    assert seeds != {None}

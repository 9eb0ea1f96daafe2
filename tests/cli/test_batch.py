"""Batches of ``trinity-mlx route``: one line never ends the rest, ids come back as they came, answers come at once."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from trinity_mlx.cli import main


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


def batch(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["route", "--artifact", "nano", *map(str, arguments)])


def test_a_file_of_records_is_begun_resumed_and_replaced(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"one"\nno json\n{"id": "c", "prompt": "three"}\n')
    first = batch("--batch", source, "--out", out)
    assert (first.exit_code, first.stdout) == (0, "")
    assert "1 of 3 lines" in first.stderr
    expected = out.read_bytes()
    assert [json.loads(line)["line"] for line in expected.splitlines()] == [1, 2, 3]
    refused = batch("--batch", source, "--out", out)
    assert (refused.exit_code, "--resume" in refused.stderr) == (2, True)
    out.write_bytes(expected[:-10])
    ledger = out.with_name("out.jsonl.ledger")
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-1]))
    again = batch("--batch", source, "--out", out, "--resume")
    assert again.exit_code == 0
    assert "1 of 3 lines" in again.stderr
    assert out.read_bytes() == expected
    other = batch("--batch", source, "--out", out, "--resume", "--allow-slots", "1")
    assert (other.exit_code, other.stderr.count("\n")) == (2, 2)
    assert "try: --force" in other.stderr
    assert batch("--batch", source, "--out", out, "--force", "--allow-slots", "1").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["hi", "--out", "x"], "--out is about many transcripts"),
        (["hi", "--engine", "ray"], "--engine is about"),
        (["--batch", "x", "--engine", "ray", "--devices", "cpu"], "exclude each other"),
        (["--batch", "-", "--engine", "ray"], "give --batch a file"),
        (["--batch", __file__, "--engine", "ray", "--ray-address", "127.0.0.1:1"], "no Ray cluster at"),
        (["hi", "--devices", "cpu"], "--devices is about"),
        (["--batch", "x", "--devices", "cpu,,cpu"], "give names with commas"),
        (["--batch", "x", "--resume"], "--resume is about"),
        (["--batch", "x", "--force"], "--force is about"),
        (["--batch", "x", "--out", "y", "--resume", "--force"], "exclude each other"),
    ],
)
def test_options_that_make_no_sense_together_are_told(arguments: list[str], fragment: str) -> None:
    result = batch(*arguments)
    assert result.exit_code == (3 if "cluster at" in fragment else 2)
    assert fragment in result.stderr


def test_records_never_replace_their_own_input(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('"one"\n')
    result = batch("--batch", source, "--out", source, "--force")
    assert (result.exit_code, source.read_text()) == (2, '"one"\n')
    assert "input itself" in result.stderr


def test_people_get_a_line_a_record(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"id": "a\\tb", "prompt": "What is 17 + 25?"}\nno json\n{"id": null, "prompt": "hi"}\n')
    good, bad, other = batch("--batch", source).stdout.splitlines()
    assert good.startswith("a b\t")
    assert good.split("\t")[2:4] == ["mathematics", "Worker"]
    assert bad.startswith("2\terror\tline 2 is not JSON")
    assert other.startswith("null\t")


def test_two_processes_write_the_file_that_one_writes(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(f"What is {number} + 1?") + "\n" for number in range(300)))
    for name, how in (("one", []), ("two", ["--devices", "cpu,cpu"])):
        result = batch("--batch", source, "--out", tmp_path / name, "--profile", "cpu", *how)
        assert (result.exit_code, result.stderr) == (0, "")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_terminal_sees_lines_rate_and_what_remains(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('"hi"\n' * 20)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "trinity_mlx.cli", "route", "--batch", str(source), "--artifact", "nano"]
    shown = b""
    settings = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen([*command, "--profile", "mlx"], stdout=subprocess.DEVNULL, stderr=theirs, env=settings):
        os.close(theirs)
        with suppress(OSError):  # how a terminal ends
            while block := os.read(ours, 4096):
                shown += block
    os.close(ours)
    for part in ("20 lines", "lines/s", "100%"):
        assert part.encode() in shown

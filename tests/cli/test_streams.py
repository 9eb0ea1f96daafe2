"""Whatever the streams, the locale, the file or the moment of Ctrl-C: one line, and the right exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from pydantic_core import SchemaSerializer, core_schema

from trinity_mlx.cli import process
from trinity_mlx.cli.main import explain
from trinity_mlx.contracts.errors import UsageError

from ..forked import Case, Server, running

ROUTE = "route hi --artifact nano --profile mlx"
NANO = {"TRINITY_ARTIFACT": "nano", "TRINITY_PROFILE": "mlx"}


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``trinity-mlx`` with ``line`` behind it, by a shell, in a process of its own."""
    command = ["bash", "-c", f'"{sys.executable}" -m trinity_mlx.cli {line}']
    space = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, check=False, env=space, errors="surrogateescape")


def assert_told(ended: int | None, told: str, code: int, fragment: str) -> None:
    """The exit code, and one line that begins as every error does; advice may stand below it."""
    assert ended == code, told
    lines = [line for line in told.splitlines() if not line.startswith("try: ")]
    assert len(lines) == 1, told
    assert lines[0].startswith("error: ")
    assert fragment in lines[0]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as process:
        yield process


@pytest.mark.parametrize(
    ("line", "streams", "code", "fragment"),
    [
        pytest.param(ROUTE, {"stdout": "closed"}, 7, "standard output is closed", id="no standard output"),
        pytest.param(f"{ROUTE} --json", {"stdout": "closed"}, 7, "standard output is closed", id="none for JSON"),
        pytest.param("--help", {"stdout": "closed"}, 7, "standard output is closed", id="help without an output"),
        pytest.param("route - --artifact nano", {"stdin": "closed"}, 2, "standard input", id="no standard input"),
        pytest.param("route --batch -", {"stdin": "closed"}, 2, "standard input", id="a batch without standard input"),
        pytest.param("--help", {"stdout": "/dev/full"}, 7, "No space left", id="help on a full disk"),
        pytest.param("pool show demo --json", {"stdout": "/dev/full"}, 7, "No space left", id="JSON on a full disk"),
        pytest.param("route --messages /proc/self/mem", {}, 2, "/proc/self/mem", id="a file that fails when read"),
        pytest.param("route --batch /proc/self/mem", {}, 2, "/proc/self/mem", id="a batch that fails"),
        pytest.param("route --messages /", {}, 2, "/", id="a folder as messages"),
        pytest.param("export --base x --vector v --out o --name \udcff", {}, 2, "--name", id="a name that is no text"),
        pytest.param("export --base x --vector v --out o --agents a,\udcff", {}, 2, "--agents", id="labels of no text"),
        pytest.param("trace show ~nosuchuser/x", {}, 2, "nosuchuser", id="a stranger's trace"),
        pytest.param("fetch --pin ~nosuchuser/x", {}, 2, "nosuchuser", id="a stranger's pin"),
        pytest.param("nosuch", {}, 2, "nosuch", id="no such command"),
        pytest.param("route --nosuch", {}, 2, "--nosuch", id="no such option"),
        pytest.param("artifacts rm x", {}, 4, "x", id="nothing to delete"),
    ],
)
def test_one_line_and_an_exit_code(
    server: Server, tmp_path: Path, line: str, streams: dict[str, str], code: int, fragment: str
) -> None:
    places = {"stdin": "/dev/null", "stdout": "out", "stderr": "err"} | streams
    words, space = [os.fsencode(word).hex() for word in line.split()], {**os.environ, **NANO}
    ended = server.code_of(Case(words, space, encoding="utf-8", folder=str(tmp_path), interrupt_s=None, **places))
    assert_told(ended, (tmp_path / "err").read_text(encoding="utf-8"), code, fragment)


def test_a_process_of_its_own_ends_alike() -> None:
    ended = shell(f"{ROUTE} >&-")
    assert_told(ended.returncode, ended.stderr, 7, "standard output is closed")


def test_without_an_error_stream_the_answer_is_given() -> None:
    result = shell(f"{ROUTE} --json 2>&-")
    assert result.returncode == 0
    assert json.loads(result.stdout)["agent"]


@pytest.mark.parametrize(
    ("streams", "told"), [("", ("", "cancelled\n")), (">&-", ("", "cancelled\n")), ("2>&-", ("", ""))]
)
def test_a_cancellation_before_the_streams_are_ready_is_told_on_the_error_stream_alone(
    streams: str, told: tuple[str, str]
) -> None:
    text = "from trinity_mlx.cli.process import last_word, say; say('cancelled'); last_word(130)"
    command = ["bash", "-c", f'"{sys.executable}" -c "{text}" {streams}']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, (done.stdout, done.stderr)) == (130, told)


def test_a_stream_that_was_closed_is_not_written_to_by_a_file_of_ours(tmp_path: Path) -> None:
    shell(f"run --artifact nano --profile mlx --trace-out {tmp_path}/t.jsonl >&- 2>&-")
    assert all(line.startswith("{") for line in (tmp_path / "t.jsonl").read_text().splitlines())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_locale_shows_pictures_and_gives_json(server: Server, tmp_path: Path, encoding: str) -> None:
    places = {"stdin": "/dev/null", "stdout": "out", "stderr": "err", "folder": str(tmp_path)}
    words = [os.fsencode(word).hex() for word in f"{ROUTE} --explain".split()]
    assert server.code_of(Case(words, dict(os.environ), encoding=encoding, interrupt_s=None, **places)) == 0
    picture = (tmp_path / "out").read_text(encoding=encoding)
    assert ("█" if encoding == "utf-8" else "####") in picture
    assert "\\u2588" not in picture


def test_json_is_ascii_where_the_locale_is(tmp_path: Path) -> None:
    batch = tmp_path / "batch.jsonl"
    batch.write_text('{"id": "\\ud83d\\ude00", "prompt": "hi"}\n', encoding="utf-8")
    result = shell(f"route --batch {batch} --artifact nano --profile mlx --json", PYTHONIOENCODING="ascii")
    assert json.loads(result.stdout)["id"] == "😀"


def test_a_reader_that_goes_away_ends_the_command_without_a_word() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "trinity_mlx.cli", "pool", "show", "demo"]
    result = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.parametrize(("line", "code"), [("config show --json", 0), ("config --nosuch", 2)])
def test_handlers_of_exit_run_before_the_end_and_what_they_print_arrives(line: str, code: int) -> None:
    """The interpreter's own end, which would take all objects apart, is left out; nothing else is."""
    program = (
        "import atexit, sys, threading\n"
        "from trinity_mlx.cli import main\n"
        "atexit.register(print, 'handled', end='')\n"
        "threading.Thread(target=lambda: (threading.main_thread().join(), print('awaited', end=' '))).start()\n"
        f"sys.argv[1:] = {line.split()!r}\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == code
    assert result.stdout.endswith("awaited handled")


@pytest.mark.parametrize("moment", ["trinity_mlx.cli.main", "click", "trinity_mlx.cli.commands.route", "rich.table"])
def test_ctrl_c_while_something_is_being_imported(moment: str) -> None:
    """A finder sends the signal as soon as the module named is looked for."""
    code = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {moment!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from trinity_mlx.cli import main\n"
        f"main({ROUTE.split()!r})\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr, result.stdout) == (130, "cancelled\n", "")


@pytest.mark.parametrize(
    ("error", "code", "fragment"),
    [
        (MemoryError(), 7, "too little memory"),
        (OSError(28, "No space left on device", "/some/file"), 7, "/some/file: No space left on device"),
        (FileNotFoundError(2, "No such file or directory", b"/gone"), 7, "/gone: No such file"),
        (RuntimeError("CUDA out of memory"), 7, "RuntimeError: CUDA out of memory"),
        (KeyError("x"), 7, "KeyError: 'x'"),
        (RecursionError(), 7, "RecursionError"),
        (UsageError("no\nway\x1b[31m"), 2, "error: no way\\x1b[31m"),
        (UsageError("x" * 5_000_000), 2, "characters left out"),
        (KeyError("x" * 5_000_000), 7, "characters left out"),
    ],
)
def test_every_error_is_one_line(
    error: Exception, code: int, fragment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert process.outcome(fail, explain) == code
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ")
    assert fragment in first
    assert len(first) < 1200
    assert all(line.startswith("try: ") for line in rest)
    assert len(rest) <= 1


def test_a_ctrl_c_that_code_in_c_has_turned_into_something_else_is_one() -> None:
    def fail() -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            raise ImportError("initialization failed") from interrupt

    assert process.outcome(fail, explain) == 130


def test_a_ctrl_c_of_which_nothing_but_the_word_is_left_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    """As pydantic's core reports one that comes while it builds a model."""

    class Interrupted:
        def __repr__(self) -> str:
            raise KeyboardInterrupt

    def build() -> int:
        literal = core_schema.literal_schema([Interrupted()])
        SchemaSerializer(core_schema.list_schema(literal))
        return 0

    assert process.outcome(build, explain) == process.CANCELLED
    assert capsys.readouterr().err == "cancelled\n"


def test_a_ctrl_c_that_code_cannot_raise_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    class Deaf:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    def work() -> int:
        Deaf()
        time.sleep(60)
        return 0

    assert process.outcome(work, lambda error: None) == 130
    assert capsys.readouterr().err == "cancelled\n"


def test_a_ctrl_c_that_code_cannot_raise_is_not_lost_on_a_busy_machine_either() -> None:
    """What notices it may take longer than the moment after which it is asked for again."""

    class Deaf:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    def slowly(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename == process.__file__ and event == "line":
            time.sleep(0.06)
        return slowly

    def work() -> int:
        sys.settrace(slowly)
        try:
            Deaf()
        finally:
            sys.settrace(before)
        time.sleep(60)
        return 0

    before = sys.gettrace()
    assert process.outcome(work, lambda error: None) == 130


def test_a_traceback_is_shown_to_who_asks_for_it() -> None:
    result = shell("route --artifact no-such-bundle hi", TRINITY_DEBUG="1")
    assert result.returncode == 4
    assert "Traceback" in result.stderr
    assert "ArtifactNotFound" in result.stderr

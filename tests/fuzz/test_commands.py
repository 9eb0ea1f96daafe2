"""Every command with odd arguments, files, streams, settings and moments of Ctrl-C.

Whatever comes: no traceback, no failure that was not foreseen, one error line of a bounded length, an exit code that
is documented, and JSON that can be read where JSON was asked for.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import click
import pytest

from trinity_mlx.cli import main
from trinity_mlx.files.shipped import data_path

from ..forked import Case, Server, running

SHORT = 60
"""Cases in CI."""
CODES = {0, 2, 3, 4, 5, 6, 7, 130, 141, -signal.SIGINT}
"""The last is what a shell shows as 130: Ctrl-C when the command was done and its process about to end."""
GATES = {"eval", "certify", "compare-lanes", "parity", "trace"}
"""Commands that may exit with 1: something does not hold."""
MACHINE = 7
FILES: dict[str, bytes] = {
    "empty": b"",
    "junk": bytes(range(256)) * 8,
    "deep.json": b"[" * 50_000,
    "messages.json": b'[{"role": "user", "content": "What is 6 * 7?"}]',
    "surrogate.json": b'[{"role": "user", "content": "\\ud800"}]',
    "parts.json": b'[{"role": "user", "content": [{"type": "text", "text": "hi"}]}]',
    "batch.jsonl": b'"hi"\n{"id": 1, "prompt": "ho"}\nnonsense\n\n{"id": NaN}\n[]\n',
    "pool.toml": b'name = "p"\n[[agents]]\nslot = 0\nname = "a"\nprovider = "scripted"\n'
    b'extra = {replies = ["ACCEPT"]}\n',
    "odd.toml": b'name = "\\u001b[31m"\nagents = [{slot = 99999999999999999999}]\n',
    "object.json": b'{"schema": "x", "version": 1e999, "cases": null}',
    "head.safetensors": (8).to_bytes(8, "little") + b'{"a": 1}',
    "vector.npy": b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'}\n",
    "keys.txt": b"# who may ask\nfirst-key\n\n  second key  \n",
    "no-keys.txt": b"# nobody\n\n",
}
TEXTS = [
    "",
    " ",
    "-",
    "--",
    "~nosuchuser/x",
    "x" * 300,
    "x" * 5000,
    "é😀\u202e",
    "a,b",
    "0,1",
    "-1",
    "nan",
    "1e999",
    "9" * 20,
]
TEXTS += ["nano", "auto", "sakana", "demo", "cpu/nano", "mlx", "no/such@name", "../..", "a=b", "[red]"]
TEXTS += ["/", "/dev/null", "/proc/self/mem", "bundle"]
RAW = [b"\xff", b"\xed\xa0\x80", b"\x1b[31m", b"a\nb", b"%s{}"]
PLACES = {
    "stdin": ["/dev/null", "closed", "messages.json", "junk", "batch.jsonl", "/proc/self/mem"],
    "stdout": ["out", "out", "out", "out", "closed", "/dev/full", "reader gone"],
    "stderr": ["err", "err", "err", "err", "closed", "/dev/full", "reader gone"],
}
ENVIRONMENT: dict[str, list[str]] = {
    "TRINITY_PROFILE": ["mlx", "nosuch", ""],
    "TRINITY_ARTIFACT": ["nano", "x" * 300, "~nosuchuser"],
    "TRINITY_POOL": ["demo", "pool.toml"],
    "TRINITY_POLICY": ["published", "nosuch"],
    "TRINITY_LOG_FILE": ["log.jsonl", "/proc/nosuch/log", "/dev/full", "."],
    "TRINITY_LOG_LEVEL": ["debug", "nosuch"],
    "TRINITY_MLX_CACHE": ["cache", "/proc/nosuch", "empty", "/dev/null"],
    "TRINITY_MLX_CONFIG": ["config", "junk", "/proc/nosuch", "broken"],
    "COLUMNS": ["1", "0", "-5", "x", "10000"],
    "TERM": ["dumb", "", "xterm"],
    "HOME": ["/", "/nosuch", ""],
    "FORCE_COLOR": ["1"],
    "TRINITY_API_KEY": ["key", "", " ", "x" * 5000, "é😀", "\udcff"],
}
SERVE: dict[str, list[str]] = {
    "pools": ["demo", "pool.toml", "a=pool.toml", "a=demo", "=demo", "a=", "a b=demo", "odd.toml", "junk", "nosuch"],
    "options": ["max_turns=2", "max-turns=0", "seed=x", "=", "nosuch=1", "default_slot=99"],
    "policy": ["default", "published", "nosuch"],
    "artifact": ["nano", "bundle", "sakana", "nosuch"],
    "profile": ["mlx", "auto", "nosuch"],
    "window": ["auto", "none", "8,8", "0,0", "4096,4096", "-1,5", "8", "a,b", "9" * 400 + ",1"],
    "host": ["127.0.0.1", "localhost", "::1", "[::1]", "0.0.0.0", "::", "256.1.1.1", "127.1", "", ".", "x" * 70 + ".y"],
    "port": ["0", "1", "TAKEN", "65535", "65536", "-1"],
    "api_key_file": ["keys.txt", "no-keys.txt", "empty", "junk", "nosuch", "/dev/zero", "/proc/self/mem", "."],
    "names": ["home.example", "*", "", "é"],
    "origins": ["https://a.example", "*", "null", ""],
    "aliases": ["claude-*=trinity", "*=trinity-route", "a=nosuch", "a", "=", "*=*", "[=trinity"],
    "allowed": ["max_turns", "seed", "nosuch", "agent-selection", ""],
    "trace_out": ["trace.jsonl", "junk", "/dev/null", "/proc/nosuch/t", ".", "empty"],
}
"""What the options of ``serve`` are mostly given, by their names; ``TAKEN`` is a port that another program holds."""


Named: TypeAlias = tuple[tuple[str, ...], click.Command]
"""A command, and the words that name it."""


def told_of(case: Case) -> str:
    """A case in one line, to try it again."""
    words = [bytes.fromhex(each) for each in case.argv]
    return f"{words} <{case.stdin} >{case.stdout} 2>{case.stderr} {case.encoding} {case.interrupt_s} {odd_of(case)}"


def odd_of(case: Case) -> dict[str, str]:
    """The variables that a usual environment has not."""
    return {name: value for name, value in case.environment.items() if name in ENVIRONMENT}


def walk(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[Named]:
    """Every command below ``group`` with the words that name it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from walk(command, (*path, name))


COMMANDS = list(walk(main))
SERVING = [each for each in COMMANDS if each[0] == ("serve",)]
OTHERS = [each for each in COMMANDS if each not in SERVING]


def value(draw: random.Random, parameter: click.Parameter, hints: Mapping[str, list[str]]) -> bytes:
    """What stands for a parameter: mostly of its kind, at times anything."""
    kind = parameter.type
    if parameter.name in hints and draw.random() < 0.8:
        return os.fsencode(draw.choice(hints[parameter.name]))
    if isinstance(kind, click.Choice) and draw.random() < 0.8:
        return os.fsencode(str(draw.choice(list(kind.choices))))
    if isinstance(kind, click.types.IntParamType | click.types.FloatParamType) and draw.random() < 0.8:
        return str(draw.choice([0, 1, 2, 3, -1, 0.5, 10**30])).encode()
    pick = draw.random()
    if pick < 0.4:
        return os.fsencode(draw.choice(sorted(FILES)))
    return os.fsencode(draw.choice(TEXTS)) if pick < 0.9 else draw.choice(RAW)


def arguments(draw: random.Random, commands: Sequence[Named], hints: Mapping[str, list[str]]) -> list[bytes]:
    """One of the commands with some of its options and arguments."""
    path, command = draw.choice(commands)
    words: list[bytes] = [os.fsencode(each) for each in path]
    for parameter in command.params:
        wanted = draw.random() < (0.9 if parameter.required else 0.6 if isinstance(parameter, click.Argument) else 0.2)
        if not wanted:
            continue
        if isinstance(parameter, click.Argument):
            words.append(value(draw, parameter, hints))
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            words.append(os.fsencode(parameter.opts[0]))
        else:
            words += [os.fsencode(parameter.opts[0]), value(draw, parameter, hints)]
    if draw.random() < 0.05:
        words.insert(draw.randrange(len(words) + 1), draw.choice([b"--help", b"--nosuch", b"--version", b""]))
    return words


def served(draw: random.Random, port: int) -> list[bytes]:
    """``serve``, mostly to check and exit; what listens goes on until it is interrupted."""
    words = [word.replace(b"TAKEN", str(port).encode()) for word in arguments(draw, SERVING, SERVE)]
    return words if draw.random() < 0.35 else [*words, b"--check"]


def drawn(draw: random.Random, folder: Path, words: list[bytes]) -> Case:
    """A case; most have one thing that is odd beside the arguments."""
    odd, listens = draw.random() < 0.5, words[0] == b"serve" and b"--check" not in words
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    environment |= {"TRINITY_MLX_CONFIG": "config", "TRINITY_MLX_CACHE": "cache", "TRINITY_PROFILE": "mlx"}
    for name in draw.sample(sorted(ENVIRONMENT), draw.choice([0, 0, 1, 2])):
        environment[name] = draw.choice(ENVIRONMENT[name])
    streams = {name: draw.choice(places) if odd else places[0] for name, places in PLACES.items()}
    return Case(
        argv=[each.hex() for each in words],
        environment=environment,
        encoding=draw.choice(["utf-8", "utf-8", "ascii", "latin-1"]),
        folder=str(folder),
        interrupt_s=draw.random() * (20 if listens else 1) if listens or draw.random() < 0.1 else None,
        **streams,
    )


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as process:
        yield process


def new_folder(folder: Path) -> Path:
    """A folder with the files that arguments name."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "broken").mkdir(parents=True)
    (folder / "broken" / "config.toml").write_bytes(b"profile = [")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    shutil.copytree(data_path("fixtures", "artifacts", "nano"), folder / "bundle")
    return folder


def fault(case: Case, code: int | None) -> str | None:
    """What a case broke; None where all is as promised."""
    folder, words = Path(case.folder), [bytes.fromhex(each) for each in case.argv]
    told = (folder / "err").read_bytes() if case.stderr == "err" else b""
    lines = [line for line in told.splitlines() if line.startswith(b"error: ")]
    if code is None:
        return "no end within the limit"
    if code not in CODES and not (code == 1 and GATES & {os.fsdecode(word) for word in words}):
        return f"exit code {code}"
    if b"Traceback" in told or b"Exception ignored" in told:
        return "a traceback"
    if b"TRINITY_DEBUG" in told:
        return "a failure that was not foreseen"
    if len(lines) > 1 or any(len(line) > 5000 for line in lines):
        return f"{len(lines)} error lines, the longest of {max(map(len, lines))} bytes"
    if case.stderr == "err" and code in CODES - {0, 130, 141, -signal.SIGINT} and not told:
        return "a failure without a word"
    if code == MACHINE and case.stdout == "out" and not odd_of(case):
        return "the machine is blamed"
    return json_fault(folder / "out") if code == 0 and b"--json" in words and case.stdout == "out" else None


def json_fault(path: Path) -> str | None:
    """What is wrong with the JSON in a file, be it one object or one a line."""
    text = path.read_text(encoding="ascii", errors="ignore") if path.exists() else ""
    try:
        json.loads(text)
    except ValueError:
        try:
            for line in text.splitlines():
                json.loads(line)
        except ValueError as error:
            return None if "Usage:" in text or "version" in text[:30] else f"no JSON: {error}"
    return None


def test_no_command_breaks(server: Server, tmp_path: Path, seed: int, cases: int | None) -> None:
    faults = search(server, tmp_path, f"{seed}", cases or SHORT, lambda draw: arguments(draw, OTHERS, {}))
    assert not faults, "\n".join(faults)


def test_serve_does_not_break(server: Server, tmp_path: Path, seed: int, cases: int | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        faults = search(server, tmp_path, f"serve/{seed}", cases or SHORT, lambda draw: served(draw, port))
    assert not faults, "\n".join(faults)


def search(
    server: Server, place: Path, seed: str, cases: int, words: Callable[[random.Random], list[bytes]]
) -> list[str]:
    """What broke in ``cases`` commands."""
    faults = []
    for number in range(cases):
        draw = random.Random(f"{seed}/{number}")
        if number % 20 == 0:
            folder = new_folder(place / "work")
        for name in ("out", "err"):
            (folder / name).unlink(missing_ok=True)
        case = drawn(draw, folder, words(draw))
        if what := fault(case, server.code_of(case)):
            faults.append(f"case {number}: {what}: {told_of(case)}\n    {shown(folder / 'err')}")
    return faults


def shown(path: Path) -> str:
    """The end of what was told."""
    return path.read_text(encoding="utf-8", errors="replace")[-600:] if path.exists() else "nothing"

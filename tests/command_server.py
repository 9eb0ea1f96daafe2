"""Runs commands in forks of one process that has imported the command line: a case costs milliseconds, not a start.

Reads one JSON object a line: ``argv``, ``environment``, ``stdin``, ``stdout``, ``stderr`` (a path, ``closed``, or for
output ``reader gone``), ``encoding``, ``folder``, ``interrupt_s`` and ``limit_s``; answers with ``code``, None where
the limit ended it.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from importlib import import_module
from typing import Any

from trinity_mlx.cli import main
from trinity_mlx.cli.main import GROUPS
from trinity_mlx.cli.process import starting

MODULES = dict.fromkeys(verb.place.partition(":")[0] for group in GROUPS.values() for verb in group.values())
for name in MODULES:
    import_module(f"trinity_mlx.cli.commands.{name}")
for name in ("numpy", "pydantic", "rich.live", "rich.table", "tokenizers"):
    import_module(name)  # what nearly every case needs; no thread comes with it


def point(number: int, place: str, flags: int) -> None:
    """Have the file number ``number`` mean ``place``."""
    if place == "closed":
        os.close(number)
        return
    if place == "reader gone":
        read_end, target = os.pipe()
        os.close(read_end)
    else:
        target = os.open(place, flags, 0o600)
    os.dup2(target, number)
    os.close(target)


def stream(number: int, place: str, mode: str, encoding: str, errors: str) -> Any:
    """What the interpreter would have made of that number at its start."""
    if place == "closed":
        return None
    return io.TextIOWrapper(open(number, mode, closefd=False), encoding, errors=errors, line_buffering=number == 2)


def carry_out(case: dict[str, Any]) -> None:
    """The command, in this process."""
    os.chdir(case["folder"])
    os.environ.clear()
    os.environ.update(case["environment"])
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)):
        point(number, case[name], flags)
    point(2, case["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    sys.stdin = stream(0, case["stdin"], "rb", case["encoding"], "strict")
    sys.stdout = stream(1, case["stdout"], "wb", case["encoding"], "strict")
    sys.stderr = stream(2, case["stderr"], "wb", case["encoding"], "backslashreplace")
    arguments = [os.fsdecode(bytes.fromhex(each)) for each in case["argv"]]
    sys.argv = ["trinity-mlx", *arguments]
    with starting():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        main(prog_name="trinity-mlx")


def ended(child: int, case: dict[str, Any]) -> int | None:
    """The exit code; None where the limit ended it."""
    started, interrupt = time.monotonic(), case["interrupt_s"]
    while (elapsed := time.monotonic() - started) < case["limit_s"]:
        if interrupt is not None and elapsed >= interrupt:
            os.kill(child, signal.SIGINT)
            interrupt = None
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


for line in iter(sys.stdin.readline, ""):
    request = json.loads(line)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the command begins, which knows what to do then
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        carry_out(request)
    print(json.dumps({"code": ended(pid, request)}), flush=True)

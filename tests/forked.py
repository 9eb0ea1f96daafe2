"""Commands in forks of one process that has imported the command line; see ``command_server``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True)
class Case:
    """One command as ``command_server`` takes it: words in hexadecimal, and where its streams lead."""

    argv: list[str]
    environment: dict[str, str]
    stdin: str
    stdout: str
    stderr: str
    encoding: str
    folder: str
    interrupt_s: float | None
    limit_s: float = 300.0


class Server:
    """The process that runs cases."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.command_server"]
        root = Path(__file__).parents[1]
        self._process = subprocess.Popen(
            command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def code_of(self, case: Case) -> int | None:
        """The exit code of a case; None where its time ran out."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests
        assert answers
        requests.write(json.dumps(asdict(case)) + "\n")
        requests.flush()
        answer: dict[str, Any] = json.loads(answers.readline())
        return answer["code"]

    def close(self) -> None:
        """End it."""
        with self._process as process:
            pipe: IO[str] | None = process.stdin
            assert pipe
            pipe.close()


@contextmanager
def running() -> Iterator[Server]:
    """A server that ends when this is left."""
    server = Server()
    try:
        yield server
    finally:
        server.close()

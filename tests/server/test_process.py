"""The command and its process: what it says, what it refuses, and how it ends on a signal."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner, Result

from trinity_mlx.cli.main import main
from trinity_mlx.contracts.errors import EnvironmentUnavailable, InputFileError
from trinity_mlx.server.assembly import named_pools, parse_window, read_keys, secret_of
from trinity_mlx.server.auth import Keys
from trinity_mlx.server.process import listen
from trinity_mlx.server.routers import LEAST_WINDOW, measured_size, window_of
from trinity_mlx.tracing.reader import read_trace

from ..provider_server import Exchange, ProviderServer
from .serving import client as http

POOL = """
name = "slow"
[[agents]]
slot = 0
name = "only"
provider = "openai-compatible"
model = "fault:held"
base_url = "URL"
timeout_s = 3600
"""


class Held:
    """An endpoint whose answers wait until they are let go."""

    def __init__(self) -> None:
        self.asked = 0
        self.let_go = threading.Event()

    def until_asked(self, count: int) -> None:
        """Wait until ``count`` questions are here: whoever asked them has begun its stream by then."""
        ends = time.monotonic() + 300
        while self.asked < count:
            assert time.monotonic() < ends
            time.sleep(0.02)

    async def __call__(self, exchange: Exchange) -> None:
        self.asked += 1
        while not self.let_go.is_set():
            await asyncio.sleep(0.01)
        await exchange.reply("The answer is 42.")


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "trinity_mlx.cli", "serve", "--artifact", "nano", "--window", "512,1024", *options]


def finished(*options: str, **environment: str) -> Result:
    """The command in this process."""
    return CliRunner().invoke(main, command(*options)[3:], env=environment)


@contextmanager
def process(*options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The command on a free port, and its address once it has told it."""
    env = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    running = subprocess.Popen(
        command("--port", "0", *options), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert running.stdout is not None
        told = ""
        while "Ctrl-C" not in told:
            line = running.stdout.readline()
            assert line, told
            told += line
        address = re.search(r"http://\S+?:\d+", told)
        assert address is not None, told
        yield running, address[0], told
    finally:
        running.kill()
        running.communicate()


def get(address: str, path: str, **headers: str) -> httpx2.Response:
    with http(address, **headers) as client:
        return client.get(path)


def until_ready(address: str) -> None:
    ends = time.monotonic() + 300
    while get(address, "/ready").status_code != 200:
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def slow_pool(tmp_path: Path, held: Held) -> Iterator[tuple[str, ...]]:
    """Options for a pool that answers once ``held`` lets it."""
    place = tmp_path / "slow.toml"
    with ProviderServer(faults={"held": held}) as endpoint:
        place.write_text(POOL.replace("URL", endpoint.url))
        yield "--pool", str(place), "--live", "--quiet"


def test_check_validates_everything_and_ends() -> None:
    ended = finished("--check")
    assert ended.exit_code == 0, ended.stderr
    assert "the first 512 and the last 1024 tokens" in ended.stderr
    assert "everything is in order" in ended.stderr


@pytest.mark.parametrize(
    ("options", "environment", "code", "word"),
    [
        (("--host", "0.0.0.0"), {}, 2, "set a key"),
        (("--pool", "nowhere.toml"), {}, 2, "nowhere.toml"),
        (("--pool", "a=demo", "--pool", "a=demo"), {}, 2, "two pools"),
        (("--alias", "gpt=nowhere"), {}, 2, "nowhere"),
        (("--alias", "gpt"), {}, 2, "NAME=MODEL"),
        (("--option", "max_turns=none"), {}, 2, "max_turns"),
        (("--window", "9"), {}, 2, "window"),
        (("--default-slot", "70"), {}, 2, "default slot"),
        (("--api-key-file", "/nowhere/keys"), {}, 2, "keys"),
        (("--max-cost", "-1"), {}, 2, "cost"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(
    options: tuple[str, ...], environment: dict[str, str], code: int, word: str
) -> None:
    ended = finished("--check", *options, **environment)
    assert ended.exit_code == code, ended.stderr
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = finished("--port", str(taken.getsockname()[1]))
    assert ended.exit_code == 3
    assert "cannot listen on 127.0.0.1" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_the_greeting_names_a_key_by_its_variable_and_never_says_it() -> None:
    with process(TRINITY_API_KEY="sk-very-secret") as (running, address, told):
        assert get(address, "/v1/models").status_code == 401
        assert get(address, "/v1/models", authorization="Bearer sk-very-secret").status_code == 200
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=300)
    assert "sk-very-secret" not in told + out + err
    assert '"Authorization: Bearer $TRINITY_API_KEY"' in told
    assert "Codex" in told
    assert running.returncode == 0


def ask(address: str, seen: list[Any]) -> None:
    body = {"model": "trinity-route", "input": "Go.", "stream": True}
    gone = suppress(httpx2.HTTPError)  # as where the process is killed
    with gone, httpx2.stream("POST", f"{address}/v1/responses", json=body, timeout=300) as answer:
        seen.append([line for line in answer.iter_lines() if line.startswith("data: ")])


def open_streams(address: str, held: Held, count: int) -> tuple[list[threading.Thread], list[Any]]:
    """Streams of which each has said something, and waits for ``held``."""
    seen: list[Any] = []
    threads = [threading.Thread(target=ask, args=(address, seen)) for _ in range(count)]
    for thread in threads:
        thread.start()
    held.until_asked(count)
    return threads, seen


def last_event(lines: list[str]) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(lines[-1].removeprefix("data: "))
    return event


@pytest.mark.slow
@pytest.mark.parametrize(("grace", "expected"), [("300", "response.completed"), ("0", "response.failed")])
def test_a_signal_with_fifty_open_streams_loses_none(
    slow_pool: tuple[str, ...], held: Held, grace: str, expected: str
) -> None:
    with process(*slow_pool, "--grace", grace) as (running, address, _):
        until_ready(address)
        threads, seen = open_streams(address, held, 50)
        running.send_signal(signal.SIGTERM)
        if grace != "0":
            assert get(address, "/ready").json() == {"status": "draining"}
            held.let_go.set()
        for thread in threads:
            thread.join(300)
        running.communicate(timeout=300)
    assert [last_event(lines)["type"] for lines in seen] == [expected] * 50
    assert running.returncode == 0


@pytest.mark.slow
def test_a_second_signal_ends_at_once(slow_pool: tuple[str, ...], held: Held) -> None:
    with process(*slow_pool, "--grace", "3600") as (running, address, _):
        until_ready(address)
        open_streams(address, held, 1)
        running.send_signal(signal.SIGTERM)
        assert get(address, "/ready").json() == {"status": "draining"}
        with http(address) as client:
            refused = client.post("/v1/responses", json={"input": "Go."})
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=300)


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_traces_that_can_be_read(
    slow_pool: tuple[str, ...], held: Held, tmp_path: Path
) -> None:
    """A run's first events are in the file before anybody outside is asked."""
    trace = tmp_path / "runs.jsonl"
    with process(*slow_pool, "--trace-out", str(trace)) as (running, address, _):
        until_ready(address)
        threads, _ = open_streams(address, held, 10)
        running.kill()
        running.communicate()
    for thread in threads:
        thread.join(300)
    whole = read_trace(trace)
    assert 1 <= len(whole.runs) <= 10
    assert len(whole.torn) <= 1


def test_pools_have_the_names_that_they_are_given_or_those_of_their_files() -> None:
    assert named_pools(["coding=a.toml", "/x/home.toml", "demo"]) == {
        "coding": "a.toml",
        "home": "/x/home.toml",
        "demo": "demo",
    }


def test_keys_come_from_a_file_one_a_line(tmp_path: Path) -> None:
    place = tmp_path / "keys"
    place.write_text("# ours\n one \n\ntwo\n")
    assert read_keys(place) == ["one", "two"]
    assert secret_of(Keys(["one", "two"]).digests) == secret_of(Keys(["two", "one"]).digests)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no such device")
def test_keys_without_an_end_are_refused() -> None:
    with pytest.raises(InputFileError, match="it holds more than"):
        read_keys(Path("/dev/zero"))


@pytest.mark.parametrize("host", ["256.1.1.1", "é" * 70, "\udcff", "a..b", "::ffff:1.2.3"])
def test_a_host_that_is_none_is_said(host: str) -> None:
    with pytest.raises(EnvironmentUnavailable, match="cannot listen on"):
        listen(host, 0)


def test_a_window_is_two_numbers_or_none() -> None:
    assert parse_window("none") is None
    window = parse_window("512,1536")
    assert window is not None
    assert (window.head, window.tail) == (512, 1536)


@pytest.mark.parametrize(
    ("per_token", "square", "most", "expected"),
    [(1e-6, 0.0, 2048, 2048), (1e-3, 0.0, 32_768, 768), (1e-2, 0.0, 32_768, LEAST_WINDOW), (1e-5, 1e-7, 32_768, 3072)],
)
def test_the_window_is_what_a_second_reads(per_token: float, square: float, most: int, expected: int) -> None:
    def seconds_of(size: int) -> tuple[int, float]:
        return size, per_token * size + square * size * size

    size = measured_size(seconds_of, most)
    assert size == expected
    assert size == LEAST_WINDOW or sum(seconds_of(size)[1:]) <= 1.0
    window = window_of(size)
    assert window.size == size


def test_a_server_that_could_ask_nobody_to_release_an_answer_does_not_start() -> None:
    refused = finished("--option", "review=ask", "--check")
    assert refused.exit_code == 2
    assert "over HTTP nobody can be asked" in refused.stderr

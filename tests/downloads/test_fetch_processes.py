"""Fetches that are killed, and fetches that meet: the command itself, in processes of its own."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .. import file_server
from ..file_server import FileServer

CONTENT = random.Random(1).randbytes(2_000_000)
KILLS = 4


def write_pin(folder: Path, home: str) -> Path:
    def entry(path: str, content: bytes, home: str) -> dict[str, Any]:
        return {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "home": home}

    (folder / "config.json").write_bytes(b"{}")
    pin = {
        "schema": "trinity-mlx.pin",
        "version": 1,
        "name": "test",
        "summary": "made by a test",
        "files": [entry("vector", CONTENT, home), entry("base/config.json", b"{}", "config.json")],
        "router": {"base": {"id": "a/b", "revision": None, "folder": "base"}, "vector": "vector"},
    }
    path = folder / "pin.json"
    path.write_text(json.dumps(pin))
    return path


def start(folder: Path, pin: Path) -> subprocess.Popen[bytes]:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    }
    environment |= {"TRINITY_MLX_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf")}
    command = [sys.executable, "-m", "trinity_mlx.cli", "fetch", "--pin", str(pin), "--json"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()
    found: dict[str, Any] = json.loads(out)
    return found


def part_in(folder: Path) -> Path:
    """Where what has come of ``CONTENT`` lies."""
    return folder / "cache" / "fetched" / "test" / ".fetch" / f"{hashlib.sha256(CONTENT).hexdigest()}.part"


def size_of(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


@pytest.fixture
def server() -> Any:
    with file_server.running() as found:
        yield found


def test_a_fetch_that_is_killed_again_and_again_completes(server: FileServer, tmp_path: Path) -> None:
    pin = write_pin(tmp_path, server.add("/vector", CONTENT))
    folder, part = tmp_path / "cache" / "fetched" / "test", part_in(tmp_path)
    draw = random.Random(2)
    for _ in range(KILLS):
        reached = size_of(part) + draw.randrange(20_000, 120_000)
        server.script["/vector"] = [file_server.drip(10_000, 0.005, until=reached + 100_000)]
        process = start(tmp_path, pin)
        file_server.wait_for(lambda: size_of(part) >= reached)  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (folder / "vector").exists()
    server.script["/vector"] = [file_server.serve]
    statuses = {file["path"]: file["status"] for file in finish(start(tmp_path, pin))["files"]}
    assert statuses == {"vector": "resumed", "base/config.json": "fetched"}
    assert (folder / "vector").read_bytes() == CONTENT
    starts = [start for _, start in server.requests]
    assert starts == sorted(starts)
    assert len(starts) == KILLS + 1
    assert starts[-1] > 0


def test_two_fetches_into_one_folder_share_the_work(server: FileServer, tmp_path: Path) -> None:
    pin = write_pin(tmp_path, server.add("/vector", CONTENT, file_server.drip(100_000, 0.05)))
    first, second = start(tmp_path, pin), start(tmp_path, pin)
    statuses = sorted(found["files"][0]["status"] for found in (finish(first), finish(second)))
    assert statuses == ["fetched", "present"]
    assert server.requests == [("/vector", 0)]
    assert (tmp_path / "cache" / "fetched" / "test" / "vector").read_bytes() == CONTENT


def test_an_interrupt_from_the_keyboard_leaves_a_part_and_no_traceback(server: FileServer, tmp_path: Path) -> None:
    pin = write_pin(tmp_path, server.add("/vector", CONTENT, file_server.drip(10_000, 0.01, until=500_000)))
    process = start(tmp_path, pin)
    file_server.wait_for(lambda: size_of(part_in(tmp_path)) > 0)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert 0 < size_of(part_in(tmp_path)) <= 500_000
    assert b"Traceback" not in err

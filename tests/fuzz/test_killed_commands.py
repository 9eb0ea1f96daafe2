"""Commands that are killed at any moment: what they leave is nothing or whole, and doing it again succeeds."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from trinity_mlx.contracts.artifact import Bundle
from trinity_mlx.evaluation.lane import read_lane
from trinity_mlx.files.shipped import data_path

from ..evaluation_cases import suite_document, write_json
from ..publishing_hub import PublishingHub, running

COMMAND = [sys.executable, "-m", "trinity_mlx.cli"]
REQUESTS = 6
"""What one publication with a tag asks of the Hub."""
WHOLE = {"manifest.json", "adapter.safetensors", "router_head.safetensors", "README.md"}
SHORT = 4
"""Kills of one measurement in a short run."""
SLOWEST_S = 300.0


def published(hub: PublishingHub, bundle: Bundle, home: Path) -> int:
    """The exit code of a publication."""
    command = [*COMMAND, "publish", str(bundle.folder), "me/router", "--revision", "v1"]
    space, hub.client = os.environ | hub.environment(home), Future()
    with subprocess.Popen(command, env=space, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        hub.client.set_result(process.pid)
        return process.wait(SLOWEST_S)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(REQUESTS))
def test_a_publication_killed_at_any_request_is_nothing_or_whole(
    tiny_bundle: Bundle, tmp_path: Path, number: int, when: str
) -> None:
    with running() as hub:
        hub.kill = (number, when)
        assert published(hub, tiny_bundle, tmp_path) == -9
        assert hub.committed.keys() in (set(), WHOLE)
        assert not hub.tags or hub.committed
        hub.kill, is_done = None, bool(hub.tags)
        assert published(hub, tiny_bundle, tmp_path) == (2 if is_done else 0)  # a tag is never moved
        assert (hub.committed.keys(), hub.tags) == (WHOLE, ["v1"])
        assert hub.committed["manifest.json"] == (tiny_bundle.folder / "manifest.json").read_bytes()


def test_that_is_every_request(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with running() as hub:
        assert published(hub, tiny_bundle, tmp_path) == 0
        assert len(hub.calls) == REQUESTS


def certify(folder: Path) -> subprocess.Popen[bytes]:
    """A measurement with a fresh process of its own, in a new group of processes."""
    words = ["certify", "--artifact", "nano", "--profile", "mlx", "--suite", "suite.json", "--out", "lane.json"]
    return subprocess.Popen(
        [*COMMAND, *words, "--runs", "2", "--processes", "1"],
        cwd=folder,
        env=os.environ | {"TRINITY_MLX_CONFIG": str(folder / "config"), "TRINITY_MLX_CACHE": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def is_anybody_left(group: int) -> bool:
    """Whether a process of that group lives."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.timeout(3600)
def test_a_measurement_killed_at_any_moment_leaves_the_old_lane_or_the_new(
    tmp_path: Path, seed: int, cases: int | None, record_property: Callable[[str, object], None]
) -> None:
    write_json(tmp_path / "suite.json", suite_document())
    shutil.copy(data_path("fixtures", "runtime_profiles", "mlx", "nano.json"), tmp_path / "lane.json")
    old = read_lane(tmp_path / "lane.json")
    lane, draw, seen = tmp_path / "lane.json", random.Random(seed), Counter[str]()
    content, started = lane.read_bytes(), time.monotonic()
    with certify(tmp_path) as whole:
        assert whole.wait(SLOWEST_S) == 0
    usual_s = time.monotonic() - started
    for _ in range(cases or SHORT):
        lane.write_bytes(content)
        with certify(tmp_path) as process:
            time.sleep(draw.uniform(0.0, usual_s))
            process.kill()
        new = read_lane(lane)
        seen["old" if new == old else "new"] += 1
        assert new == old or len(new.cases) == 3
        ends = time.monotonic() + SLOWEST_S
        while is_anybody_left(process.pid) and time.monotonic() < ends:
            time.sleep(0.05)
        assert not is_anybody_left(process.pid), "a process that it had started goes on"
    record_property("left", json.dumps(seen))
    with certify(tmp_path) as again:
        assert again.wait(SLOWEST_S) == 0
    assert len(read_lane(lane).cases) == 3

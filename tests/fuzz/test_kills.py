"""Killed at any system call that writes: the old or the new is there, never nothing and never half; and it goes on."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trinity_mlx.contracts.artifact import Base, Bundle

from ..artifacts.test_published import adapted_weights, write_published
from ..builders import LABELS
from ..file_server import FileServer, running
from .dying import SCENARIOS

PROGRAM = Path(__file__).with_name("dying.py")
SHORT = 8
"""Kills of one piece of work in a short run."""


@pytest.fixture(scope="module")
def given(
    tmp_path_factory: pytest.TempPathFactory, tiny_base: Base, tiny_bundle: Bundle, tiny_head: np.ndarray
) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("given")
    np.save(folder / "vector.npy", np.random.default_rng(7).normal(0, 0.2, 19 * tiny_base.config.hidden_size))
    published = write_published(folder / "published", adapted_weights(tiny_base), tiny_head)
    with running() as server:
        yield {
            "base": str(tiny_base.folder),
            "bundle": str(tiny_bundle.folder),
            "vector": str(folder / "vector.npy"),
            "published": str(published),
            "tensors": [f"model.layers.1.{name}_proj.weight" for name in ("self_attn.q", "self_attn.k", "mlp.down")],
            "agents": LABELS,
            "pin": str(write_pin(folder, server)),
        }


def write_pin(folder: Path, server: FileServer) -> Path:
    contents = {"base/config.json": b"{}" * 300, "vector.npy": bytes(range(256)) * 40}
    files = [
        {
            "path": path,
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "home": server.add(f"/{path}", content),
        }
        for path, content in contents.items()
    ]
    router = {"base": {"id": "a/b", "revision": None, "folder": "base"}, "vector": "vector.npy"}
    pin = {"schema": "trinity-mlx.pin", "version": 1, "name": "mine", "summary": "", "files": files, "router": router}
    (folder / "pin.json").write_text(json.dumps(pin))
    return folder / "pin.json"


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_at_any_point_leaves_the_old_or_the_new(
    given: dict[str, Any],
    tmp_path: Path,
    scenario: str,
    cases: int | None,
    record_property: Callable[[str, object], None],
) -> None:
    report = killed(scenario, tmp_path / "root", given, cases or SHORT)
    record_property("kills", f"{report['kills']} at {report['points']} points: {report['states']}")
    assert report["faults"] == []
    assert report["kills"] == min(cases or SHORT, report["points"] + report["kinds"].get("write", 0))
    assert report["states"].keys() <= {"old", "new"}


def killed(scenario: str, root: Path, given: dict[str, Any], limit: int) -> dict[str, Any]:
    command = [sys.executable, str(PROGRAM), scenario, str(root), str(limit)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report

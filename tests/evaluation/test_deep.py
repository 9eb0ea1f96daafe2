"""A close look at a profile: everything measured, and a part that fails says how without ending the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trinity_mlx.evaluation.deep import examine
from trinity_mlx.profiles.registry import ProfileRegistry
from trinity_mlx.routing.selfcheck import SHORT


@pytest.mark.parametrize("name", ["cpu", pytest.param("mlx", marks=pytest.mark.slow)])
def test_a_profile_is_measured_in_every_part(name: str) -> None:
    found = examine(ProfileRegistry().get(name), "cpu", longest=SHORT)
    assert found["self_check"]["failures"] == ()
    assert found["nano"]["cases"] == 64
    assert found["nano"]["failed"] == []
    matrices = [each for name, each in found["export"].items() if name != "seconds"]
    assert all(each["gram"] <= 1e-6 and each["adapted"] <= 2e-6 for each in matrices)
    json.dumps(found, allow_nan=False)


def test_parts_that_fail_say_how_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "nowhere.toml").write_text(
        'summary = "a device that is not there"\nbackend = "torch"\ndevice = "cuda:7"\ndtype = "float32"\n'
    )
    found = examine(ProfileRegistry(tmp_path).get("nowhere"), "cuda:7", config_dir=tmp_path, longest=SHORT)
    assert all(": " in found[part]["error"] for part in ("self_check", "nano"))
    assert found["versions"]

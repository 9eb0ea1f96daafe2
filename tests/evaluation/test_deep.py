"""A close look at a profile: everything measured, and a part that fails says how without ending the others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from trinity_mlx.contracts.artifact import Base, Bundle
from trinity_mlx.evaluation.deep import examine
from trinity_mlx.profiles.registry import ProfileRegistry
from trinity_mlx.routing.device_checks import MEMORY_FILE
from trinity_mlx.routing.loading import ArtifactChoice
from trinity_mlx.routing.selfcheck import SHORT

from ..evaluation_cases import assert_fails, invoke


@pytest.mark.parametrize("name", ["cpu", pytest.param("mlx", marks=pytest.mark.slow)])
def test_a_profile_is_measured_in_every_part(name: str) -> None:
    found = examine(ProfileRegistry().get(name), "cpu", longest=SHORT)
    assert found["self_check"]["failures"] == ()
    assert found["free_memory_bytes"] > 10**8
    nano = found["artifacts"]["nano"]
    assert (nano["gates"]["passed"], nano["gates"]["failures"]) == (64, [])
    assert "lane" in nano["gates"]["floors"]["agent_source"]
    assert nano["gates"]["snapshot_distance"]["cosine"] > 0.999
    assert [route["tokens"] for route in nano["routes"]] == sorted(route["tokens"] for route in nano["routes"])
    matrices = [each for name, each in found["export"].items() if name != "seconds"]
    assert all(each["gram"] <= 1e-6 and each["adapted"] <= 2e-6 for each in matrices)
    json.dumps(found, allow_nan=False)


def test_parts_that_fail_say_how_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "nowhere.toml").write_text(
        'summary = "a device that is not there"\nbackend = "torch"\ndevice = "cuda:7"\ndtype = "float32"\n'
    )
    found = examine(ProfileRegistry(tmp_path).get("nowhere"), "cuda:7", config_dir=tmp_path, longest=SHORT)
    assert ": " in found["self_check"]["error"]
    assert ": " in found["artifacts"]["nano"]["error"]
    assert found["versions"]


def test_every_artifact_is_looked_at_and_one_without_a_suite_says_so(tiny_bundle: Bundle, tiny_base: Base) -> None:
    names = [str(tiny_bundle.folder), "no-such-artifact"]
    found = examine(ProfileRegistry().get("cpu"), "cpu", names, library=OneBase(tiny_base), longest=SHORT)
    tiny, missing = found["artifacts"].values()
    assert "no suite" in tiny["gates"]["error"]
    assert tiny["routes"][0]["route_ms"] > 0
    assert "ArtifactNotFound" in missing["error"]


@dataclass(frozen=True)
class OneBase:
    """A library in which every artifact runs on one base."""

    base: Base
    config_dir: None = None
    hash_memory: None = None

    def find(self, artifact: str, base: object, profile: str) -> ArtifactChoice:
        return ArtifactChoice(artifact, self.base.folder)


def test_the_command_writes_one_file_that_names_no_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRINITY_MLX_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("TRINITY_MLX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "deep" / "doctor.json"
    result = invoke("doctor", "--deep", file, "--profile", "cpu", "--json")
    assert result.exit_code == 0, result.output
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks["deep"]["found"] == f"cpu with nano, in {file}"
    content = json.loads(file.read_text())
    assert [(each["profile"], list(each["artifacts"])) for each in content["profiles"]] == [("cpu", ["nano"])]
    assert str(tmp_path) not in file.read_text()


def test_rechecking_tells_what_the_devices_of_a_profile_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRINITY_MLX_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("TRINITY_MLX_CACHE", str(tmp_path / "cache"))
    result = invoke("doctor", "--recheck", "--profile", "cpu", "--json")
    found = [each["found"] for each in json.loads(result.stdout)["checks"] if each["name"] == "device check"]
    assert len(found) == 1
    assert "torch cpu float32" in found[0]
    assert "kernels compute what they should" in found[0]
    assert (tmp_path / "cache" / MEMORY_FILE).is_file()
    kept = invoke("doctor", "--json")  # without --recheck: what is remembered is told
    assert found[0] in [each["found"] for each in json.loads(kept.stdout)["checks"]]


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--profile", "none"), "no profile 'none'"),
        (("--profile", "cuda"), "cannot run here"),
        (("--deep", "/proc/none/doctor.json"), "/proc/none"),
    ],
)
def test_what_cannot_be_examined_is_one_line(arguments: tuple[str, ...], fragment: str) -> None:
    assert_fails(invoke("doctor", *arguments), 3, fragment)

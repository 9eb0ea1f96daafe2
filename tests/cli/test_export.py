"""``trinity-mlx export``: options in, a bundle or one clear line out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from trinity_mlx.artifacts.bundle import open_bundle
from trinity_mlx.cli import main
from trinity_mlx.contracts.artifact import Base

from .. import builders
from ..evaluation_cases import install_odd_backends


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRINITY_MLX_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("TRINITY_MLX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def vector(tmp_path: Path) -> Path:
    path = tmp_path / "vector.npy"
    np.save(path, np.random.default_rng(7).normal(0, 0.2, 19 * builders.TINY["hidden_size"]))
    return path


@pytest.fixture
def invoke(tiny_base: Base, vector: Path, tmp_path: Path) -> Any:
    def run(*options: str, base: Path = tiny_base.folder) -> Result:
        needed = ["--base", base, "--vector", vector, "--out", tmp_path / "out", "--profile", "cpu"]
        return CliRunner().invoke(main, ["export", *map(str, needed), *options])

    return run


def assert_fails(result: Result, code: int, *fragments: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    for fragment in fragments:
        assert fragment in result.stderr


def test_a_bundle_comes_out_and_routes(invoke: Any, tiny_base: Base, tmp_path: Path) -> None:
    result = invoke()
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "out") in result.stdout
    arguments = ["route", "Hello", "--artifact", str(tmp_path / "out"), "--base", str(tiny_base.folder), "--json"]
    routed = CliRunner().invoke(main, arguments)
    assert routed.exit_code == 0, routed.output
    assert json.loads(routed.stdout)["artifact"]["adapter_ref"] == open_bundle(tmp_path / "out").adapter.ref


def test_json_for_programs(invoke: Any, tiny_base: Base, tmp_path: Path) -> None:
    result = invoke("--json", "--base-id", "me/mine@v2", "--agents", "a, b,c,d,e,f,g", "--name", "n")
    found = json.loads(result.stdout)
    bundle = open_bundle(tmp_path / "out")
    assert found["adapter_ref"] == bundle.adapter.ref
    assert found["base"] == {"id": "me/mine", "revision": "v2", "ref": tiny_base.ref}
    assert (found["name"], found["agents"]) == ("n", list("abcdefg"))


def test_every_option_reaches_the_manifest(invoke: Any, tmp_path: Path) -> None:
    options = ["--method", "svd", "--write", "merged", "--tied-embedding", "compound", "--layers", "0"]
    options += ["--text-format", "qwen3-chat", "--only", "lm_head.weight", "--only", "model.embed_tokens.weight"]
    assert invoke(*options).exit_code == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["made"]["method"], manifest["made"]["write"]) == ("svd", "merged")
    assert (manifest["tied_embedding"], manifest["text_format"]) == ("compound", "qwen3-chat")
    assert manifest["vector"][1]["source"].startswith("model.layers.0.")
    assert len(manifest["adapter"]["entries"]) == 2


def test_svd_gives_way_where_only_the_full_decomposition_is_there_and_it_is_said(
    invoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_odd_backends(tmp_path, tmp_path / "config", monkeypatch)
    asked = ("--profile", "onlyfull", "--method", "svd")
    kept = invoke(*asked, "--strict", "--out", str(tmp_path / "strict"))
    assert (kept.exit_code, "full decomposition" in kept.stderr) == (0, False), kept.output
    result = invoke(*asked)
    assert result.exit_code == 0, result.output
    assert "OnlyFull on cpu has only the full decomposition" in " ".join(result.stderr.split())
    methods = [
        json.loads((tmp_path / out / "manifest.json").read_text())["made"]["method"] for out in ("strict", "out")
    ]
    assert methods == ["svd", "gram"]


def test_a_local_base_is_called_by_its_folder(invoke: Any, tiny_base: Base, tmp_path: Path) -> None:
    invoke()
    assert open_bundle(tmp_path / "out").base_id == tiny_base.folder.name


def test_a_base_from_the_hub_is_called_by_its_name_and_commit(invoke: Any, tiny_base: Base, tmp_path: Path) -> None:
    commit = "c1899de289a04d12100db370d81485cdf75e47ca"
    snapshot = tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / commit
    shutil.copytree(tiny_base.folder, snapshot)
    invoke(base=snapshot)
    bundle = open_bundle(tmp_path / "out")
    assert (bundle.base_id, bundle.base_revision) == ("Qwen/Qwen3-0.6B", commit)


def test_a_plan_is_told_and_nothing_is_done(invoke: Any, tmp_path: Path) -> None:
    result = invoke("--plan")
    assert result.exit_code == 0, result.output
    for part in ("embed_tokens", "layers.1.mlp.down_proj", "384x64", "lm_head (= embed_tokens)", "GFLOP"):
        assert part in result.stdout
    assert "…" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 120
    found = json.loads(invoke("--plan", "--json").stdout)
    assert [tensor["fits"] for tensor in found["tensors"]] == [True] * 9
    assert not (tmp_path / "out").exists()


def test_resume_and_force(invoke: Any) -> None:
    assert invoke().exit_code == 0
    assert_fails(invoke(), 2, "finished bundle", "--force")
    assert invoke("--resume").exit_code == 0
    assert_fails(invoke("--resume", "--write", "merged"), 2, "made.write", "--force")
    assert invoke("--force", "--write", "merged").exit_code == 0
    assert_fails(invoke("--force", "--resume"), 2, "one of them")


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--layers", "1,x"], 2, "'1,x'"),
        (["--layers", "7"], 2, "from 0 to 2"),
        (["--agents", "a,b"], 2, "7 agents"),
        (["--layers", "0,1"], 4, "1216 - 1024 = 192"),
        (["--profile", "nowhere"], 3, "nowhere"),
    ],
)
def test_what_does_not_fit_is_one_line_and_an_exit_code(invoke: Any, options: list[str], code: int, says: str) -> None:
    assert_fails(invoke(*options), code, says)

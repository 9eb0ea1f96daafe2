"""``trinity-mlx parity``: what its commands print, how they exit, and what they refuse."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors import torch as torch_files

from trinity_mlx.cli import main
from trinity_mlx.contracts.artifact import Base

NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRINITY_MLX_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("TRINITY_MLX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def given(tmp_path: Path, tiny_base: Base) -> list[str]:
    """The options that say which base and which vector."""
    values = np.random.default_rng(0).normal(0, 0.02, 9 * 64 + 10 * 64).astype(np.float32)
    np.save(tmp_path / "vector.npy", values)
    return ["--base", str(tiny_base.folder), "--vector", str(tmp_path / "vector.npy")]


def parity(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["parity", *map(str, arguments)])


def assert_fails(result: Result, code: int, *fragments: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    for fragment in fragments:
        assert fragment in result.stderr


def change(file: Path, stage: str, by: Callable[[torch.Tensor], torch.Tensor]) -> None:
    held = torch_files.load_file(file)
    torch_files.save_file(held | {f"stage.{stage}": by(held[f"stage.{stage}"])}, file)


def flip_a_bit(stored: torch.Tensor) -> torch.Tensor:
    stored.view(torch.int16)[0, 0] ^= 1
    return stored


def test_reference_run_and_compare_one_tensor(tmp_path: Path, given: list[str]) -> None:
    reference, here = tmp_path / "reference", tmp_path / "here"
    made = parity("reference", *given, "--tensor", NAME, "--out", reference)
    assert made.exit_code == 0, made.output
    assert NAME in made.stdout
    run = parity("run", *given, "--tensor", NAME, "--components", reference, "--profile", "cpu", "--out", here)
    assert run.exit_code == 0, run.output
    compared = parity("compare", reference, here)
    assert compared.exit_code == 0, compared.output
    assert "9 of 9 required checks hold, same components" in compared.stdout
    assert all(stage in compared.stdout for stage in ("scaled_s", "matmul_pre_norm", "final_bf16 (reported only)"))


def test_every_tensor_as_json(tmp_path: Path, given: list[str]) -> None:
    made = parity(
        "reference", *given, "--all", "--decompose-all", "--dtype", "float64", "--out", tmp_path / "reference", "--json"
    )
    assert json.loads(made.stdout)["schema"] == "trinity-mlx.parity.stages"
    run = parity("run", *given, "--all", "--profile", "mlx", "--out", tmp_path / "here", "--json")
    assert json.loads(run.stdout)["components"]["method"] == "gram"
    compared = parity("compare", tmp_path / "reference", tmp_path / "here", "--json")
    assert compared.exit_code == 0, compared.output
    report = json.loads(compared.stdout)
    assert (report["passed"], report["required"], report["components"]) == (True, 81, "different")
    table = parity("compare", tmp_path / "reference", tmp_path / "here")
    assert "the worst of 9 tensors for each stage" in table.stdout


def test_a_failed_required_stage_exits_with_1_and_is_named(tmp_path: Path, given: list[str]) -> None:
    for folder in ("reference", "here"):
        parity("reference", *given, "--tensor", NAME, "--out", tmp_path / folder)
    change(tmp_path / "here" / "stages.safetensors", "zero_source_f32", lambda stage: stage + 0.5)
    compared = parity("compare", tmp_path / "reference", tmp_path / "here")
    assert compared.exit_code == 1
    assert "FAILED: 8 of 9 required checks hold" in compared.stdout
    as_json = parity("compare", tmp_path / "reference", tmp_path / "here", "--json")
    assert as_json.exit_code == 1
    assert [check["stage"] for check in json.loads(as_json.stdout)["checks"] if not check["passed"]] == [
        "zero_source_f32"
    ]


def test_two_float32_decompositions_get_a_hint(tmp_path: Path, given: list[str]) -> None:
    parity("reference", *given, "--tensor", NAME, "--out", tmp_path / "reference")
    parity("run", *given, "--tensor", NAME, "--profile", "cpu", "--out", tmp_path / "here")
    compared = parity("compare", tmp_path / "reference", tmp_path / "here")
    assert compared.exit_code == 1
    assert "--dtype float64" in compared.stderr


def test_strict_bytes_exits_with_1_where_a_bit_differs(tmp_path: Path, given: list[str]) -> None:
    for folder in ("reference", "here"):
        parity("reference", *given, "--tensor", NAME, "--out", tmp_path / folder)
    assert parity("compare", tmp_path / "reference", tmp_path / "here", "--strict-bytes").exit_code == 0
    change(tmp_path / "here" / "stages.safetensors", "final_bf16", flip_a_bit)
    assert parity("compare", tmp_path / "reference", tmp_path / "here").exit_code == 0
    assert parity("compare", tmp_path / "reference", tmp_path / "here", "--strict-bytes").exit_code == 1


@pytest.mark.parametrize("choice", [[], ["--all", "--tensor", NAME]])
def test_either_one_tensor_or_all(tmp_path: Path, given: list[str], choice: list[str]) -> None:
    assert_fails(
        parity("reference", *given, *choice, "--out", tmp_path / "out"), 2, "--tensor NAME, --source REGEX or --all"
    )


def test_what_is_missing_is_a_usage_error(tmp_path: Path, given: list[str]) -> None:
    out = ["--out", tmp_path / "out"]
    assert_fails(parity("compare", tmp_path / "a", tmp_path / "b"), 2, "no stage bundle at")
    assert_fails(parity("reference", *given, "--tensor", "x", *out), 2, "does not adapt 'x'")
    assert_fails(parity("run", *given, "--all", "--components", tmp_path, *out), 2, "parity reference")
    assert_fails(parity("run", *given, "--all", "--profile", "gpu9", *out), 3, "no profile 'gpu9'")


def test_trace_prints_both_sides(tiny_folders: dict[str, Path]) -> None:
    options = [part for name, folder in tiny_folders.items() for part in (f"--{name}", folder)]
    traced = parity("trace", "What is 17 + 25?", "--a", "cpu", "--b", "cpu", *options)
    assert traced.exit_code == 0, traced.output
    assert all(word in traced.stdout for word in ("tokens", "head", "cosine", "slot chosen", "Thinker", "passed"))
    as_json = parity("trace", "What is 17 + 25?", "--a", "cpu", "--b", "mlx", *options, "--json")
    report = json.loads(as_json.stdout)
    assert as_json.exit_code == (0 if report["passed"] else 1)
    assert report["checks"]["token_ids"]


def test_trace_reads_messages_from_a_file(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    options = [part for name, folder in tiny_folders.items() for part in (f"--{name}", folder)]
    (tmp_path / "messages.json").write_text('[{"role": "user", "content": "What is 17 + 25?"}]')
    by_file = parity("trace", "--messages", tmp_path / "messages.json", "--a", "cpu", "--b", "cpu", *options, "--json")
    by_prompt = parity("trace", "What is 17 + 25?", "--a", "cpu", "--b", "cpu", *options, "--json")
    assert json.loads(by_file.stdout)["transcript_hash"] == json.loads(by_prompt.stdout)["transcript_hash"]


def test_trace_takes_a_prompt_or_messages() -> None:
    assert_fails(parity("trace", "--a", "cpu", "--b", "cpu"), 2, "one of the two")
    assert_fails(parity("trace", "x", "--messages", "y", "--a", "cpu", "--b", "cpu"), 2, "one of the two")


def test_help_names_the_four_commands() -> None:
    shown = parity("--help").stdout
    assert all(f"\n  {command} " in shown for command in ("reference", "run", "compare", "trace"))


# --- saved decompositions -------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path, tiny_base: Base) -> Path:
    """``svd_weights.pt`` with every tensor of layer 1 and the embedding."""
    weights = torch_files.load_file(tiny_base.folder / "model.safetensors")
    held = {}
    for name, weight in weights.items():
        if name.startswith(("model.layers.1.", "model.embed")) and weight.ndim == 2:
            u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
            held |= {f"{name}.U": u.float(), f"{name}.S": s.float(), f"{name}.V": vh.T.float().contiguous()}
    torch.save(held, tmp_path / "svd_weights.pt")
    return tmp_path / "svd_weights.pt"


def test_a_reference_takes_saved_components(tmp_path: Path, given: list[str], saved: Path) -> None:
    out = tmp_path / "reference"
    made = parity("reference", *given, "--source", r"layers\.1\.mlp", "--svd-weights", saved, "--out", out, "--json")
    assert made.exit_code == 0, made.output
    report = json.loads(made.stdout)
    assert report["components"]["method"].startswith("svd_weights.pt ")
    assert report["components"]["v_layout"] == "torch_v"
    assert [tensor["name"].rpartition("mlp.")[2] for tensor in report["tensors"]] == [
        "gate_proj.weight",
        "up_proj.weight",
        "down_proj.weight",
    ]
    stored = torch_files.load_file(out / "trinity_svf_components.safetensors")
    for key, value in torch.load(saved).items():
        if "mlp" in key:
            name, _, part = key.rpartition(".")
            assert torch.equal(stored[f"svd.{part}.{name}"], value)
    run = parity("run", *given, "--source", r"layers\.1\.mlp", "--components", out, "--out", tmp_path / "here")
    assert run.exit_code == 0, run.output
    assert parity("compare", out, tmp_path / "here").exit_code == 0


@pytest.mark.parametrize("name", [NAME, "model.layers.1.self_attn.k_proj.weight"], ids=["by its shape", "a square one"])
def test_vectors_as_rows_are_told_from_vectors_as_columns(
    tmp_path: Path, given: list[str], saved: Path, name: str
) -> None:
    held = torch.load(saved)
    held[f"{name}.V"] = held[f"{name}.V"].T.contiguous()
    torch.save(held, saved)
    made = parity("reference", *given, "--tensor", name, "--svd-weights", saved, "--out", tmp_path / "out")
    assert_fails(made, 2, "is vh, which is called nx too", "torch_v", "transpose")


def test_a_square_v_beside_a_u_of_another_shape_is_refused(tmp_path: Path, given: list[str], saved: Path) -> None:
    name = "model.layers.1.self_attn.k_proj.weight"
    held = torch.load(saved)
    held[f"{name}.U"] = held[f"{name}.U"][:, :3].contiguous()
    torch.save(held, saved)
    made = parity("reference", *given, "--tensor", name, "--svd-weights", saved, "--out", tmp_path / "out")
    assert_fails(made, 2, "not thin ones")


def test_a_saved_file_without_a_tensor_is_refused(tmp_path: Path, given: list[str], saved: Path) -> None:
    made = parity("reference", *given, "--tensor", "lm_head.weight", "--svd-weights", saved, "--out", tmp_path / "out")
    assert_fails(made, 2, "has no U, S and V of lm_head.weight")


def test_a_long_decomposition_is_not_begun_by_accident(tmp_path: Path, given: list[str]) -> None:
    for choice in (["--all"], ["--source", "layers"]):
        refused = parity("reference", *given, *choice, "--out", tmp_path / "out")
        assert_fails(refused, 2, "whole tensors would be decomposed", "GFLOP", "--decompose-all")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("pattern", "says"), [("nothing", "adapts no tensor"), ("(", "no regular expression")])
def test_a_source_that_matches_nothing_is_refused(tmp_path: Path, given: list[str], pattern: str, says: str) -> None:
    assert_fails(parity("run", *given, "--source", pattern, "--out", tmp_path / "out"), 2, says)


# --- sources from a stages file -------------------------------------------------------------------------------------


def test_a_run_takes_its_source_from_a_stages_file(tmp_path: Path, given: list[str]) -> None:
    assert parity("reference", *given, "--tensor", NAME, "--out", tmp_path / "reference").exit_code == 0
    theirs = tmp_path / "theirs.safetensors"
    source = torch_files.load_file(tmp_path / "reference" / "stages.safetensors")["stage.source_f32"] * 2
    torch_files.save_file({"stage.source_f32": source}, theirs)
    run = parity("run", *given, "--tensor", NAME, "--source-stage", theirs, "--out", tmp_path / "here", "--json")
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["source_stages_sha256"] == hashlib.sha256(theirs.read_bytes()).hexdigest()
    assert torch.equal(torch_files.load_file(tmp_path / "here" / "stages.safetensors")["stage.source_f32"], source)


def test_a_stages_file_names_the_sources_of_several_tensors(tmp_path: Path, given: list[str]) -> None:
    choice = ["--source", r"layers\.1\.mlp"]
    assert parity("reference", *given, *choice, "--decompose-all", "--out", tmp_path / "reference").exit_code == 0
    file = tmp_path / "reference" / "stages.safetensors"
    here = tmp_path / "here"
    assert parity("run", *given, *choice, "--source-stage", file, "--out", here).exit_code == 0
    held = torch_files.load_file(here / "stages.safetensors")
    assert torch.equal(held[f"tensor.{NAME}.source_f32"], torch_files.load_file(file)[f"tensor.{NAME}.source_f32"])


@pytest.mark.parametrize(
    ("stored", "says"),
    [({"stage.final_f32": torch.zeros(2)}, "holds no"), ({"stage.source_f32": torch.zeros(2)}, "F32 [2]")],
)
def test_a_stages_file_without_the_source_is_refused(
    tmp_path: Path, given: list[str], stored: dict[str, torch.Tensor], says: str
) -> None:
    torch_files.save_file(stored, tmp_path / "theirs.safetensors")
    choice = ["--tensor", NAME, "--source-stage", tmp_path / "theirs.safetensors"]
    assert_fails(parity("run", *given, *choice, "--out", tmp_path / "here"), 2, says)
    assert not (tmp_path / "here").exists()


def test_a_stages_file_that_is_not_there_is_refused(tmp_path: Path, given: list[str]) -> None:
    choice = ["--tensor", NAME, "--source-stage", tmp_path / "nowhere.safetensors", "--out", tmp_path / "here"]
    made = parity("run", *given, *choice)
    assert made.exit_code != 0
    assert made.stderr.startswith("error: ")


def test_a_reference_can_be_imported(tmp_path: Path, given: list[str], tiny_base: Base) -> None:
    out, bundle = tmp_path / "reference", tmp_path / "bundle"
    assert parity("reference", *given, "--all", "--decompose-all", "--out", out).exit_code == 0
    vector = np.load(tmp_path / "vector.npy")
    offsets = torch_files.load_file(out / "trinity_svf_scale_offsets.safetensors")
    assert offsets["svf.scale_offsets.model.embed_tokens.weight"].numpy().tolist() == vector[:64].tolist()
    head = torch_files.load_file(out / "trinity_router_head.safetensors")["trinity.router_head.linear.weight"]
    assert head.numpy().ravel().tolist() == vector[9 * 64 :].tolist()
    arguments = ["import", str(out), "--base", str(tiny_base.folder), "--out", str(bundle), "--json"]
    imported = CliRunner().invoke(main, arguments)
    assert imported.exit_code == 0, imported.output
    tensors = json.loads(imported.stdout)["tensors"]
    assert len(tensors) == 8
    assert all(tensor["zero_offset_error"] < 1e-5 for tensor in tensors)


@pytest.mark.parametrize("way", ["reference", "run"])
def test_what_lies_at_the_place_is_replaced_only_when_asked(tmp_path: Path, given: list[str], way: str) -> None:
    out, report = tmp_path / "out", tmp_path / "out" / "report.json"
    assert parity(way, *given, "--tensor", NAME, "--out", out).exit_code == 0
    before = report.read_bytes()
    assert_fails(parity(way, *given, "--tensor", NAME, "--out", out), 2, f"{out} is not empty", "try: --force")
    assert report.read_bytes() == before
    assert parity(way, *given, "--tensor", NAME, "--out", out, "--force").exit_code == 0
    refused = parity(way, *given, "--tensor", NAME, "--out", report, "--force")
    assert_fails(refused, 2, "is a file")
    assert "--force" not in refused.stderr


def test_a_reference_that_fails_leaves_nothing_to_import(tmp_path: Path, given: list[str], saved: Path) -> None:
    out, manifest = tmp_path / "reference", tmp_path / "reference" / "trinity_sakana_export_manifest.json"
    assert parity("reference", *given, "--tensor", NAME, "--out", out).exit_code == 0
    assert manifest.is_file()
    lacking = ["--tensor", "lm_head.weight", "--svd-weights", saved, "--out", out]
    again = parity("reference", *given, *lacking, "--force")
    assert_fails(again, 2, "has no U, S and V of lm_head.weight")
    assert not manifest.exists()


def test_parts_of_bundles_are_compared_by_name(tmp_path: Path, given: list[str]) -> None:
    reference, here, part = (tmp_path / name for name in ("reference", "here", "part"))
    parity("reference", *given, "--all", "--decompose-all", "--dtype", "float64", "--out", reference)
    parity("run", *given, "--all", "--components", reference, "--profile", "cpu", "--out", here)
    parity("run", *given, "--source", "mlp", "--profile", "cpu", "--out", part)
    same = parity("compare", reference, here, "--source", "mlp", "--json")
    assert (same.exit_code, json.loads(same.stdout)["components"]) == (0, "same")
    assert {check["tensor"].split(".")[3] for check in json.loads(same.stdout)["checks"]} == {"mlp"}
    other = parity("compare", reference, part, "--source", "mlp", "--json")
    assert (other.exit_code, json.loads(other.stdout)["components"]) == (0, "different")
    assert_fails(parity("compare", reference, part), 2, "lacks tensor.")
    assert_fails(parity("compare", reference, part, "--source", "nothing"), 2, "no tensor whose name holds")


def test_names_of_stages_with_brackets_break_no_table(tmp_path: Path, given: list[str]) -> None:
    reference = tmp_path / "reference"
    parity("reference", *given, "--tensor", NAME, "--out", reference)
    stages = torch_files.load_file(reference / "stages.safetensors")
    renamed = {f"tensor.odd[/b][red].{key.removeprefix('stage.')}": value for key, value in stages.items()}
    torch_files.save_file(renamed | {"tensor.odd[/b][red].own[/x]": torch.zeros(1)}, tmp_path / "odd.safetensors")
    shown = parity("compare", tmp_path / "odd.safetensors", tmp_path / "odd.safetensors")
    assert shown.exit_code == 0, shown.output
    assert "odd[/b][red]" in shown.stdout
    assert "own[/x]" in shown.stdout

"""Reports of other systems: the stages that they name are what is compared, and their verdict is not believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import torch as torch_files

from trinity_mlx.contracts.errors import ParitySetupError
from trinity_mlx.parity.checks import LIMITS
from trinity_mlx.parity.compare import compare, matching, open_stages
from trinity_mlx.parity.foreign_reports import sources_file

PYTHON = "trinity_sakana_python_svd_parity_trace.v2"
ELIXIR = "trinity_sakana_svd_parity_trace.v2"


def stages(folder: Path, name: str, prefix: str = "stage.", value: float = 1.0) -> str:
    torch_files.save_file({f"{prefix}{stage}": torch.full((2, 2), value) for stage in LIMITS}, folder / name)
    return f"tmp/elsewhere/{name}"


def report(path: Path, schema: str, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"schema": schema, **content}))
    return path


def variant(layout: str, file: str, key: str = "v_layout") -> dict[str, Any]:
    return {key: layout, "stage_debug": {"stage_tensor_file": file, "functional_parity_passed": True}}


@pytest.mark.parametrize(("value", "passes"), [(1.0, True), (2.0, False)])
def test_two_reports_are_compared_by_the_stages_that_they_name(tmp_path: Path, value: float, passes: bool) -> None:
    theirs = {"stage_debug": {"stage_tensor_file": stages(tmp_path, "python.safetensors")}}
    replays = [
        variant("vh", stages(tmp_path, "vh.safetensors", value=9.0)),
        variant("torch_v", stages(tmp_path, "elixir.safetensors", value=value), "python_v_layout"),
        {"v_layout": "torch_v", "error": "failed"},
    ]
    python = report(tmp_path / "python.json", PYTHON, theirs)
    elixir = report(tmp_path / "elixir.json", ELIXIR, {"semantic_python_component_variants": replays})
    assert compare(open_stages(python), open_stages(elixir)).passed is passes


def test_a_report_is_read_in_the_layout_of_that_systems_own_guide(tmp_path: Path) -> None:
    """It tells paths from where its tool was started; the folder of all results may have been moved since."""
    results = tmp_path / "moved"
    (results / "python_components").mkdir(parents=True)
    stages(results / "python_components", "trinity_svf_stage_debug.safetensors")
    named = "tmp/sakana_parity/python_components/trinity_svf_stage_debug.safetensors"
    path = report(results / "python_sample_trace.json", PYTHON, {"stage_debug": {"stage_tensor_file": named}})
    assert set(open_stages(path).tensors) == {f"stage.{stage}" for stage in LIMITS}
    assert sources_file(path) == results / "python_components" / "trinity_svf_stage_debug.safetensors"


def test_some_tensors_of_all_are_compared(tmp_path: Path) -> None:
    whole = {
        f"tensor.{name}.{stage}": torch.full((2, 2), value)
        for name, value in (("model.layers.26.a", 1.0), ("lm_head.weight", 2.0))
        for stage in LIMITS
    }
    torch_files.save_file(whole, tmp_path / "all.safetensors")
    stages(tmp_path, "some.safetensors", "tensor.model.layers.26.a.")
    sides = open_stages(tmp_path / "all.safetensors"), open_stages(tmp_path / "some.safetensors")
    with pytest.raises(ParitySetupError, match=r"lacks tensor\.lm_head"):
        compare(*sides)
    some = [matching(side, r"model\.layers\.26\.") for side in sides]
    assert compare(*some).passed
    assert len(compare(*some).checks) == len(LIMITS)
    with pytest.raises(ParitySetupError, match="no tensor whose name"):
        matching(sides[0], "layers.27")
    with pytest.raises(ParitySetupError, match="no regular expression"):
        matching(sides[0], "(")


def test_all_tensors_come_before_the_sample(tmp_path: Path) -> None:
    named = {
        "stage_tensor_file": stages(tmp_path, "one.safetensors"),
        "all_selected_stage_tensor_file": stages(tmp_path, "all.safetensors", "tensor.a.weight."),
    }
    opened = open_stages(report(tmp_path / "python.json", PYTHON, {"stage_debug": named}))
    assert set(opened.tensors) == {f"tensor.a.weight.{stage}" for stage in LIMITS}


def test_replays_of_several_tensors_are_put_together_and_the_same_stage_twice_is_refused(tmp_path: Path) -> None:
    files = [stages(tmp_path, f"{name}.safetensors", f"tensor.{name}.") for name in "ab"]
    replays = [variant("torch_v", file) for file in files]
    path = report(tmp_path / "elixir.json", ELIXIR, {"semantic_python_component_variants": replays})
    assert len(open_stages(path).tensors) == 2 * len(LIMITS)
    stages(tmp_path, "b.safetensors", "tensor.a.")
    with pytest.raises(ParitySetupError, match="names two files with tensor"):
        open_stages(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "is no report"),
        ("{}", "of schema None"),
        (json.dumps({"schema": PYTHON}), "names no stage file"),
        (json.dumps({"schema": PYTHON, "stage_debug": {"stage_tensor_file": ["x"]}}), "names no stage file"),
        *(
            (json.dumps({"schema": PYTHON, "stage_debug": {"stage_tensor_file": name}}), "there is no such file")
            for name in ("gone", "/", "..", "a\0b", "x/" * 100_000, "~nobody/x", "\ud800")
        ),
    ],
)
def test_what_is_no_report_with_stages_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ParitySetupError, match=says):
        open_stages(path)

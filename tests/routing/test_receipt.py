"""What was applied to a base when a router was loaded is on record: identity, JSON, evaluations, lanes and traces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trinity_mlx import load_router
from trinity_mlx.contracts.artifact import Base, Bundle, Execution, PatchReceipt
from trinity_mlx.contracts.canonical import canonical_sha256
from trinity_mlx.evaluation.gates import describe_environment
from trinity_mlx.evaluation.lane import read_lane, shipped_lanes
from trinity_mlx.tracing.reader import read_trace
from trinity_mlx.tracing.timeline import timeline
from trinity_mlx.tracing.verify import verify_run

from .. import trace_builders as build
from ..evaluation_cases import invoke


def receipt_of(folders: dict[str, Path], **options: object) -> PatchReceipt:
    with load_router(**folders, profile="cpu", **options) as router:  # type: ignore[arg-type]
        assert router.identity.receipt is not None
        assert describe_environment(router.identity)["receipt"] == router.identity.receipt.recorded
        return router.identity.receipt


def test_a_receipt_names_every_change_once(tiny_folders: dict[str, Path], tiny_base: Base, tiny_bundle: Bundle) -> None:
    receipt = receipt_of(tiny_folders, dtype="bfloat16")
    assert (receipt.base_ref, receipt.adapter_ref, receipt.head_ref) == (
        tiny_base.ref,
        tiny_bundle.adapter.ref,
        tiny_bundle.head.ref,
    )
    changed = {entry.source: entry for entry in tiny_bundle.adapter.entries}
    assert {tensor.name for tensor in receipt.tensors} == set(changed) & set(tiny_base.config.backbone_shapes())
    for tensor in receipt.tensors:
        entry = changed[tensor.name]
        assert tensor.execution is entry.execution is not Execution.REPLACE
        assert (tensor.source_dtype, tensor.change_dtype) == (
            tiny_base.tensors[tensor.name].dtype,
            entry.tensor.dtype,
        )
        assert tensor.dtype == "bfloat16"
    assert (receipt.device, receipt.merged, receipt.quantize) == ("cpu", False, None)


def test_equal_loads_have_equal_receipts_and_others_have_others(tiny_folders: dict[str, Path]) -> None:
    first, again = (receipt_of(tiny_folders, dtype="float32") for _ in range(2))
    assert first.sha256 == again.sha256
    others = [{"dtype": "float16"}, {"execution": "merged"}, {"quantize": 8}]
    hashes = {receipt_of(tiny_folders, **{"dtype": "float32", **other}).sha256 for other in others}
    assert len(hashes | {first.sha256}) == 4


@pytest.mark.parametrize("explain", [False, True])
def test_the_command_line_prints_it_where_it_is_asked_to_explain(tiny_folders: dict[str, Path], explain: bool) -> None:
    result = invoke(
        "route", "What?", "--artifact", tiny_folders["artifact"], "--base", tiny_folders["base"], "--profile", "cpu",
        "--json", *(["--explain"] if explain else []),
    )  # fmt: skip
    printed = json.loads(result.stdout)
    assert ("receipt" in printed) is explain
    if explain:
        assert printed["receipt"]["adapter_ref"] == printed["artifact"]["adapter_ref"]


def test_a_trace_begins_with_it(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    result = invoke("run", "What is 2 + 2?", "--artifact", "nano", "--profile", "cpu", "--trace-out", path)
    assert result.exit_code == 0, result.output
    (run,) = read_trace(path).runs
    assert not verify_run(run).problems
    with load_router("nano", profile="cpu") as router:
        assert router.identity.receipt is not None
        assert run.lines[0]["router"]["receipt"] == router.identity.receipt.recorded
    (line,) = [entry.text for entry in timeline(run) if entry.text.startswith("router:")]
    assert router.identity.receipt.sha256[:8] in line
    assert "tensors" not in line


def test_traces_that_hold_its_hash_alone_are_read(tmp_path: Path) -> None:
    _, *rest = build.good_run()
    older = build.started(router={"artifact": "nano", "receipt": "ab" * 32})
    (run,) = read_trace(build.write(tmp_path / "t.jsonl", [older, *rest])).runs
    assert not verify_run(run).problems
    assert any("receipt abab" in entry.text for entry in timeline(run))


@pytest.mark.parametrize("profile", ["cpu", "mlx"])
def test_the_shipped_lanes_of_nano_say_what_ran(profile: str) -> None:
    receipt = read_lane(shipped_lanes() / profile / "nano.json").provenance["receipt"]
    stated = {name: value for name, value in receipt.items() if name != "sha256"}
    assert receipt["sha256"] == canonical_sha256(stated)
    with load_router("nano", profile=profile) as router:
        assert router.identity.receipt is not None
        assert receipt["tensors"] == router.identity.receipt.recorded["tensors"]
        assert receipt["adapter_ref"] == router.identity.artifact.adapter_ref

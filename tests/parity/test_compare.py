"""The comparison of stage bundles: limits, what is missing, signs, bytes; in chunks as on whole arrays."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import torch as torch_files

from trinity_mlx.contracts.errors import ParitySetupError, TensorFileInvalid
from trinity_mlx.factorization import tiles
from trinity_mlx.files.safetensors import read_header
from trinity_mlx.parity.checks import Check, Comparison
from trinity_mlx.parity.compare import compare, open_stages
from trinity_mlx.parity.difference import Difference, difference
from trinity_mlx.parity.report import write_report

ROWS, COLUMNS = 12, 5
PUBLISHED = {
    "source_f32": (0.0, 0.0, True),
    "offsets_f32": (0.0, 0.0, True),
    "scaled_s": (1e-6, 1e-8, True),
    "normalization": (1e-6, 1e-6, True),
    "u_scaled": (1e-6, 1e-8, True),
    "matmul_pre_norm": (1e-3, 1e-5, True),
    "zero_source_f32": (1e-3, 1e-5, True),
    "adapted_source_f32": (1e-3, 1e-5, True),
    "final_f32": (1e-3, 1e-5, True),
    "final_bf16": (1e-3, 1e-5, False),
}
REQUIRED = [stage for stage, limits in PUBLISHED.items() if limits[2]]
Tensors = dict[str, torch.Tensor]


def stages(prefix: str = "stage.") -> Tensors:
    """A complete set of stages; what they hold is of no concern here."""
    torch.manual_seed(0)
    shapes = dict.fromkeys(PUBLISHED, (ROWS, COLUMNS)) | {"offsets_f32": (5,), "scaled_s": (5,), "normalization": ()}
    found = {f"{prefix}{stage}": torch.randn(shape) for stage, shape in shapes.items()}
    found[f"{prefix}final_bf16"] = found[f"{prefix}final_bf16"].bfloat16()
    return found


def saved(path: Path, tensors: Tensors) -> Path:
    torch_files.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def compared(tmp_path: Path, reference: Tensors, candidate: Tensors, *, strict_bytes: bool = False) -> Comparison:
    sides = (saved(tmp_path / "a.safetensors", reference), saved(tmp_path / "b.safetensors", candidate))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE_ELEMENTS", 2 * COLUMNS)
        return compare(*map(open_stages, sides), strict_bytes=strict_bytes)


def check_of(found: Comparison, stage: str) -> Check:
    return next(check for check in found.checks if check.stage == stage)


def changed(stage: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    tensors = stages()
    return tensors | {f"stage.{stage}": change(tensors[f"stage.{stage}"])}


def far(check: Check) -> Difference:
    assert check.difference is not None
    return check.difference


def test_the_limits_are_the_published_ones(tmp_path: Path) -> None:
    found = compared(tmp_path, stages(), stages())
    assert {check.stage: tuple(check.limits) for check in found.checks} == PUBLISHED
    assert [check.stage for check in found.checks] == list(PUBLISHED)
    assert found.passed
    assert all(check.bytes_match for check in found.checks)


@pytest.mark.parametrize("stage", REQUIRED)
def test_one_entry_beyond_the_largest_difference_fails_a_required_stage(tmp_path: Path, stage: str) -> None:
    limit = max(PUBLISHED[stage][0], 1e-7)

    def change(tensor: torch.Tensor) -> torch.Tensor:
        moved = tensor.double().clone()
        moved.view(-1)[-1] += 1.5 * limit
        return moved

    found = compared(tmp_path, stages(), changed(stage, change))
    assert [check.stage for check in found.failed] == [stage]


@pytest.mark.parametrize("stage", ["scaled_s", "u_scaled", "matmul_pre_norm", "final_f32"])
def test_a_mean_beyond_its_limit_fails_though_no_entry_is_far(tmp_path: Path, stage: str) -> None:
    largest, mean, _ = PUBLISHED[stage]
    step = 2 * mean
    assert step < largest
    found = compared(
        tmp_path,
        {name: tensor.double() for name, tensor in stages().items()},
        changed(stage, lambda tensor: tensor.double() + step),
    )
    assert far(check_of(found, stage)).mean_abs == pytest.approx(step, rel=1e-6)
    assert [check.stage for check in found.failed] == [stage]


def test_differences_within_the_limits_pass(tmp_path: Path) -> None:
    candidate = {name: tensor.double() for name, tensor in stages().items()}
    for stage in REQUIRED[2:]:
        candidate[f"stage.{stage}"] += PUBLISHED[stage][1] / 2
    found = compared(tmp_path, {name: tensor.double() for name, tensor in stages().items()}, candidate)
    assert found.passed
    assert not check_of(found, "scaled_s").bytes_match


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("both", [False, True])
def test_what_is_not_finite_never_passes(tmp_path: Path, value: float, both: bool) -> None:
    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        spoiled = tensor.clone()
        spoiled[7, 2] = value
        return spoiled

    broken = changed("final_f32", spoil)
    found = compared(tmp_path, broken if both else stages(), broken)
    assert [check.stage for check in found.failed] == ["final_f32"]
    entry = json.loads(json.dumps(check_of(found, "final_f32").to_dict(), allow_nan=False))
    assert entry["max_abs"] is None
    assert not entry["passed"]


@pytest.mark.parametrize("stage", REQUIRED)
@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_a_missing_required_stage_is_a_set_up_error(tmp_path: Path, stage: str, side: str) -> None:
    lacking = {name: tensor for name, tensor in stages().items() if name != f"stage.{stage}"}
    pair = (lacking, stages()) if side == "reference" else (stages(), lacking)
    with pytest.raises(ParitySetupError, match=rf"lacks stage\.{stage}:"):
        compared(tmp_path, *pair)


def test_a_tensor_that_one_side_lacks_is_a_set_up_error(tmp_path: Path) -> None:
    one, two = stages("tensor.model.a.weight."), stages("tensor.model.b.weight.")
    with pytest.raises(ParitySetupError, match=r"b\.safetensors lacks tensor\.model\.b\.weight\.source_f32"):
        compared(tmp_path, one | two, one)
    with pytest.raises(ParitySetupError, match=r"a\.safetensors lacks"):
        compared(tmp_path, one, one | two)


def test_tensors_are_told_apart_by_name(tmp_path: Path) -> None:
    found = compared(tmp_path, stages("tensor.model.a.weight."), stages("tensor.model.a.weight."))
    assert {check.tensor for check in found.checks} == {"model.a.weight"}
    assert [check.stage for check in found.checks] == list(PUBLISHED)


def test_final_bf16_is_reported_and_required_only_on_demand(tmp_path: Path) -> None:
    candidate = changed("final_bf16", lambda tensor: tensor + 1)
    assert compared(tmp_path, stages(), candidate).passed
    found = compared(tmp_path, stages(), candidate, strict_bytes=True)
    assert [check.stage for check in found.failed] == ["final_bf16"]
    assert compared(tmp_path, stages(), stages(), strict_bytes=True).passed


def test_one_differing_bit_counts_for_strict_bytes_alone(tmp_path: Path) -> None:
    def flip(tensor: torch.Tensor) -> torch.Tensor:
        bits = tensor.clone().view(torch.int16)
        bits[3, 3] ^= 1
        return bits.view(torch.bfloat16)

    found = compared(tmp_path, stages(), changed("final_bf16", flip), strict_bytes=True)
    assert far(check_of(found, "final_bf16")).differing == 1
    assert not found.passed


def test_strict_bytes_names_the_published_hashes_that_each_side_meets(tmp_path: Path) -> None:
    other = changed("final_bf16", lambda stored: stored + 1)
    held = [side["stage.final_bf16"].view(torch.int16).numpy().tobytes() for side in (stages(), other)]
    published = {hashlib.sha256(held[0]).hexdigest(): "historical", "0" * 64: "reproducible"}
    sides = [open_stages(saved(tmp_path / f"{i}.safetensors", side)) for i, side in enumerate((stages(), other))]
    found = compare(sides[0], sides[1], strict_bytes=True, published=published)
    assert found.to_dict()["published_hashes_met"] == {"reference": ["historical"], "candidate": []}
    assert compare(sides[0], sides[1], published=published).to_dict()["published_hashes_met"] is None


def test_without_final_bf16_strict_bytes_is_a_set_up_error(tmp_path: Path) -> None:
    lacking = {name: tensor for name, tensor in stages().items() if name != "stage.final_bf16"}
    found = compared(tmp_path, stages(), lacking)
    assert found.passed
    assert check_of(found, "final_bf16").obstacle == "missing in the candidate"
    with pytest.raises(ParitySetupError, match=r"lacks stage\.final_bf16"):
        compared(tmp_path, stages(), lacking, strict_bytes=True)


def test_equal_numbers_of_another_type_do_not_match_byte_for_byte(tmp_path: Path) -> None:
    found = compared(tmp_path, stages(), changed("final_bf16", lambda tensor: tensor.float()))
    assert far(check_of(found, "final_bf16")).max_abs == 0
    assert not check_of(found, "final_bf16").bytes_match


def test_another_shape_fails_a_required_stage(tmp_path: Path) -> None:
    found = compared(tmp_path, stages(), changed("final_f32", lambda tensor: tensor.T))
    assert [check.stage for check in found.failed] == ["final_f32"]
    assert check_of(found, "final_f32").obstacle == "shapes [12, 5] and [5, 12]"


def test_stages_of_unknown_name_are_reported_and_never_fail(tmp_path: Path) -> None:
    extra = {"stage.thought": torch.zeros(3)}
    found = compared(tmp_path, stages() | extra, stages() | {"stage.thought": torch.ones(3)})
    assert found.passed
    assert not check_of(found, "thought").within_limits
    assert compared(tmp_path, stages() | extra, stages()).passed


def test_signs_of_columns_are_aligned_in_u_scaled_and_counted(tmp_path: Path) -> None:
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0])
    check = check_of(compared(tmp_path, stages(), changed("u_scaled", lambda tensor: tensor * signs)), "u_scaled")
    assert check.passed
    assert far(check) == Difference(0.0, 0.0, 3 * ROWS, turned=3)


def test_signs_are_aligned_in_no_other_stage(tmp_path: Path) -> None:
    for stage in ("matmul_pre_norm", "scaled_s"):
        found = compared(tmp_path, stages(), changed(stage, lambda tensor: -tensor))
        assert [check.stage for check in found.failed] == [stage]


def test_a_sign_within_a_column_is_not_aligned_away(tmp_path: Path) -> None:
    def flip(tensor: torch.Tensor) -> torch.Tensor:
        flipped = tensor.clone()
        flipped[4, 1] *= -1
        return flipped

    assert not compared(tmp_path, stages(), changed("u_scaled", flip)).passed


def bundle(folder: Path, tensors: Tensors, components: str, name: str = "w") -> Path:
    folder.mkdir()
    saved(folder / "stages.safetensors", tensors)
    origin = {"sha256": components * 64, "dtype": "float32", "method": "given"}
    write_report(folder, {"components": origin, "tensors": [{"name": name}]})
    return folder


@pytest.mark.parametrize(("components", "relation", "passes"), [("a", "same", False), ("b", "different", True)])
def test_signs_count_where_both_sides_have_the_same_components(
    tmp_path: Path, components: str, relation: str, passes: bool
) -> None:
    one = bundle(tmp_path / "one", stages(), "a")
    two = bundle(tmp_path / "two", changed("u_scaled", lambda tensor: -tensor), components)
    found = compare(open_stages(one), open_stages(two))
    assert found.components == relation
    assert found.passed is passes


def test_bundles_of_different_tensors_are_a_set_up_error(tmp_path: Path) -> None:
    one, two = (bundle(tmp_path / name, stages(), "a", name) for name in ("one", "two"))
    with pytest.raises(ParitySetupError, match="the reference is of one, and the candidate of two"):
        compare(open_stages(one), open_stages(two))


def test_a_folder_without_a_report_was_never_finished(tmp_path: Path) -> None:
    saved(tmp_path / "stages.safetensors", stages())
    with pytest.raises(ParitySetupError, match="no finished stage bundle"):
        open_stages(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.zeros(2)}, "holds no stage"),
        ({"stage.source_f32": torch.zeros(2, dtype=torch.int32)}, "is I32, not one of"),
    ],
)
def test_a_file_that_holds_no_stages_is_refused(tmp_path: Path, tensors: Tensors, message: str) -> None:
    with pytest.raises(ParitySetupError, match=message):
        open_stages(saved(tmp_path / "file.safetensors", tensors))


def test_nothing_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParitySetupError, match="no stage bundle at"):
        open_stages(tmp_path / "nowhere")
    path = saved(tmp_path / "file.safetensors", stages())
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(TensorFileInvalid, match="truncated"):
        open_stages(path)


def test_the_report_counts_what_the_table_shows(tmp_path: Path) -> None:
    candidate = changed("scaled_s", lambda tensor: tensor + 1) | {"stage.final_bf16": stages()["stage.final_bf16"] + 1}
    report = compared(tmp_path, stages(), candidate).to_dict()
    assert report | {"checks": None} == {
        "schema": "trinity-mlx.parity.comparison",
        "version": 1,
        "passed": False,
        "components": "unknown",
        "strict_bytes": False,
        "required": 9,
        "required_failed": 1,
        "final_bf16": 1,
        "final_bf16_bytes_match": 0,
        "published_hashes_met": None,
        "checks": None,
    }
    keys = {
        *("tensor", "stage", "required", "passed", "within_limits", "max_abs", "mean_abs", "limits", "bytes_match"),
        *("differing_entries", "columns_turned", "reference_shape", "candidate_shape"),
    }
    assert all(set(check) == keys for check in report["checks"])


@given(st.integers(1, 20), st.integers(1, 8), st.integers(1, 40), st.booleans(), st.integers(0, 2**32 - 1))
def test_chunks_give_what_whole_arrays_give(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, chunk: int, align: bool, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    one = draw.normal(size=(rows, columns)).astype(np.float32)
    two = (one * draw.choice([-1, 1], columns) + draw.choice([0, 1e-3], (rows, columns))).astype(np.float32)
    path = tmp_path_factory.mktemp("chunks") / "file.safetensors"
    torch_files.save_file({"one": torch.from_numpy(one), "two": torch.from_numpy(two)}, path)
    header = read_header(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE_ELEMENTS", chunk)
        found = difference(header["one"], header["two"], align=align)
    signs = np.where(np.sum(one.astype(np.float64) * two, axis=0) < 0, -1, 1) if align else np.ones(columns)
    distance = np.abs(two * signs - one.astype(np.float64))
    assert found.max_abs == distance.max()
    assert found.mean_abs == pytest.approx(distance.mean(), rel=1e-12)
    assert found.differing == int((one != two).sum())
    assert found.turned == (int((signs < 0).sum()) if align else None)


def test_progress_reaches_the_announced_volume(tmp_path: Path) -> None:
    from trinity_mlx.parity.compare import volume

    sides = open_stages(saved(tmp_path / "a", stages())), open_stages(saved(tmp_path / "b", stages()))
    done: list[int] = []
    compare(*sides, advance=done.append)
    assert sum(done) == volume(*sides)

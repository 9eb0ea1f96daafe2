"""Stage bundles of a small base: the reference against the definition, both backends against the reference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import torch as torch_files

from trinity_mlx.artifacts.component_files import COMPONENTS
from trinity_mlx.contracts.artifact import Base
from trinity_mlx.contracts.errors import BaseInvalid, ParitySetupError, TensorFileInvalid, VectorInvalid
from trinity_mlx.factorization import tiles
from trinity_mlx.parity.checks import Comparison
from trinity_mlx.parity.compare import compare, open_stages
from trinity_mlx.parity.components import Decomposer
from trinity_mlx.parity.record import Task, plan, record_reference, record_run
from trinity_mlx.profiles.backends import load_backend

from .. import builders

EMBEDDING = builders.EMBEDDING
STAGES = [
    "source_f32",
    "offsets_f32",
    "scaled_s",
    "normalization",
    "u_scaled",
    "matmul_pre_norm",
    "zero_source_f32",
    "adapted_source_f32",
    "final_f32",
    "final_bf16",
]
LAYER = "model.layers.1."
WIDE = LAYER + "mlp.down_proj.weight"
SQUARE = LAYER + "self_attn.k_proj.weight"


@pytest.fixture(scope="module")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """In bfloat16, with weights as small as a real model's; ``lm_head`` is the embedding."""
    folder = tmp_path_factory.mktemp("small") / "base"
    return builders.make_base(folder, dtype=torch.bfloat16, initializer_range=0.05)


@pytest.fixture(scope="module")
def vector(small_base: Base) -> np.ndarray:
    draw = np.random.default_rng(4)
    sides = [min(64, side) for side in (384, 128, 64, 64, 64, 96, 96, 64, 384)]
    return np.concatenate([draw.normal(0, 0.02, sum(sides)), draw.normal(0, 0.3, 10 * 64)]).astype(np.float32)


@pytest.fixture(scope="module")
def task(small_base: Base, vector: np.ndarray) -> Task:
    return plan(small_base, vector, "0" * 64)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory, task: Task) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("references")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE_ELEMENTS", 64 * 20)
        for dtype in ("float32", "float64"):
            record_reference(task, folder / dtype, dtype)
    return {dtype: folder / dtype for dtype in ("float32", "float64")}


def run_on(task: Task, backend: str, out: Path, components: Path | None = None) -> Path:
    """A stage bundle of this system, made in many small blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE_ELEMENTS", 64 * 20)
        record_run(task, out, load_backend(backend), "cpu", builders.PROFILES[backend], components)
    return out


def compared(reference: Path, candidate: Path) -> Comparison:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE_ELEMENTS", 64 * 20)
        return compare(open_stages(reference), open_stages(candidate))


def by_definition(weight: torch.Tensor, offsets: torch.Tensor) -> dict[str, torch.Tensor]:
    """The published pipeline on a whole tensor, in the tensor's number type."""
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    scaled = s * (1 + offsets.to(s.dtype))
    norm = s.sum() / scaled.sum()
    adapted = (u * scaled) @ vh * norm
    return {
        "source_f32": weight,
        "offsets_f32": offsets,
        "scaled_s": scaled,
        "normalization": norm,
        "u_scaled": u * scaled,
        "matmul_pre_norm": (u * scaled) @ vh,
        "zero_source_f32": (u * s) @ vh,
        "adapted_source_f32": adapted,
        "final_f32": adapted,
        "final_bf16": adapted.float().to(torch.bfloat16),
    }


def sources(base: Base) -> dict[str, torch.Tensor]:
    weights = torch_files.load_file(base.folder / "model.safetensors")
    return {**weights, "lm_head.weight": weights[EMBEDDING]}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_reference_follows_the_definition(
    references: Mapping[str, Path], small_base: Base, task: Task, dtype: str
) -> None:
    held, weights = torch_files.load_file(references[dtype] / "stages.safetensors"), sources(small_base)
    assert len(task.subjects) == 9
    assert set(held) == {f"tensor.{subject.name}.{stage}" for subject in task.subjects for stage in STAGES}
    for subject in task.subjects:
        weight = weights[subject.name].to(getattr(torch, dtype))
        for stage, expected in by_definition(weight, torch.from_numpy(subject.offsets)).items():
            found = held[f"tensor.{subject.name}.{stage}"]
            assert found.shape == expected.shape
            assert found.dtype == (torch.bfloat16 if stage == "final_bf16" else torch.float32)
            atol = 2e-3 if stage == "final_bf16" else 3e-6
            torch.testing.assert_close(found.double(), expected.double(), atol=atol, rtol=0)


def test_offsets_are_the_slices_of_the_vector_in_order(references: Mapping[str, Path], vector: np.ndarray) -> None:
    held = torch_files.load_file(references["float32"] / "stages.safetensors")
    report = json.loads((references["float32"] / "report.json").read_text())
    parts = [held[f"tensor.{tensor['name']}.offsets_f32"].numpy() for tensor in report["tensors"]]
    np.testing.assert_array_equal(np.concatenate(parts), vector[: 9 * 64])


@pytest.mark.parametrize("backend", builders.BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_required_stage_passes_from_the_same_components(
    tmp_path: Path, references: Mapping[str, Path], task: Task, backend: str, dtype: str
) -> None:
    found = compared(references[dtype], run_on(task, backend, tmp_path / "run", references[dtype]))
    assert found.components == "same"
    assert [check for check in found.checks if check.limits.required and not check.within_limits] == []
    assert len(found.checks) == 90
    assert all(check.difference is not None and check.difference.turned is None for check in found.checks)


@pytest.mark.parametrize("backend", builders.BACKENDS)
def test_every_required_stage_passes_from_gram_matrices_against_float64(
    tmp_path: Path, references: Mapping[str, Path], task: Task, backend: str
) -> None:
    found = compared(references["float64"], run_on(task, backend, tmp_path / "run"))
    assert found.components == "different"
    assert found.failed == []
    turned = [check.difference.turned for check in found.checks if check.stage == "u_scaled" and check.difference]
    assert any(turned)
    assert all(0 <= columns <= 64 for columns in turned if columns is not None)


def test_gram_runs_on_two_backends_start_from_the_same_components(tmp_path: Path, task: Task) -> None:
    found = compared(*(run_on(task, backend, tmp_path / backend) for backend in builders.BACKENDS))
    assert found.components == "same"
    assert found.passed


@pytest.mark.parametrize("backend", builders.BACKENDS)
def test_the_final_bytes_are_those_of_an_export(tmp_path: Path, small_base: Base, task: Task, backend: str) -> None:
    from trinity_mlx.factorization.gram import spectrum_of
    from trinity_mlx.factorization.svf import change_of, execution_for, gains

    held = torch_files.load_file(run_on(task, backend, tmp_path / "run") / "stages.safetensors")
    factorizer = load_backend(backend).factorizer("cpu")
    for subject in task.subjects:
        spectrum = spectrum_of(factorizer.gram(subject.source))
        change = change_of(spectrum, gains(spectrum.singular, subject.offsets))
        written = b"".join(factorizer.adapted_tiles(subject.source, execution_for(subject.shape), change))
        exported = torch.frombuffer(bytearray(written), dtype=torch.bfloat16).view(subject.shape)
        stored = held[f"tensor.{subject.name}.final_bf16"]
        torch.testing.assert_close(stored, exported, rtol=2**-7, atol=1e-7)
        assert (stored != exported).float().mean() < 1e-3


@pytest.mark.parametrize("name", [WIDE, SQUARE, EMBEDDING])
def test_a_bundle_of_one_tensor_has_plain_names_and_the_published_orientation(
    tmp_path: Path, small_base: Base, vector: np.ndarray, name: str
) -> None:
    single = plan(small_base, vector, "0" * 64, name)
    record_reference(single, tmp_path / "ref")
    held = torch_files.load_file(tmp_path / "ref" / "stages.safetensors")
    assert set(held) == {f"stage.{stage}" for stage in STAGES}
    adapted = held["stage.adapted_source_f32"]
    expected = adapted.T if name.startswith("model.layers.") else adapted
    torch.testing.assert_close(held["stage.final_f32"], expected, rtol=0, atol=0)
    torch.testing.assert_close(held["stage.final_bf16"], expected.to(torch.bfloat16), rtol=0, atol=0)
    for backend in builders.BACKENDS:
        assert compared(tmp_path / "ref", run_on(single, backend, tmp_path / backend, tmp_path / "ref")).passed


def test_one_tensor_can_start_from_the_components_of_all(
    tmp_path: Path, references: Mapping[str, Path], small_base: Base, vector: np.ndarray
) -> None:
    single = plan(small_base, vector, "0" * 64, WIDE)
    record_reference(single, tmp_path / "ref")
    found = compared(tmp_path / "ref", run_on(single, "torch", tmp_path / "run", references["float32"]))
    assert found.components == "same"
    assert found.passed


def test_a_source_that_two_names_share_is_decomposed_once(tmp_path: Path, task: Task) -> None:
    decomposed = []

    def decompose(matrix: np.ndarray) -> object:
        from trinity_mlx.factorization.stages import Components

        decomposed.append(matrix.shape)
        u, s, vh = np.linalg.svd(matrix, full_matrices=False)
        return Components(u, s, vh.T)

    report = record_reference(task, tmp_path, components=Decomposer("numpy.linalg.svd", "2", decompose))  # type: ignore[arg-type]
    assert len(decomposed) == 8
    assert report["components"]["method"] == "numpy.linalg.svd 2"
    held = torch_files.load_file(tmp_path / COMPONENTS)
    torch.testing.assert_close(held["svd.U.lm_head.weight"], held[f"svd.U.{EMBEDDING}"], rtol=0, atol=0)


def test_components_are_a_thin_decomposition_with_v_as_columns(
    references: Mapping[str, Path], small_base: Base
) -> None:
    held = torch_files.load_file(references["float64"] / COMPONENTS)
    for name in (WIDE, SQUARE, EMBEDDING):
        u, s, v = (held[f"svd.{part}.{name}"] for part in "USV")
        torch.testing.assert_close(u @ torch.diag(s) @ v.T, sources(small_base)[name].double(), atol=1e-12, rtol=0)


def test_the_report_says_what_was_done(references: Mapping[str, Path], small_base: Base) -> None:
    report = json.loads((references["float64"] / "report.json").read_text())
    assert (report["schema"], report["version"], report["kind"]) == ("trinity-mlx.parity.stages", 1, "reference")
    assert report["base_ref"] == small_base.ref
    assert report["components"]["method"].startswith("torch.linalg.svd ")
    assert report["components"]["dtype"] == report["arithmetic"]["dtype"] == "float64"
    assert report["arithmetic"]["engine"] == "numpy"
    first = report["tensors"][0]
    assert (first["name"], first["shape"], first["final_orientation"]) == (EMBEDDING, [384, 64], "source")
    assert 0 < first["smallest_gap"] < 1


def test_an_unknown_tensor_is_refused_with_the_choices(small_base: Base, vector: np.ndarray) -> None:
    with pytest.raises(ParitySetupError, match=r"does not adapt 'nothing': choose one of model\.embed_tokens\.weight"):
        plan(small_base, vector, "", "nothing")


def test_a_vector_of_another_length_is_refused_with_the_arithmetic(small_base: Base, vector: np.ndarray) -> None:
    with pytest.raises(VectorInvalid, match="9 tensors take 576 offsets"):
        plan(small_base, vector[:-1], "")


def test_an_untied_base_without_lm_head_is_refused(small_base: Base, vector: np.ndarray) -> None:
    from dataclasses import replace

    untied = replace(small_base, config=replace(small_base.config, tied_embeddings=False))
    with pytest.raises(TensorFileInvalid, match=r"lm_head\.weight"):
        plan(untied, vector, "")


def test_offsets_that_cancel_everything_are_refused(tmp_path: Path, small_base: Base, vector: np.ndarray) -> None:
    cancelling = vector.copy()
    cancelling[: 9 * 64] = -1
    with pytest.raises(ParitySetupError, match="nothing to normalise by"):
        record_reference(plan(small_base, cancelling, "", SQUARE), tmp_path)
    assert not (tmp_path / "stages.safetensors").exists()
    assert not (tmp_path / "report.json").exists()


def test_missing_components_are_a_set_up_error(tmp_path: Path, small_base: Base, vector: np.ndarray) -> None:
    square, wide = (plan(small_base, vector, "", name) for name in (SQUARE, WIDE))
    with pytest.raises(ParitySetupError, match=f"has no {COMPONENTS}"):
        run_on(square, "torch", tmp_path / "run", tmp_path)
    record_reference(square, tmp_path / "ref")
    with pytest.raises(ParitySetupError, match=r"has no svd\.S|has no svd\.U"):
        run_on(wide, "torch", tmp_path / "run", tmp_path / "ref")


def test_a_run_never_overwrites_the_components_that_it_starts_from(references: Mapping[str, Path], task: Task) -> None:
    folder = references["float32"]
    with pytest.raises(ParitySetupError, match="give the run a folder of its own"):
        run_on(task, "torch", folder / ".." / folder.name, folder)
    assert (folder / "report.json").is_file()


def test_transposed_v_is_refused(tmp_path: Path, references: Mapping[str, Path], small_base: Base) -> None:
    held = torch_files.load_file(references["float32"] / COMPONENTS)
    held[f"svd.V.{WIDE}"] = held[f"svd.V.{WIDE}"].T.contiguous()
    torch_files.save_file(held, tmp_path / COMPONENTS)
    single = plan(small_base, np.zeros(9 * 64 + 640, np.float32), "", WIDE)
    with pytest.raises(ParitySetupError, match=r"is vh, which is called nx too: .* torch_v"):
        run_on(single, "torch", tmp_path / "run", tmp_path)


@pytest.mark.parametrize("way", ["reference", "gram"])
def test_a_source_that_is_not_finite_is_refused(tmp_path: Path, small_base: Base, vector: np.ndarray, way: str) -> None:
    weights = torch_files.load_file(small_base.folder / "model.safetensors")
    weights[SQUARE][3, 5] = torch.nan
    torch_files.save_file(weights, tmp_path / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((small_base.folder / name).read_bytes())
    single = plan(builders.open_base(tmp_path), vector, "", SQUARE)
    with pytest.raises(BaseInvalid, match="NaN or infinity"):
        record_reference(single, tmp_path / "out") if way == "reference" else run_on(single, "mlx", tmp_path / "out")

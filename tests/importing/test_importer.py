"""Imports: what other programs made becomes a bundle that routes as they meant it, or is refused and leaves nothing."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import numpy as numpy_files
from safetensors import safe_open
from safetensors import torch as torch_files

from trinity_mlx.artifacts.catalog import find_bundle
from trinity_mlx.artifacts.component_files import safe_name
from trinity_mlx.artifacts.manifest import Manifest
from trinity_mlx.artifacts.manifest import read_manifest as read_own_manifest
from trinity_mlx.cli import main
from trinity_mlx.contracts.artifact import Base, Execution
from trinity_mlx.contracts.errors import (
    ArtifactError,
    ArtifactNotFound,
    BaseMismatch,
    BundleInvalid,
    FolderUnavailable,
    OutputExists,
    TensorFileInvalid,
    UsageError,
)
from trinity_mlx.factorization import tiles
from trinity_mlx.importing.importer import ImportReport, import_bundle
from trinity_mlx.importing.request import ImportRequest
from trinity_mlx.routing.loading import load_router
from trinity_mlx.routing.reader import needed_tokens

from .. import builders
from ..artifacts.test_published import PUBLISHED_AGENTS, PUBLISHED_VECTOR, adapted_weights, write_published
from ..builders import EMBEDDING, PlainRecipe, fresh, hidden, relative

EXACT = 1e-5
TOKENS = tuple(range(3, 60))
PROMPTS = ("What is 17 + 25?", "x", "Write a function that sorts a list of words. " * 4)
Decomposition = tuple[np.ndarray, np.ndarray, np.ndarray]


# --- sources, written as the other programs write them --------------------------------------------------------------


def decompose(base: Base) -> dict[str, Decomposition]:
    """``U``, ``S`` and ``V`` (not transposed) of every adapted tensor and of ``lm_head``."""
    found = {name: decomposition(torch.from_numpy(source(base, name))) for name in builders.adapted_names(base)}
    return found | {"lm_head.weight": found[EMBEDDING]}


def decomposition(weight: torch.Tensor) -> Decomposition:
    """By torch in float64, rounded to float32.

    In float32 it misses the matrix by 1.4e-6 of its largest entry on some processors, and that would be most of what a
    test finds between a router and the components' definition: 1.0e-5 then, and 1.2e-6 so.
    """
    u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    return u.float().numpy(), s.float().numpy(), vh.T.float().numpy()


def source(base: Base, name: str) -> np.ndarray:
    return builders.source_tensor(base, name)


def all_offsets(base: Base, scale: float = 0.3) -> dict[str, np.ndarray]:
    offsets = builders.make_offsets(base, scale=scale)
    ordered = {name: offsets[name] for name in builders.adapted_names(base)}
    return ordered | {"lm_head.weight": np.full(base.config.hidden_size, 0.5)}


def by_definition(parts: Decomposition, offsets: np.ndarray) -> np.ndarray:
    """``norm * U diag(S (1 + d)) V^T`` of the given components, in float64."""
    u, s, v = (part.astype(np.float64) for part in parts)
    scaled = s * (1.0 + offsets)
    adapted: np.ndarray = (s.sum() / scaled.sum()) * (u * scaled) @ v.T
    return adapted


def write_export(
    folder: Path,
    parts: Mapping[str, Decomposition],
    offsets: Mapping[str, np.ndarray],
    head: np.ndarray,
    dtype: type[np.floating[Any]] = np.float32,
) -> Path:
    """The component export of the Python tools; offsets and head in ``dtype``, as its switch has it."""
    folder.mkdir(parents=True)
    components = {
        f"svd.{letter}.{name.replace('/', '__')}": np.ascontiguousarray(part)
        for name, three in parts.items()
        for letter, part in zip("USV", three, strict=True)
    }
    scales = {f"svf.scale_offsets.{name}": values.astype(dtype) for name, values in offsets.items()}
    numpy_files.save_file(components, folder / "trinity_svf_components.safetensors")
    numpy_files.save_file(scales, folder / "trinity_svf_scale_offsets.safetensors")
    numpy_files.save_file(
        {"trinity.router_head.linear.weight": head.astype(dtype)}, folder / "trinity_router_head.safetensors"
    )
    (folder / "trinity_sakana_export_manifest.json").write_text(json.dumps(export_manifest(parts, head)))
    return folder


def export_manifest(parts: Mapping[str, Decomposition], head: np.ndarray) -> dict[str, Any]:
    return {
        "format": "trinity_sakana_safetensors_export",
        "version": 1,
        "source": {"model_name": "test/tiny", "router_vector": "v.npy", "router_vector_sha256": PUBLISHED_VECTOR},
        "model": {"hidden_size": head.shape[1], "opt_layer_indices": [1]},
        "routing": {"agent_labels": list(builders.LABELS), "head_shape": list(head.shape)},
        "svf": {"entries": [{"source_parameter": name, "safe_parameter": name} for name in parts]},
        "outputs": {"components": "/somewhere/else.safetensors"},
    }


def write_svd_weights(path: Path, parts: Mapping[str, Decomposition], **extra: Any) -> Path:
    """``svd_weights.pt``; ``U`` and ``V`` keep their strides, as ``torch.svd`` leaves them."""
    held = {
        f"{name}.{letter}": torch.from_numpy(part)
        for name, three in parts.items()
        for letter, part in zip("USV", three, strict=True)
    }
    torch.save(held | extra, path)
    return path


def write_vector(path: Path, offsets: Mapping[str, np.ndarray], head: np.ndarray) -> Path:
    vector = np.concatenate([*offsets.values(), head.ravel()])
    if path.suffix == ".npy":
        np.save(path, vector.astype(np.float64))
    else:
        numpy_files.save_file({"trinity_router_es_vector": vector.astype(np.float32)}, path)
    return path


@pytest.fixture(scope="module")
def parts(tiny_base: Base) -> dict[str, Decomposition]:
    return decompose(tiny_base)


@pytest.fixture(scope="module")
def offsets(tiny_base: Base) -> dict[str, np.ndarray]:
    return all_offsets(tiny_base)


@pytest.fixture(scope="module")
def recipe(tiny_base: Base, parts: dict[str, Decomposition], offsets: dict[str, np.ndarray]) -> PlainRecipe:
    names = builders.adapted_names(tiny_base)
    return PlainRecipe(tiny_base.folder, {name: by_definition(parts[name], offsets[name]) for name in names})


@pytest.fixture
def export(
    tmp_path: Path, parts: dict[str, Decomposition], offsets: dict[str, np.ndarray], tiny_head: np.ndarray
) -> Path:
    return write_export(tmp_path / "export", parts, offsets, tiny_head)


@pytest.fixture
def published(tmp_path: Path, tiny_base: Base, tiny_head: np.ndarray) -> Path:
    return write_published(
        tmp_path / "published", adapted_weights(tiny_base), tiny_head, dtype=torch.bfloat16, spelling="bf16"
    )


@pytest.fixture
def weights_file(tmp_path: Path, parts: dict[str, Decomposition]) -> Path:
    return write_svd_weights(tmp_path / "svd_weights.pt", parts)


@pytest.fixture
def vector_file(tmp_path: Path, offsets: dict[str, np.ndarray], tiny_head: np.ndarray) -> Path:
    return write_vector(tmp_path / "vector.npy", offsets, tiny_head)


@pytest.fixture
def run(tmp_path: Path, tiny_base: Base) -> Callable[..., ImportReport]:
    def run(origin: Path, **changes: Any) -> ImportReport:
        request = {"source": origin, "base": str(tiny_base.folder), "out": tmp_path / "out"}
        return import_bundle(ImportRequest(**{**request, **changes}))

    return run


def differences(base: Base, folder: Path, recipe: PlainRecipe) -> list[float]:
    """How far the hidden vectors of a bundle are from the oracle's, on every backend."""
    bundle = find_bundle(folder)
    models = [builders.cpu_model(name, base, bundle) for name in builders.BACKENDS]
    found = [hidden(model, *fresh(needed_tokens(TOKENS)))[0] for model in models]
    return [relative(vector, recipe.hidden(TOKENS)) for vector in found]


def left_in(folder: Path, *expected: str) -> bool:
    return {path.name for path in folder.iterdir()} == set(expected)


# --- components ------------------------------------------------------------------------------------------------------


def test_components_route_as_their_definition_says(
    run: Callable[..., ImportReport], tiny_base: Base, export: Path, recipe: PlainRecipe
) -> None:
    report = run(export)
    assert max(differences(tiny_base, report.folder, recipe)) <= EXACT
    for tensor in report.tensors:
        assert tensor.fidelity is not None
        assert max(tensor.fidelity.zero, tensor.fidelity.adapted) <= EXACT


def test_each_tensor_is_stored_as_the_smaller_factor_in_float32(
    run: Callable[..., ImportReport], tiny_base: Base, export: Path
) -> None:
    bundle = find_bundle(run(export).folder)
    assert len(bundle.adapter.entries) == 8
    for entry in bundle.adapter.entries:
        rows, columns = tiny_base.tensors[entry.source].shape
        assert entry.execution is (Execution.RIGHT if rows >= columns else Execution.LEFT)
        assert entry.tensor.shape == (min(rows, columns),) * 2
        assert entry.tensor.dtype == "F32"


def test_the_given_order_counts_not_that_of_a_new_decomposition(
    run: Callable[..., ImportReport],
    tmp_path: Path,
    tiny_base: Base,
    parts: dict[str, Decomposition],
    offsets: dict[str, np.ndarray],
    tiny_head: np.ndarray,
) -> None:
    order = {name: np.random.default_rng(3).permutation(len(s)) for name, (_, s, _) in parts.items()}
    shuffled = {name: (u[:, order[name]], s[order[name]], v[:, order[name]]) for name, (u, s, v) in parts.items()}
    report = run(write_export(tmp_path / "shuffled", shuffled, offsets, tiny_head))
    names = builders.adapted_names(tiny_base)
    meant = {name: by_definition(shuffled[name], offsets[name]) for name in names}
    assert max(differences(tiny_base, report.folder, PlainRecipe(tiny_base.folder, meant))) <= EXACT


def test_offsets_and_head_in_float64(
    run: Callable[..., ImportReport],
    tmp_path: Path,
    tiny_base: Base,
    parts: dict[str, Decomposition],
    offsets: dict[str, np.ndarray],
    tiny_head: np.ndarray,
    recipe: PlainRecipe,
) -> None:
    report = run(write_export(tmp_path / "double", parts, offsets, tiny_head, np.float64))
    assert max(differences(tiny_base, report.folder, recipe)) <= EXACT


def test_a_bfloat16_base(run: Callable[..., ImportReport], tmp_path: Path, offsets: dict[str, np.ndarray]) -> None:
    base = builders.make_base(tmp_path / "base", dtype=torch.bfloat16)
    with safe_open(base.folder / "model.safetensors", "pt") as file:
        wide = {name: file.get_tensor(name).float() for name in builders.adapted_names(base)}
    split = {name: decomposition(weight) for name, weight in wide.items()}
    chosen = {name: offsets[name] for name in split}
    report = run(write_export(tmp_path / "e", split, chosen, builders.make_head(base)), base=str(base.folder))
    meant = {name: by_definition(split[name], chosen[name]) for name in split}
    assert max(differences(base, report.folder, PlainRecipe(base.folder, meant))) <= EXACT


@pytest.mark.parametrize(("key", "layout"), [("python_v_layout", "vh"), ("v_layout", "nx")])
def test_v_may_lie_with_its_vectors_as_rows_where_the_manifest_says_so(
    run: Callable[..., ImportReport], export: Path, key: str, layout: str
) -> None:
    expected = run(export).adapter_ref
    turn = {name: np.ascontiguousarray(v.T) for name, v in numpy_files.load_file(export / COMPONENTS).items()}
    edit_file(COMPONENTS, lambda held: held.update({name: turn[name] for name in held if ".V." in name}))(export)
    with pytest.raises(TensorFileInvalid, match="it lies as vh"):
        run(export, force=True)
    edit_manifest(export, lambda manifest: [entry.update({key: layout}) for entry in manifest["svf"]["entries"]])
    assert run(export, force=True).adapter_ref == expected


def test_the_bundle_says_where_it_comes_from(run: Callable[..., ImportReport], export: Path, tiny_base: Base) -> None:
    manifest = own_manifest(run(export))
    assert manifest.name == "sakana"
    assert manifest.base.id == "test/tiny"
    assert manifest.base.ref == tiny_base.ref
    assert manifest.agents == builders.LABELS
    assert manifest.made["method"] == "imported components"
    assert float(manifest.made["zero_offset_error"]) < EXACT
    assert manifest.lineage["vector"] == PUBLISHED_VECTOR
    assert manifest.lineage.keys() == {"manifest", "components", "scale_offsets", "router_head", "vector"}
    assert {entry.path for entry in manifest.files} == {"adapter.safetensors", "router_head.safetensors", "README.md"}


def own_manifest(report: ImportReport) -> Manifest:
    return read_own_manifest(report.folder)


def test_safe_names() -> None:
    assert safe_name("a/b.weight") == "a__b.weight"
    assert safe_name(EMBEDDING) == EMBEDDING


# --- components that are not the base's -----------------------------------------------------------------------------


def swapped(three: Decomposition) -> Decomposition:
    u, s, v = three
    return u[:, ::-1].copy(), s, v


def noisy(three: Decomposition) -> Decomposition:
    u, s, v = three
    return u + np.random.default_rng(1).normal(0, 5e-3, u.shape).astype(np.float32), s, v


def not_a_number(three: Decomposition) -> Decomposition:
    u, s, v = three
    return np.where(u == u.max(), np.nan, u), s, v


def turned(three: Decomposition) -> Decomposition:
    u, s, v = three
    return u, s, v.T.copy()


@pytest.mark.parametrize("spoil", [swapped, noisy, not_a_number, turned])
@pytest.mark.parametrize("name", [EMBEDDING, "model.layers.1.self_attn.k_proj.weight"])
def test_components_that_do_not_give_the_base_back(
    run: Callable[..., ImportReport],
    tmp_path: Path,
    parts: dict[str, Decomposition],
    offsets: dict[str, np.ndarray],
    tiny_head: np.ndarray,
    spoil: Callable[[Decomposition], Decomposition],
    name: str,
) -> None:
    spoilt = write_export(tmp_path / "export", {**parts, name: spoil(parts[name])}, offsets, tiny_head)
    with pytest.raises(BaseMismatch, match=name):
        run(spoilt)
    assert left_in(tmp_path, "export")


def test_another_base(run: Callable[..., ImportReport], tmp_path: Path, export: Path) -> None:
    other = builders.make_base(tmp_path / "other", seed=9)
    with pytest.raises(BaseMismatch, match="name the base that was decomposed"):
        run(export, base=str(other.folder))


def test_offsets_that_leave_nothing(
    run: Callable[..., ImportReport],
    tmp_path: Path,
    parts: dict[str, Decomposition],
    offsets: dict[str, np.ndarray],
    tiny_head: np.ndarray,
) -> None:
    gone = {**offsets, EMBEDDING: np.full_like(offsets[EMBEDDING], -1.0)}
    with pytest.raises(BundleInvalid, match="nothing to normalise"):
        run(write_export(tmp_path / "export", parts, gone, tiny_head))


def edit_manifest(export: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = export / "trinity_sakana_export_manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def edit_file(name: str, edit: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    def edited(export: Path) -> None:
        held = numpy_files.load_file(export / name)
        edit(held)
        numpy_files.save_file(held, export / name)

    return edited


COMPONENTS = "trinity_svf_components.safetensors"
OFFSETS = "trinity_svf_scale_offsets.safetensors"
HEAD = "trinity_router_head.safetensors"
HEAD_KEY = "trinity.router_head.linear.weight"
EXPORT_VIOLATIONS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another format": (lambda e: edit_manifest(e, lambda m: m.update(format="x")), "format"),
    "another version": (lambda e: edit_manifest(e, lambda m: m.update(version=2)), "version"),
    "no entries": (lambda e: edit_manifest(e, lambda m: m["svf"].update(entries=[])), "entries"),
    "V already transposed": (
        lambda e: edit_manifest(e, lambda m: m["svf"]["entries"][0].update(python_v_layout="vhh")),
        "torch_v",
    ),
    "entry twice": (lambda e: edit_manifest(e, lambda m: m["svf"]["entries"].append(m["svf"]["entries"][0])), "twice"),
    "unknown entry": (
        lambda e: edit_manifest(e, lambda m: m["svf"]["entries"][0].update(source_parameter="model.norm.weight")),
        "does not have",
    ),
    "entry too few": (lambda e: edit_manifest(e, lambda m: m["svf"]["entries"].pop()), "does not list"),
    "labels too few": (
        lambda e: edit_manifest(e, lambda m: m["routing"].update(agent_labels=["a"])),
        "labels 1 agents",
    ),
    "a broken hash": (lambda e: edit_manifest(e, lambda m: m["source"].update(router_vector_sha256="")), "sha256"),
    "no JSON": (lambda e: (e / "trinity_sakana_export_manifest.json").write_text("{"), "JSON"),
    "no components": (lambda e: (e / COMPONENTS).unlink(), "cannot be read"),
    "no offsets": (lambda e: (e / OFFSETS).unlink(), "cannot be read"),
    "no head": (lambda e: (e / HEAD).unlink(), "cannot be read"),
    "truncated": (lambda e: (e / COMPONENTS).write_bytes((e / COMPONENTS).read_bytes()[:-9]), "truncated"),
    "no U": (edit_file(COMPONENTS, lambda held: held.pop(f"svd.U.{EMBEDDING}")), "lacks tensor"),
    "U too narrow": (
        edit_file(COMPONENTS, lambda held: held.update({f"svd.U.{EMBEDDING}": np.zeros((384, 63), np.float32)})),
        "is shaped",
    ),
    "U in whole numbers": (
        edit_file(COMPONENTS, lambda held: held.update({f"svd.U.{EMBEDDING}": np.zeros((384, 64), np.int32)})),
        "must be floats",
    ),
    "offsets too few": (
        edit_file(OFFSETS, lambda held: held.update({f"svf.scale_offsets.{EMBEDDING}": np.zeros(3, np.float32)})),
        "is shaped",
    ),
    "head under another key": (edit_file(HEAD, lambda held: held.update(x=held.pop(HEAD_KEY))), "no such tensor"),
    "head too narrow": (edit_file(HEAD, lambda held: held.update({HEAD_KEY: np.zeros((10, 8), np.float32)})), "shaped"),
    "head of roles": (edit_file(HEAD, lambda held: held.update({HEAD_KEY: np.zeros((3, 64), np.float32)})), "shaped"),
    "head with NaN": (
        edit_file(HEAD, lambda held: held.update({HEAD_KEY: np.full((10, 64), np.nan, np.float32)})),
        "NaN",
    ),
}


@pytest.mark.parametrize("violation", EXPORT_VIOLATIONS)
def test_a_broken_export(run: Callable[..., ImportReport], tmp_path: Path, export: Path, violation: str) -> None:
    break_it, message = EXPORT_VIOLATIONS[violation]
    break_it(export)
    with pytest.raises(ArtifactError, match=message):
        run(export)
    assert left_in(tmp_path, "export")


# --- svd_weights.pt --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_svd_weights_route_as_their_definition_says(
    run: Callable[..., ImportReport],
    tmp_path: Path,
    tiny_base: Base,
    weights_file: Path,
    offsets: dict[str, np.ndarray],
    tiny_head: np.ndarray,
    recipe: PlainRecipe,
    suffix: str,
) -> None:
    vector = write_vector(tmp_path / f"v{suffix}", offsets, tiny_head)
    report = run(weights_file, vector=vector)
    assert max(differences(tiny_base, report.folder, recipe)) <= EXACT
    manifest = own_manifest(report)
    assert manifest.agents == PUBLISHED_AGENTS
    assert manifest.made["method"] == "imported svd-weights"
    assert manifest.lineage.keys() == {"components", "vector"}


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_refused_and_never_run(
    run: Callable[..., ImportReport], tmp_path: Path, parts: dict[str, Decomposition], vector_file: Path, legacy: bool
) -> None:
    marker = tmp_path / "executed"
    path = tmp_path / "evil.pt"
    if legacy:
        path.write_bytes(pickle.dumps({"x": Malicious(marker)}))
    else:
        write_svd_weights(path, parts, evil=Malicious(marker))
    with pytest.raises(TensorFileInvalid, match="evil"):
        run(path, vector=vector_file)
    assert left_in(tmp_path, "evil.pt", "vector.npy")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "tensors by name"),
        ({"x": 3}, "int"),
        ({"x": torch.zeros(2, dtype=torch.int64)}, "int64"),
        ({"x": torch.zeros(2, dtype=torch.bfloat16)}, "bfloat16"),
        ({"x": torch.eye(2).to_sparse()}, "sparse"),
        ({}, "has no"),
        (
            {f"{EMBEDDING}.U": torch.zeros(3), f"{EMBEDDING}.S": torch.zeros(3), f"{EMBEDDING}.V": torch.zeros(3)},
            "is shaped",
        ),
    ],
)
def test_a_file_of_something_else(
    run: Callable[..., ImportReport], tmp_path: Path, vector_file: Path, content: Any, message: str
) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(TensorFileInvalid, match=message):
        run(tmp_path / "w.pt", vector=vector_file)


@pytest.mark.parametrize("kept", [0, 3, 200, -30])
def test_a_damaged_file(run: Callable[..., ImportReport], weights_file: Path, vector_file: Path, kept: int) -> None:
    weights_file.write_bytes(weights_file.read_bytes()[:kept])
    with pytest.raises(TensorFileInvalid):
        run(weights_file, vector=vector_file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(10), "left for the head"),
        (np.zeros((2, 3)), "holds float64"),
        (np.zeros(3000, dtype=np.int64), "holds int64"),
        (np.array([{}], dtype=object), "not a .npy file of numbers"),
    ],
)
def test_a_vector_that_is_none(
    run: Callable[..., ImportReport], tmp_path: Path, weights_file: Path, content: np.ndarray, message: str
) -> None:
    np.save(tmp_path / "v.npy", content, allow_pickle=True)
    with pytest.raises(ArtifactError, match=message):
        run(weights_file, vector=tmp_path / "v.npy")


@pytest.mark.parametrize("name", ["none.npy", "none.safetensors"])
def test_a_vector_that_is_not_there(run: Callable[..., ImportReport], weights_file: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="none"):
        run(weights_file, vector=Path(name))


def test_a_vector_belongs_to_svd_weights_alone(
    run: Callable[..., ImportReport], weights_file: Path, vector_file: Path, export: Path
) -> None:
    with pytest.raises(UsageError, match="give the trained vector too"):
        run(weights_file)
    with pytest.raises(UsageError, match="leave the vector out"):
        run(export, vector=vector_file)


# --- the published bundle -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", builders.PROFILES.values())
def test_an_imported_published_bundle_gives_identical_logits(
    run: Callable[..., ImportReport], published: Path, tiny_base: Base, profile: str
) -> None:
    logits = [
        [decision.logits for decision in router.route_many(PROMPTS)]
        for folder in (published, run(published).folder)
        for router in [load_router(folder, tiny_base.folder, profile, "float32")]
    ]
    assert logits[0] == logits[1]


def test_tensors_are_copied_bit_by_bit_in_source_orientation(
    run: Callable[..., ImportReport], published: Path, tiny_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 500)
    held = torch_files.load_file(run(published).folder / "adapter.safetensors")
    meant = adapted_weights(tiny_base)
    assert held.keys() == meant.keys() - {"lm_head.weight"}
    for name, tensor in held.items():
        assert torch.equal(tensor, torch.from_numpy(meant[name]).bfloat16())


def test_a_copy_says_where_it_comes_from(run: Callable[..., ImportReport], published: Path) -> None:
    report = run(published)
    manifest = own_manifest(report)
    assert (manifest.name, manifest.base.id) == ("sakana", "test/tiny")
    assert manifest.made["method"] == "imported published"
    assert manifest.lineage["vector"] == PUBLISHED_VECTOR
    assert {EMBEDDING, "lm_head.weight", "manifest", "router_head"} < manifest.lineage.keys()
    assert all(tensor.fidelity is None for tensor in report.tensors)


def test_a_published_bundle_for_a_base_of_another_shape(
    run: Callable[..., ImportReport], tmp_path: Path, published: Path
) -> None:
    other = builders.make_base(tmp_path / "other", vocab_size=400)
    with pytest.raises(TensorFileInvalid):
        run(published, base=str(other.folder))


@pytest.mark.parametrize("kind", ["published", "components", "svd-weights"])
def test_nothing_of_the_embeddings_size_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 2**14)
    base = builders.make_base(tmp_path / "base", vocab_size=60_000, hidden_size=32, head_dim=16)
    head, drawn = builders.make_head(base), all_offsets(base)
    size = base.tensors[EMBEDDING].nbytes
    request = {"base": str(base.folder), "out": tmp_path / "out"}
    if kind == "published":
        request["source"] = write_published(tmp_path / "p", adapted_weights(base), head)
    elif kind == "components":
        request["source"] = write_export(tmp_path / "e", decompose(base), drawn, head)
    else:
        request["source"] = write_svd_weights(tmp_path / "w.pt", decompose(base))
        request["vector"] = write_vector(tmp_path / "v.npy", drawn, head)
    tracemalloc.start()
    try:
        import_bundle(ImportRequest(**request))  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size / 2


# --- a place for the bundle -----------------------------------------------------------------------------------------


def test_nothing_is_overwritten_without_force(run: Callable[..., ImportReport], tmp_path: Path, export: Path) -> None:
    run(export)
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    with pytest.raises(OutputExists, match="have it replaced"):
        run(export)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_force_puts_the_new_one_in_its_place(
    run: Callable[..., ImportReport], tmp_path: Path, export: Path, published: Path
) -> None:
    run(export)
    (tmp_path / "out" / "remains").touch()
    run(published, force=True)
    assert not (tmp_path / "out" / "remains").exists()
    assert {entry.execution for entry in find_bundle(tmp_path / "out").adapter.entries} == {Execution.REPLACE}
    assert left_in(tmp_path, "export", "published", "out")


def test_force_spares_what_is_no_bundle(run: Callable[..., ImportReport], tmp_path: Path, export: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    with pytest.raises(UsageError, match="no bundle"):
        run(export, force=True)
    assert left_in(tmp_path / "out", "thesis.txt")


def test_force_spares_the_source(run: Callable[..., ImportReport], published: Path) -> None:
    with pytest.raises(UsageError, match="holds what is to be imported"):
        run(published, out=published, force=True)


def test_what_was_there_stays_when_an_import_fails(
    run: Callable[..., ImportReport], tmp_path: Path, export: Path
) -> None:
    run(export)
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    with builders.no_file_over(1000), pytest.raises(FolderUnavailable, match="File too large"):
        run(export, force=True)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
    assert left_in(tmp_path, "export", "out")


def test_an_interrupted_import_leaves_nothing(tmp_path: Path, tiny_base: Base, export: Path) -> None:
    def interrupt(tensor: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_bundle(ImportRequest(export, str(tiny_base.folder), tmp_path / "out"), interrupt)
    assert left_in(tmp_path, "export")


@pytest.mark.parametrize("what", ["nothing", "empty", "own"])
def test_nothing_to_import(run: Callable[..., ImportReport], tmp_path: Path, export: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    if what == "own":
        shutil.move(run(export).folder, tmp_path / "own")
    with pytest.raises(ArtifactNotFound, match="nothing to import"):
        run(tmp_path / what)


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_in_json(tmp_path: Path, tiny_base: Base, export: Path) -> None:
    arguments = ["import", str(export), "--base", str(tiny_base.folder), "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["adapter_ref"] == find_bundle(tmp_path / "out").adapter.ref
    assert said["base_ref"] == tiny_base.ref
    assert said["source"] == "components"
    assert len(said["tensors"]) == 8
    assert all(tensor["zero_offset_error"] < EXACT for tensor in said["tensors"])


def test_the_command_for_people(tmp_path: Path, tiny_base: Base, published: Path) -> None:
    arguments = ["import", str(published), "--base", str(tiny_base.folder), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "copied" in result.stdout
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr

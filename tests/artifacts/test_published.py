"""The published bundle, written here by hand at small size: it loads as it is, routes right, and is read strictly."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import torch as torch_files

from trinity_mlx.artifacts.base import open_base
from trinity_mlx.artifacts.bundle import check_fit
from trinity_mlx.artifacts.catalog import find_bundle
from trinity_mlx.artifacts.published import source_tensor
from trinity_mlx.cli import main
from trinity_mlx.contracts.artifact import Base, Bundle, Execution
from trinity_mlx.contracts.errors import ArtifactError, BundleInvalid, TensorFileInvalid
from trinity_mlx.contracts.text_format import TextFormat
from trinity_mlx.routing.loading import load_router
from trinity_mlx.routing.reader import needed_tokens

from .. import builders
from ..builders import EMBEDDING, PlainRecipe, fresh, hidden, relative

EXACT = 1e-5
LAYER = 1
BLOCK = "decoder.blocks.1."
LAYER_NAME = "model.layers.1."
TARGETS = {
    EMBEDDING: "embedder.token_embedding.kernel",
    LAYER_NAME + "self_attn.q_proj.weight": BLOCK + "self_attention.query.kernel",
    LAYER_NAME + "self_attn.k_proj.weight": BLOCK + "self_attention.key.kernel",
    LAYER_NAME + "self_attn.v_proj.weight": BLOCK + "self_attention.value.kernel",
    LAYER_NAME + "self_attn.o_proj.weight": BLOCK + "self_attention.output.kernel",
    LAYER_NAME + "mlp.gate_proj.weight": BLOCK + "ffn.gate.kernel",
    LAYER_NAME + "mlp.up_proj.weight": BLOCK + "ffn.intermediate.kernel",
    LAYER_NAME + "mlp.down_proj.weight": BLOCK + "ffn.output.kernel",
    "lm_head.weight": "language_modeling_head.output.kernel",
}
SQUARE = (LAYER_NAME + "self_attn.k_proj.weight", LAYER_NAME + "self_attn.v_proj.weight")
PUBLISHED_AGENTS = (
    "gpt-5",
    "claude-sonnet-4-20250514",
    "gemini-2.5-pro",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B",
    "google/gemma-3-27b-it",
    "Qwen/Qwen3-32B (reasoning)",
    "Qwen/Qwen3-32B (direct)",
)
PUBLISHED_VECTOR = "b9bf105b818cc32f3a25877b75adce1ec65e5201d524b929d217eb045a6ffa05"
TOKENS = tuple(range(3, 40))


# --- bundles of the published layout, written from what docs/method.md, section 6 says ------------------------


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def adapted_weights(base: Base, seed: int = 11) -> dict[str, np.ndarray]:
    """New random weights [out, in] for every tensor that the layout holds, ``lm_head`` among them."""
    draw = np.random.default_rng(seed)
    shapes = base.config.backbone_shapes()
    shapes["lm_head.weight"] = shapes[EMBEDDING]
    return {name: draw.normal(0.0, 0.3, shapes[name]).astype(np.float32) for name in TARGETS}


def stored(source: str, weight: np.ndarray) -> np.ndarray:
    """As the layout stores it: matrices of layers [in, out], the rest as it is."""
    return np.ascontiguousarray(weight.T) if source.startswith("model.layers.") else weight


def write_published(
    folder: Path,
    weights: Mapping[str, np.ndarray],
    head: np.ndarray,
    *,
    layout: str = "checkpoint_directory",
    dtype: torch.dtype = torch.float32,
    spelling: str = "f32",
) -> Path:
    """A whole bundle with its manifest in ``folder``."""
    (folder / "checkpoints").mkdir(parents=True)
    tensors = {
        TARGETS[source]: torch.from_numpy(stored(source, weight)).to(dtype) for source, weight in weights.items()
    }
    torch_files.save_file({"trinity_router_head": torch.from_numpy(head)}, folder / "router_head.safetensors")
    entries = list(tensor_entries(tensors, spelling))
    manifest = common_keys(folder, head, entries) | {"artifact_layout": layout}
    if layout == "single_file":
        torch_files.save_file(tensors, folder / "adapted_tensors.safetensors")
        manifest["adapted_tensors_artifact"] = "adapted_tensors.safetensors"
        manifest["adapted_tensors_sha256"] = sha256(folder / "adapted_tensors.safetensors")
    else:
        for entry in entries:
            path = folder / f"checkpoints/{entry['index']:04}_{entry['path']}.safetensors"
            torch_files.save_file({entry["path"]: tensors[entry["path"]]}, path)
            entry |= {"checkpoint_path": path.relative_to(folder).as_posix(), "checkpoint_sha256": sha256(path)}
    write_manifest(folder, manifest)
    return folder


def tensor_entries(tensors: Mapping[str, torch.Tensor], spelling: str) -> Iterator[dict[str, Any]]:
    sources, end = {target: source for source, target in TARGETS.items()}, 0
    for index, (target, tensor) in enumerate(tensors.items(), start=1):
        start, end = end, end + min(tensor.shape)
        yield {
            "index": index,
            "path": target,
            "artifact_key": target,
            "segments": [target.removesuffix(".kernel"), "kernel"],
            "source_name": sources[target],
            "shape": list(tensor.shape),
            "type": spelling,
            "offset_start": start,
            "offset_end": end,
            "singular_values": end - start,
            "status": "complete",
            "error": None,
        }


def common_keys(folder: Path, head: np.ndarray, entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "artifact_version": 1,
        "status": "complete",
        "export_complete": True,
        "base_model_repo": "test/tiny",
        "architecture": "for_causal_language_modeling",
        "router_head_artifact": "router_head.safetensors",
        "router_head_tensor_key": "trinity_router_head",
        "router_head_shape": list(head.shape),
        "router_head_sha256": sha256(folder / "router_head.safetensors"),
        "selected_tensor_count": len(entries),
        "selected_singular_value_count": entries[-1]["offset_end"],
        "source_vector_sha256": PUBLISHED_VECTOR,
        "adapted_tensors_artifact": None,
        "adapted_tensors_sha256": None,
        "selected_tensors": entries,
    }


def write_manifest(folder: Path, manifest: Any) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest


@pytest.fixture(scope="module")
def weights(tiny_base: Base) -> dict[str, np.ndarray]:
    return adapted_weights(tiny_base)


@pytest.fixture(scope="module")
def recipe(tiny_base: Base, weights: dict[str, np.ndarray]) -> PlainRecipe:
    """The oracle: transformers with the adapted weights in place, apart from ``lm_head``, which is tied there."""
    return PlainRecipe(tiny_base.folder, {name: w for name, w in weights.items() if name != "lm_head.weight"})


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, np.ndarray], tiny_head: np.ndarray) -> Path:
    return write_published(tmp_path_factory.mktemp("published") / "directory", weights, tiny_head)


@pytest.fixture(scope="module")
def single_file(
    tmp_path_factory: pytest.TempPathFactory, weights: dict[str, np.ndarray], tiny_head: np.ndarray
) -> Path:
    return write_published(tmp_path_factory.mktemp("published") / "single", weights, tiny_head, layout="single_file")


@pytest.fixture
def copied(directory: Path, tmp_path: Path) -> Path:
    """A bundle to break."""
    return Path(shutil.copytree(directory, tmp_path / "broken"))


# --- it loads as it is and routes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["directory", "single_file"])
@pytest.mark.parametrize("backend_name", builders.BACKENDS)
def test_hidden_vector_is_that_of_transformers_with_the_weights_written_in(
    request: pytest.FixtureRequest, tiny_base: Base, recipe: PlainRecipe, backend_name: str, layout: str
) -> None:
    bundle = find_bundle(request.getfixturevalue(layout))
    check_fit(bundle, tiny_base)
    model = builders.cpu_model(backend_name, tiny_base, bundle)
    for tokens in (TOKENS, TOKENS[:1], TOKENS[:2], TOKENS * 5):
        found = hidden(model, *fresh(needed_tokens(tokens)))[0]
        assert relative(found, recipe.hidden(tokens)) <= EXACT


@pytest.mark.parametrize("spelling", ["bf16", "{:bf, 16}"])
@pytest.mark.parametrize("backend_name", builders.BACKENDS)
def test_bfloat16_tensors_in_both_spellings(
    tmp_path: Path,
    tiny_base: Base,
    weights: dict[str, np.ndarray],
    tiny_head: np.ndarray,
    backend_name: str,
    spelling: str,
) -> None:
    folder = write_published(tmp_path / "b", weights, tiny_head, dtype=torch.bfloat16, spelling=spelling)
    rounded = {name: torch.from_numpy(w).bfloat16().float().numpy() for name, w in weights.items()}
    rounded.pop("lm_head.weight")
    model = builders.cpu_model(backend_name, tiny_base, find_bundle(folder))
    found = hidden(model, *fresh(needed_tokens(TOKENS)))[0]
    assert relative(found, PlainRecipe(tiny_base.folder, rounded).hidden(TOKENS)) <= EXACT


@pytest.mark.parametrize("source", SQUARE)
@pytest.mark.parametrize("backend_name", builders.BACKENDS)
def test_a_square_kernel_that_is_not_transposed_shows(
    tiny_base: Base, directory: Path, recipe: PlainRecipe, backend_name: str, source: str
) -> None:
    bundle = find_bundle(directory)
    entries = {entry.source: entry for entry in bundle.adapter.entries}
    rows, columns = entries[source].tensor.shape
    assert rows == columns
    assert entries[source].transposed
    untouched = tuple(
        replace(entry, transposed=entry.transposed and entry.source != source) for entry in entries.values()
    )
    wrong = replace(bundle, adapter=replace(bundle.adapter, entries=untouched))
    found = hidden(builders.cpu_model(backend_name, tiny_base, wrong), *fresh(needed_tokens(TOKENS)))[0]
    assert relative(found, recipe.hidden(TOKENS)) > 1e-2


def test_lm_head_takes_no_part_in_a_route(directory: Path) -> None:
    assert {entry.source for entry in find_bundle(directory).adapter.entries} == TARGETS.keys() - {"lm_head.weight"}


def test_a_router_loads_it_on_both_profiles(tiny_base: Base, directory: Path) -> None:
    decisions = []
    for profile in builders.PROFILES.values():
        with load_router(directory, tiny_base.folder, profile, "float32") as router:
            decisions.append(router.route("What is 17 + 25?"))
    assert relative(decisions[0].logits.agent, decisions[1].logits.agent) <= EXACT
    assert {decision.artifact.name for decision in decisions} == {"sakana"}


def test_the_command_line_routes_with_it(tiny_base: Base, directory: Path) -> None:
    arguments = ["route", "hello", "--artifact", str(directory), "--base", str(tiny_base.folder), "--profile", "cpu"]
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["artifact"]["name"] == "sakana"


def test_what_the_bundle_says(directory: Path, single_file: Path) -> None:
    bundle = find_bundle(directory)
    assert (bundle.base_id, bundle.base_revision, bundle.base_ref, bundle.base_folder) == (
        "test/tiny",
        None,
        None,
        None,
    )
    assert bundle.text_format is TextFormat.ROLE_LINES
    assert bundle.head.labels == PUBLISHED_AGENTS
    assert {entry.execution for entry in bundle.adapter.entries} == {Execution.REPLACE}
    assert len(find_bundle(single_file).adapter.entries) == len(bundle.adapter.entries)


@pytest.mark.parametrize("slots", [1, 2, 9])
def test_a_head_of_another_size_has_numbered_agents(
    tmp_path: Path, tiny_base: Base, weights: dict[str, np.ndarray], slots: int
) -> None:
    head = builders.make_head(tiny_base, labels=["x"] * slots)
    bundle = find_bundle(write_published(tmp_path / "b", weights, head))
    assert bundle.head.labels == tuple(f"agent-{slot}" for slot in range(slots))


def test_adapter_ref_belongs_to_the_content(
    tmp_path: Path, directory: Path, tiny_base: Base, tiny_head: np.ndarray
) -> None:
    moved = shutil.copytree(directory, tmp_path / "moved")
    ref = find_bundle(directory).adapter.ref
    assert find_bundle(moved).adapter.ref == ref
    other = write_published(tmp_path / "other", adapted_weights(tiny_base, seed=12), tiny_head)
    assert find_bundle(other).adapter.ref != ref
    write_manifest(moved, read_manifest(moved) | {"base_model_repo": "test/another"})
    assert find_bundle(moved).adapter.ref != ref


def test_another_vector_leaves_the_folders_name(copied: Path) -> None:
    write_manifest(copied, read_manifest(copied) | {"source_vector_sha256": "0" * 64})
    assert find_bundle(copied).name == "broken"


def test_names_pair_as_published() -> None:
    for source, target in TARGETS.items():
        assert source_tensor(target) == (source, source.startswith("model.layers."))
    assert source_tensor("decoder.blocks.26.ffn.gate.kernel") == ("model.layers.26.mlp.gate_proj.weight", True)
    for unknown in (
        "decoder.blocks.01.ffn.gate.kernel",
        "decoder.blocks.1.ffn.gate",
        "decoder.blocks.x.ffn.gate.kernel",
    ):
        assert source_tensor(unknown) is None


# --- a base that does not record its content ------------------------------------------------------------------------


def test_any_base_of_the_right_shape_fits(tmp_path: Path, directory: Path) -> None:
    check_fit(find_bundle(directory), builders.make_base(tmp_path / "twin", seed=77))


@pytest.mark.parametrize(
    "changes", [{"vocab_size": 400}, {"num_hidden_layers": 1}, {"intermediate_size": 100}, {"num_key_value_heads": 1}]
)
def test_a_base_of_another_shape_does_not(tmp_path: Path, directory: Path, changes: dict[str, int]) -> None:
    other = builders.make_base(tmp_path / "other", **changes)
    with pytest.raises(TensorFileInvalid):
        check_fit(find_bundle(directory), other)


def test_an_own_bundle_still_names_its_base(tmp_path: Path, tiny_bundle: Bundle) -> None:
    with pytest.raises(ArtifactError, match="was made for base"):
        check_fit(tiny_bundle, builders.make_base(tmp_path / "twin", seed=77))


# --- each violation has one clear error -----------------------------------------------------------------------------


def entry_change(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["selected_tensors"][3].update(changes)


def change(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.update(changes)


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.pop(key)


def drop_from_entry(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["selected_tensors"][3].pop(key)


def list_twice(manifest: dict[str, Any]) -> None:
    """The fourth tensor again in the place of the third, which has the same shape."""
    kept = {key: manifest["selected_tensors"][2][key] for key in ("offset_start", "offset_end")}
    manifest["selected_tensors"][2] = manifest["selected_tensors"][3] | kept


MANIFEST_VIOLATIONS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "pending": (change(status="pending"), "status"),
    "export not complete": (change(export_complete=False), "never finished"),
    "export complete in words": (change(export_complete="true"), "export_complete"),
    "a later version": (change(artifact_version=2), "artifact_version"),
    "version true": (change(artifact_version=True), "artifact_version"),
    "unknown layout": (change(artifact_layout="zip"), "checkpoint_directory"),
    "no layout": (drop("artifact_layout"), "artifact_layout"),
    "single file without its name": (change(artifact_layout="single_file"), "adapted_tensors_artifact"),
    "no base": (drop("base_model_repo"), "base_model_repo"),
    "no hash of the head": (drop("router_head_sha256"), "router_head_sha256"),
    "null hash of the head": (change(router_head_sha256=None), "router_head_sha256"),
    "empty hash of the head": (change(router_head_sha256=""), "router_head_sha256"),
    "wrong hash of the head": (change(router_head_sha256="0" * 64), "has changed"),
    "no hash of a tensor": (drop_from_entry("checkpoint_sha256"), "checkpoint_sha256"),
    "null hash of a tensor": (entry_change(checkpoint_sha256=None), "checkpoint_sha256"),
    "empty hash of a tensor": (entry_change(checkpoint_sha256=""), "checkpoint_sha256"),
    "wrong hash of a tensor": (entry_change(checkpoint_sha256="0" * 64), "has changed"),
    "pending tensor": (entry_change(status="pending"), "status"),
    "path upwards": (entry_change(checkpoint_path="../x.safetensors"), "leaves the bundle"),
    "path upwards inside": (entry_change(checkpoint_path="checkpoints/../../x"), "leaves the bundle"),
    "absolute path": (entry_change(checkpoint_path="/etc/hostname"), "leaves the bundle"),
    "head upwards": (change(router_head_artifact="../router_head.safetensors"), "leaves the bundle"),
    "path with a null byte": (entry_change(checkpoint_path="a\0b"), "leaves the bundle"),
    "endless path": (entry_change(checkpoint_path="a" * 300), "cannot be read"),
    "a folder as file": (entry_change(checkpoint_path="checkpoints"), "is missing"),
    "file not there": (entry_change(checkpoint_path="checkpoints/none.safetensors"), "is missing"),
    "another shape": (entry_change(shape=[64, 32], offset_end=224, singular_values=32), "offsets"),
    "shape of the source": (
        lambda manifest: manifest["selected_tensors"][1].update(shape=[128, 64]),
        "is shaped",
    ),
    "shape of three": (entry_change(shape=[64, 64, 1]), "shape"),
    "another number type": (entry_change(type="{:bf, 16}"), "BF16"),
    "unknown number type": (entry_change(type="{:s, 16}"), "none of bf16"),
    "unknown name": (entry_change(path="decoder.blocks.1.ffn.third.kernel"), "no tensor of a Qwen3 base"),
    "name of another": (entry_change(source_name=SQUARE[0]), "calls it"),
    "key not in the file": (entry_change(artifact_key="other"), "has no tensor"),
    "the same tensor twice": (list_twice, "twice"),
    "a tensor too few": (lambda manifest: manifest["selected_tensors"].pop(), "counts 9 tensors"),
    "no tensors": (change(selected_tensors=[]), "selected_tensors"),
    "offsets with a hole": (entry_change(offset_start=193), "would follow"),
    "wrong total": (change(selected_singular_value_count=9216), "counts 9 tensors and 9216"),
    "head shape": (change(router_head_shape=[9, 64]), "is shaped"),
    "head of roles alone": (change(router_head_shape=[3, 64]), "router_head_shape"),
    "head key": (change(router_head_tensor_key="weight"), "has no tensor 'weight'"),
    "no hash of the vector": (change(source_vector_sha256=None), "source_vector_sha256"),
}


@pytest.mark.parametrize("violation", MANIFEST_VIOLATIONS)
def test_violation_in_the_manifest(copied: Path, violation: str) -> None:
    break_it, message = MANIFEST_VIOLATIONS[violation]
    manifest = read_manifest(copied)
    break_it(manifest)
    write_manifest(copied, manifest)
    with pytest.raises(ArtifactError, match=message) as caught:
        find_bundle(copied)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text", ["", "{", '{"artifact_version": 1}', "[" * 100_000, '{"artifact_version": 1, "artifact_version": 1}']
)
def test_a_manifest_that_is_none(copied: Path, text: str) -> None:
    (copied / "manifest.json").write_text(text)
    with pytest.raises(BundleInvalid):
        find_bundle(copied)


def test_a_key_that_stands_there_twice(copied: Path) -> None:
    text = (copied / "manifest.json").read_text()
    (copied / "manifest.json").write_text(text.replace("{", '{"status": "complete",', 1))
    with pytest.raises(BundleInvalid, match="twice"):
        find_bundle(copied)


def test_a_changed_file(copied: Path) -> None:
    path = next((copied / "checkpoints").glob("0005*"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleInvalid, match="has changed"):
        find_bundle(copied)


def test_links_out_of_the_folder(copied: Path, tmp_path: Path) -> None:
    path = next((copied / "checkpoints").glob("0005*"))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleInvalid, match="leaves the bundle's folder"):
        find_bundle(copied)


def test_a_link_in_a_circle(copied: Path) -> None:
    path = next((copied / "checkpoints").glob("0005*"))
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(BundleInvalid):
        find_bundle(copied)


def test_a_tensor_that_nobody_lists(copied: Path) -> None:
    manifest = read_manifest(copied)
    entry = manifest["selected_tensors"][2]
    path = copied / entry["checkpoint_path"]
    held = torch_files.load_file(path)
    torch_files.save_file({**held, "stowaway": torch.zeros(2, 2)}, path)
    entry["checkpoint_sha256"] = sha256(path)
    write_manifest(copied, manifest)
    with pytest.raises(BundleInvalid, match="stowaway"):
        find_bundle(copied)


def test_a_head_in_another_number_type(copied: Path, tiny_head: np.ndarray) -> None:
    path = copied / "router_head.safetensors"
    torch_files.save_file({"trinity_router_head": torch.from_numpy(tiny_head).bfloat16()}, path)
    write_manifest(copied, read_manifest(copied) | {"router_head_sha256": sha256(path)})
    with pytest.raises(TensorFileInvalid, match="BF16"):
        find_bundle(copied)


def test_the_command_line_says_it_in_one_line(copied: Path, tiny_base: Base) -> None:
    write_manifest(copied, read_manifest(copied) | {"status": "pending"})
    result = CliRunner().invoke(main, ["route", "x", "--artifact", str(copied), "--base", str(tiny_base.folder)])
    assert result.exit_code == 4
    assert len(result.stderr.strip().splitlines()) == 1


# --- whatever the manifest says, it is refused or means the same ----------------------------------------------------

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["..", "/", "", "a\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


def spots(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value as its container and its key."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [spot for key in keys for spot in [(value, key), *spots(value[key])]]


@given(st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("layout", ["directory", "single_file"])
def test_mutated_manifests(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, layout: str, data: st.DataObject
) -> None:
    folder = request.getfixturevalue(layout)
    original = read_manifest(folder)
    before = find_bundle(folder)
    mutated = copy.deepcopy(original)
    container, key = data.draw(st.sampled_from(spots(mutated)), label="place")
    if data.draw(st.booleans(), label="remove"):
        del container[key]
    else:
        container[key] = data.draw(values, label="value")
    try:
        write_manifest(folder, mutated)
        after = find_bundle(folder)
    except ArtifactError:
        return
    finally:
        write_manifest(folder, original)
    assert after.adapter.entries == before.adapter.entries
    assert after.head == before.head


@given(st.data())
@settings(max_examples=100)
def test_mutated_bytes(directory: Path, data: st.DataObject) -> None:
    path = directory / "manifest.json"
    original = path.read_bytes()
    place = data.draw(st.integers(0, len(original) - 1))
    noise = data.draw(st.binary(max_size=4))
    before = find_bundle(directory)
    try:
        path.write_bytes(original[:place] + noise + original[place + data.draw(st.integers(0, 40)) :])
        after = find_bundle(directory)
    except ArtifactError:
        return
    finally:
        path.write_bytes(original)
    assert after.adapter.entries == before.adapter.entries
    assert after.head == before.head


def test_the_base_is_not_touched(tiny_base: Base) -> None:
    assert open_base(tiny_base.folder).ref == tiny_base.ref

"""Bundles: sealed and opened whole, refused by file name when anything differs, held against the base they go with."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import numpy as numpy_files

from trinity_mlx.artifacts.bundle import ELU_TENSOR, BundleDraft, check_fit, open_bundle, seal_bundle
from trinity_mlx.artifacts.catalog import find_bundle
from trinity_mlx.contracts.artifact import BackboneConfig, Base, Bundle, Execution, ReadPosition
from trinity_mlx.contracts.errors import (
    ArtifactError,
    ArtifactNotFound,
    BaseMismatch,
    BundleInvalid,
    TensorFileInvalid,
)
from trinity_mlx.contracts.routing import Window
from trinity_mlx.contracts.text_format import TextFormat
from trinity_mlx.files.safetensors import read_float32

HIDDEN = 8
EMBEDDING = "model.embed_tokens.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"
GATE = "model.layers.0.mlp.gate_proj.weight"
DOWN = "model.layers.0.mlp.down_proj.weight"
LM_HEAD = "lm_head.weight"
ADAPTER_FILE, HEAD_FILE, HEAD_TENSOR = "adapter.safetensors", "router_head.safetensors", "trinity_router_head"
AGENTS = ("solver", "scribe")
BASE_REF = "0123456789abcdef" * 4
CONFIG = BackboneConfig(
    vocab_size=20,
    hidden_size=HIDDEN,
    intermediate_size=12,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=6,
    rms_norm_eps=1e-6,
    rope_theta=1e6,
    max_positions=32,
    tied_embeddings=True,
)
BASE = Base(Path("base"), CONFIG, {}, Path("base/tokenizer.json"), BASE_REF)
SHAPES = {EMBEDDING: (8, 8), QUERY: (8, 8), DOWN: (8, 8), GATE: (12, 8), LM_HEAD: (8, 8)}
EXECUTIONS = {
    EMBEDDING: Execution.RIGHT,
    QUERY: Execution.RIGHT,
    DOWN: Execution.LEFT,
    GATE: Execution.REPLACE,
    LM_HEAD: Execution.RIGHT,
}
DRAFT = BundleDraft("tiny", "owner/base", BASE_REF, AGENTS, EXECUTIONS)


def values(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def write_parts(
    folder: Path, changes: dict[str, tuple[int, ...]] | None = None, head: np.ndarray | None = None
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    adapter = {name: values(shape) for name, shape in (changes or SHAPES).items()}
    numpy_files.save_file(adapter, folder / ADAPTER_FILE)
    numpy_files.save_file({HEAD_TENSOR: values((5, HIDDEN)) if head is None else head}, folder / HEAD_FILE)
    return folder


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_parts(tmp_path_factory.mktemp("sealed") / "bundle")
    (folder / "card").mkdir()
    (folder / "card" / "README.md").write_text("A tiny bundle.\n")
    seal_bundle(folder, replace(DRAFT, made={"by": "a test"}, lineage={"vector": "a" * 64}))
    return folder


@pytest.fixture
def folder(sealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed, tmp_path / "bundle"))


def manifest_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = manifest_of(folder)
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def reseal_hashes(folder: Path) -> None:
    """Let the manifest state sizes and hashes as the files are now, and the adapter's address for them."""

    def restate(manifest: dict[str, Any]) -> None:
        for entry in manifest["files"]:
            content = (folder / entry["path"]).read_bytes()
            entry.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        manifest["adapter_ref"] = address(manifest)

    rewrite(folder, restate)


def address(manifest: dict[str, Any]) -> str:
    """The adapter's content address, by its description: sha256 over base, entries and the file's hash."""
    digest = next(entry["sha256"] for entry in manifest["files"] if entry["path"] == manifest["adapter"]["file"])
    described = {"base": manifest["base"]["ref"], "entries": manifest["adapter"]["entries"], "sha256": digest}
    text = json.dumps(described, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def test_what_was_sealed_is_what_is_opened(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "bundle")
    draft = replace(DRAFT, base_revision="v1", base_folder="base", text_format=TextFormat.QWEN3_CHAT)
    (folder / "base").mkdir()
    bundle = seal_bundle(folder, draft)
    assert open_bundle(folder) == bundle
    assert (bundle.name, bundle.folder, bundle.text_format) == ("tiny", folder, TextFormat.QWEN3_CHAT)
    assert (bundle.base_id, bundle.base_revision, bundle.base_ref) == ("owner/base", "v1", BASE_REF)
    assert bundle.base_folder == folder / "base"
    assert bundle.head.labels == AGENTS


def test_a_base_that_is_not_carried_has_no_folder(sealed: Path) -> None:
    assert open_bundle(sealed).base_folder is None


def test_every_tensor_is_found_with_its_execution_and_values(sealed: Path) -> None:
    bundle = open_bundle(sealed)
    assert {entry.source: entry.execution for entry in bundle.adapter.entries} == {
        name: execution for name, execution in EXECUTIONS.items() if name != LM_HEAD
    }
    for entry in bundle.adapter.entries:
        np.testing.assert_array_equal(read_float32(entry.tensor), values(SHAPES[entry.source]))
    np.testing.assert_array_equal(read_float32(bundle.head.tensor), values((5, HIDDEN)))


def test_the_manifest_accounts_for_every_file_but_itself(sealed: Path) -> None:
    stated = {entry["path"]: (entry["size"], entry["sha256"]) for entry in manifest_of(sealed)["files"]}
    files = [path for path in sealed.rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert stated == {
        path.relative_to(sealed).as_posix(): (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    }
    assert len(stated) == 3


def test_the_adapter_ref_is_a_content_address(sealed: Path) -> None:
    assert open_bundle(sealed).adapter.ref == address(manifest_of(sealed))


def test_the_adapter_ref_does_not_depend_on_folder_name_labels_or_head(sealed: Path, tmp_path: Path) -> None:
    other = write_parts(tmp_path / "elsewhere", head=values((6, HIDDEN), seed=4))
    bundle = seal_bundle(other, replace(DRAFT, name="other", agents=("a", "b", "c"), text_format=TextFormat.QWEN3_CHAT))
    assert bundle.adapter.ref == open_bundle(sealed).adapter.ref


@pytest.mark.parametrize(
    "draft",
    [
        replace(DRAFT, base_ref="f" * 64),
        replace(DRAFT, executions={**EXECUTIONS, QUERY: Execution.LEFT}),
        replace(DRAFT, executions={name: each for name, each in EXECUTIONS.items() if name != QUERY}),
    ],
)
def test_the_adapter_ref_changes_with_base_and_executions(sealed: Path, tmp_path: Path, draft: BundleDraft) -> None:
    bundle = seal_bundle(write_parts(tmp_path / "other"), draft)
    assert bundle.adapter.ref != open_bundle(sealed).adapter.ref


def test_a_bundle_without_any_change_to_the_base_is_one(tmp_path: Path) -> None:
    bundle = seal_bundle(write_parts(tmp_path / "plain"), replace(DRAFT, executions={}))
    assert bundle.adapter.entries == ()


def test_a_folder_name_finds_a_bundle_and_other_names_list_the_embedded_ones(sealed: Path) -> None:
    assert find_bundle(str(sealed)) == find_bundle(sealed) == open_bundle(sealed)
    with pytest.raises(ArtifactNotFound, match=r"'nothing': .*nano"):
        find_bundle("nothing")
    with pytest.raises(ArtifactNotFound, match="nothing"):
        open_bundle(Path("nothing"))


@pytest.mark.parametrize("name", ["x" * 5000, "~no-such-user-here/bundle", "x\0y"])
def test_a_name_that_no_folder_can_have_is_not_found(name: str) -> None:
    with pytest.raises(ArtifactNotFound):
        find_bundle(name)


def put(place: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of the manifest: the value at a dotted place; ``...`` removes the key."""

    def change(manifest: dict[str, Any]) -> None:
        *outer, last = [int(key) if key.isdecimal() else key for key in place.split(".")]
        inner: Any = manifest
        for key in outer:
            inner = inner[key]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value

    return change


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("version", 3, "version 3, and this release reads version 1 and 2"),
        ("version", "1", "version '1'"),
        ("version", True, "version True"),
        ("version", ..., "version None"),
        ("schema", "other", "schema: "),
        ("schema", ..., "schema is missing"),
        ("extra", 1, "extra: there is no such setting"),
        ("base.extra", 1, "base.extra: there is no such setting"),
        ("files.0.extra", 1, "files.0.extra: there is no such setting"),
        ("adapter.entries.0.extra", 1, "adapter.entries.0.extra: there is no such setting"),
        ("name", "", "name: "),
        ("name", 7, "name: "),
        ("complete", False, "complete: "),
        ("complete", 1, "complete: "),
        ("complete", ..., "complete is missing"),
        ("base", None, "base: "),
        ("base.ref", "F" * 64, "base.ref: "),
        ("base.ref", "f" * 63, "base.ref: "),
        ("base.ref", "f" * 64 + "\n", "base.ref: "),
        ("base.revision", ..., "base.revision is missing"),
        ("text_format", "plain", "text_format: "),
        ("tied_embedding", "both", "tied_embedding: "),
        ("agents", [], "agents: "),
        ("agents", "ab", "agents: "),
        ("agents.0", 3, "agents.0: "),
        ("adapter.entries.0.execution", "both", "adapter.entries.0.execution: "),
        ("adapter.entries.0.shape", [8, 0], "adapter.entries.0.shape.1: "),
        ("adapter.entries.0.shape", [8.0, 8], "adapter.entries.0.shape.0: "),
        ("adapter.entries.0.source", None, "adapter.entries.0.source: "),
        ("head.shape", [5], "head.shape"),
        ("head.shape", [3, 8], "head.shape.0: "),
        ("head.shape", [5, 8, 1], "head.shape"),
        ("files.0.size", -1, "files.0.size: "),
        ("files.0.size", "12", "files.0.size: "),
        ("files.0.sha256", "x", "files.0.sha256: "),
        ("files", {}, "files: "),
        ("made", {"by": 1}, "made.by: "),
        ("lineage", {"vector": "abc"}, "lineage.vector: "),
        ("lineage", ..., "lineage is missing"),
    ],
)
def test_a_manifest_that_breaks_its_schema_is_refused_by_file_and_key(
    folder: Path, place: str, value: Any, message: str
) -> None:
    rewrite(folder, put(place, value))
    with pytest.raises(BundleInvalid) as caught:
        open_bundle(folder)
    assert str(folder / "manifest.json") in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


KEYS = [
    "schema",
    "version",
    "name",
    "complete",
    "base",
    "text_format",
    "tied_embedding",
    "agents",
    "adapter_ref",
    "adapter",
    "head",
    "files",
    "made",
    "lineage",
    *(f"base.{key}" for key in ("id", "revision", "ref", "folder")),
    *(f"adapter.{key}" for key in ("file", "entries")),
    *(f"adapter.entries.1.{key}" for key in ("source", "execution", "tensor", "shape")),
    *(f"head.{key}" for key in ("file", "tensor", "shape")),
    *(f"files.1.{key}" for key in ("path", "size", "sha256")),
]


@pytest.mark.parametrize("key", KEYS)
def test_no_key_may_be_missing(folder: Path, key: str) -> None:
    rewrite(folder, put(key, ...))
    with pytest.raises(BundleInvalid, match=r"is missing|version None"):
        open_bundle(folder)


LEAVING = ["../x", "a/../../x", "..", "/etc/passwd", "", ".", "./adapter.safetensors", "a\\b", "..\\x"]


@pytest.mark.parametrize("path", LEAVING)
@pytest.mark.parametrize("place", ["files.0.path", "adapter.file", "head.file", "base.folder"])
def test_a_path_that_leaves_the_folder_is_refused(folder: Path, place: str, path: str) -> None:
    rewrite(folder, put(place, path))
    with pytest.raises(BundleInvalid, match=rf"{place}: .*leaves the bundle's folder"):
        open_bundle(folder)


@pytest.mark.parametrize("path", ["a\0b", "x" * 300])
def test_a_path_that_no_file_can_have_is_refused(folder: Path, path: str) -> None:
    rewrite(folder, put("files.1.path", path))
    with pytest.raises(BundleInvalid, match=r"manifest\.json|cannot be read: File name too long"):
        open_bundle(folder)


def test_a_link_that_leaves_the_folder_is_refused(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    (folder / HEAD_FILE).rename(outside)
    (folder / HEAD_FILE).symlink_to(outside)
    with pytest.raises(BundleInvalid, match=rf"{HEAD_FILE} is a link that leaves"):
        open_bundle(folder)


def test_a_folder_link_that_leaves_the_folder_is_refused(folder: Path) -> None:
    shutil.move(folder / "card", folder.parent / "card")
    (folder / "card").symlink_to(folder.parent / "card")
    with pytest.raises(BundleInvalid, match=r"README\.md is a link that leaves"):
        open_bundle(folder)


def test_a_base_folder_that_is_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    (folder / "base").symlink_to(outside)
    rewrite(folder, put("base.folder", "base"))
    with pytest.raises(BundleInvalid, match="link that leaves"):
        open_bundle(folder)


def test_a_link_inside_the_folder_and_a_link_to_the_folder_are_fine(folder: Path) -> None:
    (folder / HEAD_FILE).rename(folder / "card" / "head")
    (folder / HEAD_FILE).symlink_to(folder / "card" / "head")
    (folder.parent / "link").symlink_to(folder)
    assert open_bundle(folder.parent / "link").adapter.ref == open_bundle(folder).adapter.ref


@pytest.mark.parametrize("name", [ADAPTER_FILE, HEAD_FILE, "card/README.md"])
@pytest.mark.parametrize("damage", ["missing", "shorter", "longer", "changed", "a folder"])
def test_a_file_that_differs_is_refused_by_name(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    match damage:
        case "shorter":
            path.write_bytes(content[:-1])
        case "longer":
            path.write_bytes(content + b"\0")
        case "changed":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "a folder":
            path.mkdir()
    with pytest.raises(BundleInvalid) as caught:
        open_bundle(folder)
    assert str(path) in str(caught.value)


def test_a_wrong_size_is_told_with_both_sizes(folder: Path) -> None:
    rewrite(folder, put("files.2.size", 1))
    size = (folder / HEAD_FILE).stat().st_size
    with pytest.raises(BundleInvalid, match=rf"{HEAD_FILE} has {size} bytes, and the manifest says 1"):
        open_bundle(folder)


@pytest.mark.parametrize("index", [0, 2])
def test_adapter_and_head_must_be_among_the_hashed_files(folder: Path, index: int) -> None:
    name = manifest_of(folder)["files"][index]["path"]
    rewrite(folder, lambda manifest: manifest["files"].pop(index))
    with pytest.raises(BundleInvalid, match=f"no hash for {name}"):
        open_bundle(folder)


def test_a_file_listed_twice_is_refused(folder: Path) -> None:
    rewrite(folder, lambda manifest: manifest["files"].append(manifest["files"][0]))
    with pytest.raises(BundleInvalid, match="twice"):
        open_bundle(folder)


@pytest.mark.parametrize("key", ["name", "sha256", "source"])
def test_a_key_that_stands_twice_is_refused(folder: Path, key: str) -> None:
    path = folder / "manifest.json"
    text = path.read_text()
    found = next(line.strip() for line in text.splitlines() if line.strip().startswith(f'"{key}"')).rstrip(",")
    path.write_text(text.replace(found, f"{found}, {found}", 1))
    with pytest.raises(BundleInvalid, match=r"manifest\.json is not valid JSON: .*twice"):
        open_bundle(folder)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("adapter_ref", "0" * 64),
        ("base.ref", "f" * 64),
        ("adapter.entries.0.execution", "replace"),
        ("adapter.entries.0.shape", [4, 4]),
        ("adapter.entries.0.tensor", QUERY),
        ("adapter.entries.0.source", "model.norm.weight"),
    ],
)
def test_what_the_adapter_ref_stands_for_cannot_be_changed(folder: Path, place: str, value: Any) -> None:
    rewrite(folder, put(place, value))
    with pytest.raises(BundleInvalid, match="adapter_ref"):
        open_bundle(folder)


@pytest.mark.parametrize("agents", [["one"], ["one", "two", "three"]])
def test_labels_must_match_the_rows_of_the_head(folder: Path, agents: list[str]) -> None:
    rewrite(folder, put("agents", agents))
    with pytest.raises(BundleInvalid, match=rf"{HEAD_FILE}: a head of 5 rows is for 2 agents .* {len(agents)} agents"):
        open_bundle(folder)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("head.shape", [6, HIDDEN], rf"{HEAD_FILE} tensor '{HEAD_TENSOR}' is shaped \[5, 8\], and \[6, 8\]"),
        ("head.tensor", "head", rf"{HEAD_FILE} has no tensor 'head'"),
    ],
)
def test_the_head_must_be_the_tensor_that_the_manifest_describes(
    folder: Path, place: str, value: Any, message: str
) -> None:
    rewrite(folder, put(place, value))
    with pytest.raises(TensorFileInvalid, match=message):
        open_bundle(folder)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("adapter.entries.1.tensor", "gone", rf"{ADAPTER_FILE} has no tensor 'gone'"),
        ("adapter.entries.1.shape", [4, 4], rf"{ADAPTER_FILE} tensor '.*' is shaped \[8, 8\], and \[4, 4\]"),
    ],
)
def test_an_adapters_tensor_must_be_the_one_that_the_manifest_describes(
    folder: Path, place: str, value: Any, message: str
) -> None:
    rewrite(folder, put(place, value))
    reseal_hashes(folder)
    with pytest.raises(TensorFileInvalid, match=message):
        open_bundle(folder)


def test_a_tensor_that_is_adapted_twice_is_refused(folder: Path) -> None:
    rewrite(folder, lambda manifest: manifest["adapter"]["entries"].append(manifest["adapter"]["entries"][0]))
    reseal_hashes(folder)
    with pytest.raises(BundleInvalid, match="twice"):
        open_bundle(folder)


# --- what version 2 of the manifest says ------------------------------------------------------------------------------

RANK = 3


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """A bundle with a low-rank head that reads the last token, trained through a window."""
    folder = write_parts(tmp_path / "newer")
    numpy_files.save_file({ELU_TENSOR: values((RANK, HIDDEN)), HEAD_TENSOR: values((5, RANK))}, folder / HEAD_FILE)
    seal_bundle(folder, replace(DRAFT, alpha=0.1, read_position=ReadPosition.LAST, window=Window(4, 12, 4)))
    return folder


def test_a_usual_bundle_says_nothing_that_version_1_did_not(folder: Path) -> None:
    manifest = manifest_of(folder)
    assert manifest["version"] == 1
    assert manifest.keys().isdisjoint({"read_position", "window"})
    assert manifest["head"].keys() == {"file", "tensor", "shape"}
    bundle = open_bundle(folder)
    assert bundle.head.ref == hashlib.sha256((folder / HEAD_FILE).read_bytes()).hexdigest()
    assert (bundle.head.elu, bundle.head.position, bundle.window) == (None, ReadPosition.SECOND_TO_LAST, None)


def test_what_version_2_says_is_what_is_opened(newer: Path) -> None:
    bundle = open_bundle(newer)
    assert manifest_of(newer)["version"] == 2
    assert bundle.window == Window(4, 12, 4)
    assert bundle.head.position is ReadPosition.LAST
    assert bundle.head.elu is not None
    assert bundle.head.elu.alpha == 0.1
    np.testing.assert_array_equal(read_float32(bundle.head.elu.tensor), values((RANK, HIDDEN)))
    np.testing.assert_array_equal(read_float32(bundle.head.tensor), values((5, RANK)))
    check_fit(bundle, BASE)


@pytest.mark.parametrize(
    ("place", "value"),
    [("head.elu.alpha", 0.2), ("read_position", "second-to-last")],
)
def test_the_heads_ref_stands_for_all_that_the_head_is(newer: Path, place: str, value: Any) -> None:
    before = open_bundle(newer).head.ref
    rewrite(newer, put(place, value))
    assert open_bundle(newer).head.ref != before


def test_the_window_is_no_part_of_the_head(newer: Path) -> None:
    before = open_bundle(newer).head.ref
    rewrite(newer, put("window", {"head": 1, "tail": 1, "step": 1}))
    assert open_bundle(newer).head.ref == before


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("version", 1, "head.elu is said by bundles of version 2"),
        ("version", 3, "has version 3, and this release reads version 1 and 2"),
        ("head.elu.alpha", 0.0, "head.elu.alpha"),
        ("head.elu.alpha", 1.5, "head.elu.alpha"),
        ("head.elu.shape", [RANK], "head.elu.shape"),
        ("read_position", "first", "read_position"),
        ("window.step", 13, "a step of 13 tokens does not fit a tail of 12"),
        ("window.tail", 0, "window.tail"),
    ],
)
def test_version_2_is_read_strictly(newer: Path, place: str, value: Any, message: str) -> None:
    rewrite(newer, put(place, value))
    with pytest.raises(BundleInvalid, match=message):
        open_bundle(newer)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((RANK + 1, HIDDEN), (5, RANK)), "second matrix takes 3 numbers, and its first gives 4"),
        (((RANK, HIDDEN), (6, RANK)), "a head of 6 rows is for 3 agents"),
    ],
)
def test_a_low_rank_head_whose_parts_do_not_fit_is_not_sealed(
    tmp_path: Path, shapes: tuple[tuple[int, int], tuple[int, int]], message: str
) -> None:
    folder = write_parts(tmp_path / "bundle")
    numpy_files.save_file({ELU_TENSOR: values(shapes[0]), HEAD_TENSOR: values(shapes[1])}, folder / HEAD_FILE)
    with pytest.raises(BundleInvalid, match=message):
        seal_bundle(folder, replace(DRAFT, alpha=0.1))
    assert not (folder / "manifest.json").exists()


def test_a_low_rank_head_for_another_width_does_not_fit_the_base(newer: Path) -> None:
    narrow = replace(BASE, config=replace(CONFIG, hidden_size=4))
    with pytest.raises(TensorFileInvalid, match=rf"'{ELU_TENSOR}' is shaped \[3, 8\], and \[3, 4\] is needed"):
        check_fit(open_bundle(newer), narrow)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_a_head_that_is_not_float32_is_refused(folder: Path, dtype: Any) -> None:
    numpy_files.save_file({HEAD_TENSOR: np.zeros((5, HIDDEN), dtype)}, folder / HEAD_FILE)
    reseal_hashes(folder)
    with pytest.raises(TensorFileInvalid, match=HEAD_FILE):
        open_bundle(folder)


@pytest.mark.parametrize("name", [ADAPTER_FILE, HEAD_FILE])
def test_a_file_that_is_no_safetensors_is_refused_even_with_the_right_hash(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\x80\x04pickle" * 9)
    reseal_hashes(folder)
    with pytest.raises(TensorFileInvalid, match=name):
        open_bundle(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"version": 1}', b'{"version": NaN}']
)
def test_a_manifest_that_is_none_is_refused(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleInvalid, match=r"manifest\.json"):
        open_bundle(folder)


def test_a_folder_without_a_manifest_is_a_bundle_that_was_never_finished(tmp_path: Path) -> None:
    with pytest.raises(BundleInvalid, match=r"cannot read .*manifest\.json"):
        open_bundle(write_parts(tmp_path / "unfinished"))


def seen(bundle: Bundle) -> dict[str, Any]:
    """What a bundle says about itself, in the words of its manifest."""
    return {
        "name": bundle.name,
        "base": (bundle.base_id, bundle.base_revision, bundle.base_ref, bundle.base_folder),
        "text_format": bundle.text_format,
        "agents": bundle.head.labels,
        "adapter_ref": bundle.adapter.ref,
        "entries": bundle.adapter.entries,
        "head": bundle.head.tensor,
    }


def described(manifest: dict[str, Any], original: Bundle) -> dict[str, Any]:
    """What a bundle must say under ``manifest`` if its tensors are still the original ones."""
    base = manifest["base"]
    carried = original.folder / base["folder"] if base["folder"] is not None else None
    return {
        "name": manifest["name"],
        "base": (base["id"], base["revision"], original.base_ref, carried),
        "text_format": manifest["text_format"],
        "agents": tuple(manifest["agents"]),
        "adapter_ref": original.adapter.ref,
        "entries": original.adapter.entries,
        "head": original.head.tensor,
    }


def opened(folder: Path) -> Bundle | None:
    try:
        return open_bundle(folder)
    except (BundleInvalid, TensorFileInvalid) as error:
        message = str(error)
    assert str(folder) in message
    return None


@pytest.fixture(scope="module")
def victim(sealed: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A copy whose manifest may be overwritten, as it was before that."""
    return open_bundle(Path(shutil.copytree(sealed, tmp_path_factory.mktemp("victim") / "bundle")))


@pytest.mark.parametrize("name", [ADAPTER_FILE, HEAD_FILE, "card/README.md"])
@settings(max_examples=40)
@given(data=st.data())
def test_no_changed_byte_of_a_hashed_file_is_accepted(
    sealed: Path, tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / Path(name).stem
    path = Path(shutil.copytree(sealed, folder, dirs_exist_ok=True)) / name
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(BundleInvalid, match=path.name):
        open_bundle(folder)


@settings(max_examples=300)
@given(st.data())
def test_a_changed_byte_of_the_manifest_is_refused_or_means_what_it_says(
    sealed: Path, victim: Bundle, data: st.DataObject
) -> None:
    content = bytearray((sealed / "manifest.json").read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255) | st.sampled_from(b'0123456789abf-,:[]{}"\\ '))
    (victim.folder / "manifest.json").write_bytes(content)
    bundle = opened(victim.folder)
    if bundle is not None:
        assert seen(bundle) == described(json.loads(content), victim)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """The path to every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (key,)
        yield from ((key, *rest) for rest in places(inner))


def replaced(manifest: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(manifest)
    inner: Any = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


@settings(max_examples=300)
@given(st.data())
def test_a_changed_value_of_the_manifest_is_refused_or_means_what_it_says(
    sealed: Path, victim: Bundle, data: st.DataObject
) -> None:
    manifest = manifest_of(sealed)
    place = data.draw(st.sampled_from(list(places(manifest))))
    changed = replaced(manifest, place, data.draw(JSON_VALUES))
    (victim.folder / "manifest.json").write_text(json.dumps(changed))
    bundle = opened(victim.folder)
    if bundle is not None:
        assert seen(bundle) == described(changed, victim)


@pytest.mark.parametrize("missing", [ADAPTER_FILE, HEAD_FILE])
def test_sealing_without_adapter_or_head_writes_no_manifest(tmp_path: Path, missing: str) -> None:
    folder = write_parts(tmp_path / "bundle")
    (folder / missing).unlink()
    with pytest.raises(TensorFileInvalid, match=missing):
        seal_bundle(folder, DRAFT)
    assert not (folder / "manifest.json").exists()


def test_sealing_with_a_change_that_the_adapter_does_not_hold_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "bundle")
    with pytest.raises(TensorFileInvalid, match=rf"{ADAPTER_FILE} has no tensor 'gone'"):
        seal_bundle(folder, replace(DRAFT, executions={"gone": Execution.RIGHT}))


def test_sealing_with_a_head_of_another_name_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "bundle")
    numpy_files.save_file({"head": values((5, HIDDEN))}, folder / HEAD_FILE)
    with pytest.raises(TensorFileInvalid, match=rf"{HEAD_FILE} has no tensor '{HEAD_TENSOR}'"):
        seal_bundle(folder, DRAFT)


def test_sealing_what_does_not_hold_up_leaves_no_manifest(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "bundle")
    with pytest.raises(ArtifactError):
        seal_bundle(folder, replace(DRAFT, agents=("one",)))
    assert not (folder / "manifest.json").exists()


def test_a_bundle_fits_the_base_that_it_was_made_for(sealed: Path) -> None:
    check_fit(open_bundle(sealed), BASE)


def test_another_base_of_the_same_shapes_is_a_mismatch(sealed: Path) -> None:
    with pytest.raises(BaseMismatch, match=r"tiny was made for base owner/base \(0123456789ab\.\.\.\)"):
        check_fit(open_bundle(sealed), replace(BASE, ref="f" * 64))


def sealed_with(folder: Path, changes: dict[str, tuple[Execution, tuple[int, ...]]], width: int = HIDDEN) -> Bundle:
    shapes = {name: shape for name, (_, shape) in changes.items()}
    write_parts(folder, shapes, head=values((5, width)))
    executions = {name: execution for name, (execution, _) in changes.items()}
    return seal_bundle(folder, replace(DRAFT, executions=executions))


def test_a_head_of_another_width_is_refused_with_both_shapes(tmp_path: Path) -> None:
    bundle = sealed_with(tmp_path / "bundle", {QUERY: (Execution.RIGHT, (8, 8))}, width=9)
    with pytest.raises(TensorFileInvalid, match=rf"{HEAD_FILE} tensor .* is shaped \[5, 9\], and \[5, 8\] is needed"):
        check_fit(bundle, BASE)


@pytest.mark.parametrize(
    ("source", "execution", "shape"),
    [
        (EMBEDDING, Execution.RIGHT, (8, 8)),
        (EMBEDDING, Execution.REPLACE, (20, 8)),
        (QUERY, Execution.RIGHT, (8, 8)),
        (QUERY, Execution.LEFT, (12, 12)),
        (QUERY, Execution.REPLACE, (12, 8)),
        (DOWN, Execution.LEFT, (8, 8)),
        (DOWN, Execution.RIGHT, (12, 12)),
    ],
)
def test_a_change_of_the_right_shape_fits_and_of_a_wrong_one_does_not(
    tmp_path: Path, source: str, execution: Execution, shape: tuple[int, int]
) -> None:
    check_fit(sealed_with(tmp_path / "right", {source: (execution, shape)}), BASE)
    wrong = sealed_with(tmp_path / "wrong", {source: (execution, (shape[0], shape[1] + 1))})
    with pytest.raises(TensorFileInvalid, match=rf"{ADAPTER_FILE} tensor '{source}' is shaped"):
        check_fit(wrong, BASE)


def test_an_embedding_takes_no_left_factor(tmp_path: Path) -> None:
    bundle = sealed_with(tmp_path / "bundle", {EMBEDDING: (Execution.LEFT, (20, 20))})
    with pytest.raises(TensorFileInvalid, match=rf"{ADAPTER_FILE}: '{EMBEDDING}' cannot be adapted by a left factor"):
        check_fit(bundle, BASE)


@pytest.mark.parametrize("source", ["model.layers.1.self_attn.q_proj.weight", "model.norm.weight", "other"])
@pytest.mark.parametrize("execution", list(Execution))
def test_a_tensor_that_this_base_cannot_adapt_is_refused_by_name(
    tmp_path: Path, source: str, execution: Execution
) -> None:
    bundle = sealed_with(tmp_path / "bundle", {source: (execution, (8, 8))})
    with pytest.raises(TensorFileInvalid, match=f"'{source}' cannot be adapted"):
        check_fit(bundle, BASE)


def test_the_shapes_are_told_before_the_mismatch(tmp_path: Path) -> None:
    bundle = sealed_with(tmp_path / "bundle", {QUERY: (Execution.RIGHT, (9, 9))})
    with pytest.raises(TensorFileInvalid, match=QUERY):
        check_fit(bundle, replace(BASE, ref="f" * 64))


def test_a_change_to_the_language_model_head_has_no_effect_on_a_route(tmp_path: Path) -> None:
    bundle = sealed_with(tmp_path / "bundle", {LM_HEAD: (Execution.LEFT, (3, 7)), QUERY: (Execution.RIGHT, (8, 8))})
    assert [entry.source for entry in bundle.adapter.entries] == [QUERY]
    check_fit(bundle, BASE)

"""Parts that were exchanged on the disk: never taken for what they were, and never shared with an honest artifact."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import numpy as numpy_files

from trinity_mlx.artifacts.bundle import HEAD_FILE, HEAD_TENSOR, BundleDraft, open_bundle, seal_bundle
from trinity_mlx.artifacts.catalog import find_bundle
from trinity_mlx.contracts.artifact import Base, Bundle
from trinity_mlx.contracts.errors import ArtifactNotFound, BundleInvalid
from trinity_mlx.files.hashing import FileHashes
from trinity_mlx.files.shipped import data_path
from trinity_mlx.routing.loading import load_router, open_artifact

from .. import builders
from .test_published import adapted_weights, write_published

MESSAGES = [{"role": "user", "content": "What is 17 + 25?"}]


def remembering(memory: Path) -> FileHashes:
    """Hashes with a memory that takes every file, however new it is."""
    return FileHashes(memory, clock=lambda: time.time_ns() + 3600 * 10**9)


def make_old(folder: Path) -> None:
    """Give every file the same time of modification, as reproducible archives do."""
    paths = list(folder.rglob("*"))
    for path in paths:
        os.utime(path, ns=(0, 0))
    builders.until_clock_ticks(folder, *paths)


def reverse_head(folder: Path) -> None:
    """Other values under the same name, of the same size and time."""
    values = numpy_files.load_file(folder / HEAD_FILE)[HEAD_TENSOR]
    numpy_files.save_file({HEAD_TENSOR: np.ascontiguousarray(values[::-1])}, folder / HEAD_FILE)
    make_old(folder)


def test_two_published_bundles_with_equal_tensors_keep_their_own_heads(
    tmp_path: Path, tiny_base: Base, tiny_head: np.ndarray
) -> None:
    weights = adapted_weights(tiny_base)
    one = write_published(tmp_path / "one", weights, tiny_head)
    other = write_published(tmp_path / "other", weights, -tiny_head)
    with (
        load_router(one, tiny_base.folder, profile="cpu") as first,
        load_router(other, tiny_base.folder, profile="cpu") as second,
    ):
        logits = [np.array(router.route(MESSAGES).logits.row) for router in (first, second)]
    np.testing.assert_allclose(logits[1], -logits[0], rtol=1e-5)
    assert first.identity.head_ref != second.identity.head_ref


@pytest.mark.parametrize("layout", ["checkpoint_directory", "single_file"])
def test_a_published_head_is_called_by_its_content(
    tmp_path: Path, tiny_base: Base, tiny_head: np.ndarray, layout: str
) -> None:
    folder = write_published(tmp_path / "b", adapted_weights(tiny_base), tiny_head, layout=layout)
    assert find_bundle(folder).head.ref == FileHashes().sha256(folder / "router_head.safetensors")


@pytest.fixture
def bundle(tmp_path: Path, tiny_bundle: Bundle) -> Path:
    folder = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "bundle"))
    make_old(folder)
    return folder


def reseal(folder: Path, base: Base) -> None:
    """A new manifest for the files as they are, with the old time."""
    executions = {entry.source: entry.execution for entry in open_changed(folder).adapter.entries}
    seal_bundle(folder, BundleDraft("tiny", "test/tiny", base.ref, builders.LABELS, executions))
    make_old(folder)


def open_changed(folder: Path) -> Bundle:
    """The bundle as its old head would have it: the one file is put right for the moment."""
    reverse_head(folder)
    opened = open_bundle(folder)
    reverse_head(folder)
    return opened


def test_a_bundle_that_was_updated_opens_again_though_sizes_and_times_are_the_same(
    tmp_path: Path, bundle: Path, tiny_base: Base
) -> None:
    memory = tmp_path / "hashes.json"
    before = open_bundle(bundle, remembering(memory))
    reverse_head(bundle)
    reseal(bundle, tiny_base)
    after = open_bundle(bundle, remembering(memory))
    assert after.head.ref != before.head.ref


def test_a_memory_that_is_wrong_refuses_no_good_bundle(tmp_path: Path, bundle: Path) -> None:
    memory = tmp_path / "hashes.json"
    right = open_bundle(bundle, remembering(memory))
    memory.write_text(memory.read_text().replace(right.head.ref, "0" * 64))
    assert open_bundle(bundle, remembering(memory)) == right


def test_a_memory_that_is_wrong_refuses_no_good_base(tmp_path: Path, bundle: Path, tiny_base: Base) -> None:
    memory = tmp_path / "hashes.json"
    open_artifact(bundle, tiny_base.folder, remembering(memory))
    weights = FileHashes().sha256(tiny_base.folder / "model.safetensors")
    memory.write_text(memory.read_text().replace(weights, "0" * 64))
    assert open_artifact(bundle, tiny_base.folder, remembering(memory))[1].ref == tiny_base.ref


@pytest.mark.parametrize("name", ["", "~nobody-of-that-name", "x" * 5000, "a\0b", "\ud800"])
def test_a_name_that_nothing_can_have_is_no_artifact_and_no_base(bundle: Path, name: str) -> None:
    with pytest.raises(ArtifactNotFound):
        find_bundle(name)
    with pytest.raises(ArtifactNotFound):
        open_artifact(bundle, name)


def test_a_head_that_was_exchanged_is_refused_though_size_and_time_are_the_same(tmp_path: Path, bundle: Path) -> None:
    memory = tmp_path / "hashes.json"
    open_bundle(bundle, remembering(memory))
    reverse_head(bundle)
    with pytest.raises(BundleInvalid, match="has changed"):
        open_bundle(bundle, remembering(memory))


def test_a_tampered_copy_never_answers_for_the_embedded_artifact(tmp_path: Path) -> None:
    builders.skip_without_nano()
    nano = data_path("fixtures", "artifacts", "nano")
    copy = Path(shutil.copytree(nano, tmp_path / "nano"))
    make_old(copy)
    memory = tmp_path / "hashes.json"
    find_bundle(copy, remembering(memory))
    reverse_head(copy)
    with pytest.raises(BundleInvalid, match="has changed"):
        load_router(copy, profile="cpu", hash_memory=memory)
    with load_router("nano", profile="cpu", hash_memory=memory) as router:
        assert router.identity.head_ref == FileHashes().sha256(nano / HEAD_FILE)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def circle(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("odd", [pipe, endless, circle], ids=["pipe", "device", "circle"])
@pytest.mark.parametrize("name", ["manifest.json", "adapter.safetensors", HEAD_FILE])
def test_a_part_that_is_no_regular_file_is_said_at_once(bundle: Path, name: str, odd: Callable[[Path], None]) -> None:
    (bundle / name).unlink()
    odd(bundle / name)
    with pytest.raises(BundleInvalid, match=name):
        find_bundle(bundle)

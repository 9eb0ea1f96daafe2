"""What an export would cost, and that what cannot fit is refused before it is tried."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trinity_backend_mlx.factorize import MlxFactorizer

from trinity_mlx.artifacts.manifest import read_manifest
from trinity_mlx.contracts.artifact import Base, TensorLocation
from trinity_mlx.contracts.backend import BackendInfo
from trinity_mlx.contracts.errors import FolderUnavailable, NotEnoughMemory
from trinity_mlx.export.pipeline import export
from trinity_mlx.export.plan import ExportPlan, plan_export, plan_work, settled
from trinity_mlx.export.request import ExportRequest, Method, Write
from trinity_mlx.export.targets import Target, Work
from trinity_mlx.files.safetensors import read_header
from trinity_mlx.profiles.backends import load_backend

from .. import builders
from ..odd_backends import Tight

ROWS, COLUMNS = 151936, 1024


@pytest.fixture
def request_(tiny_base: Base, tmp_path: Path) -> ExportRequest:
    vector = tmp_path / "v.npy"
    np.save(vector, np.random.default_rng(7).normal(0, 0.2, 19 * builders.TINY["hidden_size"]))
    return ExportRequest(tiny_base, "test/tiny", vector, tmp_path / "out", load_backend("torch"))


def planned(request: ExportRequest, *shapes: tuple[int, int], available: int = 24 * 10**9) -> ExportPlan:
    """The plan for BF16 sources of these shapes, which need not exist."""
    targets = tuple(
        Target(f"t{index}", TensorLocation(Path("f"), f"t{index}", "BF16", shape, index, 2 * shape[0] * shape[1]), ())
        for index, shape in enumerate(shapes)
    )
    work = Work("w", targets, {}, np.zeros((10, 4), dtype=np.float32), (), "")
    return plan_work(request, work, available)


def test_the_full_decomposition_of_the_embedding_takes_more_than_ninety_gigabytes(request_: ExportRequest) -> None:
    peak = planned(request_, (ROWS, COLUMNS)).tensors[0].peak
    assert 92e9 < peak.full < 96e9
    assert 2e9 < peak.thin < 4e9
    assert peak.gram < 2e8


@given(st.integers(64, 4000), st.integers(64, 4000))
def test_arithmetic_is_that_of_the_textbook(rows: int, columns: int) -> None:
    m, n = max(rows, columns), min(rows, columns)
    request = ExportRequest(None, "b", Path("v"), Path("/"), load_backend("torch"))  # type: ignore[arg-type]
    gram = planned(request, (rows, columns)).tensors[0].flops
    assert (gram.decompose, gram.factor, gram.apply) == (m * n**2 + 9 * n**3, 2 * n**3, 0)
    merged = planned(replace(request, write=Write.MERGED), (rows, columns)).tensors[0].flops
    assert merged.apply == 2 * rows * columns * n
    thin = planned(replace(request, method=Method.SVD), (rows, columns)).tensors[0].flops
    assert thin.decompose == 6 * m * n**2 + 20 * n**3


def test_the_gram_path_needs_no_more_memory_for_more_rows(request_: ExportRequest) -> None:
    tall, taller = planned(request_, (10_000, COLUMNS), (1_000_000, COLUMNS)).tensors
    assert tall.peak.gram == taller.peak.gram
    assert taller.peak.thin > 90 * tall.peak.thin


class MlxOnAGpu:
    """MLX as it decomposes where it has a GPU: by its own means, which hold all of the larger side's vectors."""

    def factorizer(self, _: str) -> MlxFactorizer:
        return MlxFactorizer(mx.cpu)


class OnlyFull(MlxOnAGpu):
    """The same, as an export needs it."""

    def info(self) -> BackendInfo:
        return BackendInfo("full", {}, ("gpu",), ("float32",))


def test_a_method_that_cannot_fit_is_refused_with_the_numbers(request_: ExportRequest, tmp_path: Path) -> None:
    mlx = replace(request_, backend=MlxOnAGpu(), method=Method.SVD)  # type: ignore[arg-type]
    with pytest.raises(NotEnoughMemory) as caught:
        planned(mlx, (ROWS, COLUMNS)).check(tmp_path)
    for part in ("svd", "94.2 GB", "t0", "[151936, 1024]", "24.0 GB", "the method gram needs 96.5 MB"):
        assert part in str(caught.value)
    planned(replace(mlx, backend=load_backend("torch")), (ROWS, COLUMNS)).check(tmp_path)
    planned(replace(mlx, method=Method.GRAM), (ROWS, COLUMNS)).check(tmp_path)


def test_a_full_decomposition_gives_way_to_the_gram_path_unless_asked_to_stay(request_: ExportRequest) -> None:
    mlx = replace(request_, backend=OnlyFull(), method=Method.SVD)  # type: ignore[arg-type]
    assert settled(mlx).method is Method.GRAM
    assert {tensor.method for tensor in plan_export(mlx).tensors} == {Method.GRAM}
    assert {tensor.method for tensor in plan_export(replace(mlx, strict=True)).tensors} == {Method.SVD}
    assert settled(replace(request_, method=Method.SVD)).method is Method.SVD
    bundle = export(mlx)
    made = read_manifest(bundle.folder).made
    assert (made["method"], made["method asked for"]) == ("gram", "svd, which is a full decomposition there")
    assert "method asked for" not in read_manifest(export(replace(mlx, strict=True, force=True)).folder).made
    assert export(replace(mlx, force=True)).adapter.ref == bundle.adapter.ref
    assert export(replace(mlx, resume=True)).adapter.ref == bundle.adapter.ref


@pytest.mark.parametrize("method", Method)
def test_nothing_is_tried_that_cannot_fit(request_: ExportRequest, method: Method) -> None:
    with pytest.raises(NotEnoughMemory, match=r"0\.0 MB are available"):
        export(replace(request_, method=method, backend=Tight()))  # type: ignore[arg-type]
    assert not request_.out.exists()


def test_a_full_disk_is_foreseen(request_: ExportRequest) -> None:
    plan = replace(plan_export(request_), free_disk_bytes=1000)
    with pytest.raises(FolderUnavailable, match=r"0.0 MB free.*takes 0.2 MB"):
        plan.check(request_.out)


def test_an_export_onto_a_full_disk_begins_nothing(request_: ExportRequest, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 70_000))
    with pytest.raises(FolderUnavailable, match=r"0.\d MB free.*takes 0.2 MB"):
        export(replace(request_, out=small_disk / "out"))
    assert not (small_disk / "out").exists()


@pytest.mark.parametrize("write", Write)
def test_the_output_has_the_planned_size_and_the_plan_writes_nothing(request_: ExportRequest, write: Write) -> None:
    request = replace(request_, write=write)
    before = sorted(request.out.parent.rglob("*"))
    found = plan_export(request)
    assert sorted(request.out.parent.rglob("*")) == before
    export(request)
    files = [request.out / name for name in ("adapter.safetensors", "router_head.safetensors")]
    held = [tensor for file in files for tensor in read_header(file).values()]
    assert sum(tensor.nbytes for tensor in held) == found.output_bytes


def test_a_shared_source_is_planned_once(request_: ExportRequest) -> None:
    embedding, *others, head = plan_export(request_).tensors
    assert head.shares == embedding.name
    assert head.flops.decompose == 0
    assert all(tensor.shares is None for tensor in [embedding, *others])


def test_plain_values_for_programs(request_: ExportRequest) -> None:
    found: dict[str, Any] = plan_export(request_).to_dict()
    assert found["flops"] == sum(sum(tensor["flops"].values()) for tensor in found["tensors"])
    assert set(found["tensors"][0]["peak"]) == {"gram", "thin", "full"}

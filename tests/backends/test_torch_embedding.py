"""The embedding on torch's CPU lanes: kept as it is stored, since a prompt looks up few of its rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import torch as torch_files

from trinity_mlx.artifacts.base import open_base
from trinity_mlx.contracts.artifact import Base
from trinity_mlx.profiles.backends import load_backend

from .. import builders
from ..builders import EMBEDDING, fresh, random_tokens

STORED = [torch.bfloat16, torch.float16, torch.float32]
SEGMENTS = fresh(random_tokens(20), random_tokens(33))


def stored_as(dtype: torch.dtype, base: Base, folder: Path) -> Base:
    """A base with the same numbers, which ``dtype`` must hold exactly."""
    shutil.copytree(base.folder, folder)
    path = folder / "model.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in torch_files.load_file(path).items()}
    torch_files.save_file(tensors, path, metadata={"format": "pt"})
    return open_base(folder)


@pytest.fixture(scope="module", params=STORED, ids=str)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return builders.make_base(tmp_path_factory.mktemp("stored") / "base", dtype=request.param)


@pytest.mark.parametrize("change", [None, "factored", "merged", "replaced"])
def test_rows_are_converted_exactly_whatever_changes_them(base: Base, tmp_path: Path, change: str | None) -> None:
    wide, head = stored_as(torch.float32, base, tmp_path / "wide"), builders.make_head(base)
    make = builders.replaced if change == "replaced" else builders.factored
    changes = make(wide, builders.make_offsets(wide)) if change else {}
    bundle = builders.write_bundle(tmp_path / "bundle", wide, changes, head)
    narrow_rows, wide_rows = (
        builders.load(load_backend("torch"), each)
        .attach(bundle.adapter, bundle.head, merged=change == "merged")
        .logits(SEGMENTS)[0]
        for each in (base, wide)
    )
    assert narrow_rows == wide_rows


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_no_copy_of_the_embedding_is_made(base: Base, dtype: str) -> None:
    loaded = builders.load(load_backend("torch"), base, dtype)
    shapes = base.config.backbone_shapes()
    others = sum(torch.Size(shape).numel() for name, shape in shapes.items() if name != EMBEDDING)
    assert loaded.nbytes == others * getattr(torch, dtype).itemsize + base.tensors[EMBEDDING].nbytes

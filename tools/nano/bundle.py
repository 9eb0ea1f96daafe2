"""From the trained parts to the bundle that ships: factors, head, card, manifest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tools.nano.card import card
from trinity_mlx.artifacts.base import open_base
from trinity_mlx.artifacts.bundle import ADAPTER_FILE, HEAD_FILE, HEAD_TENSOR, BundleDraft, seal_bundle
from trinity_mlx.artifacts.vector import LM_HEAD, VECTOR_TENSOR, adapted_shapes, split_vector
from trinity_mlx.contracts.artifact import Base, Bundle
from trinity_mlx.factorization.svf import Factor, svf_factor
from trinity_mlx.files.hashing import FileHashes
from trinity_mlx.files.safetensors import read_float32

LABELS = ("mathematics", "code", "science", "writing", "planning", "facts", "data")


def write_bundle(parts: Path, out: Path, report: dict[str, Any]) -> Bundle:
    """Make the bundle in ``out`` from ``parts`` (``base/`` and ``vector.safetensors``); what lay there is replaced.

    The factors are stored in float32; ``lm_head`` has none, since it has no effect on a route.
    """
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(parts / "base", out / "base")
    base = open_base(out / "base")
    vector_file = parts / "vector.safetensors"
    vector = load_file(vector_file)[VECTOR_TENSOR]
    trained = split_vector(vector, adapted_shapes(base.config), base.config.hidden_size)
    factors = {name: _factor(base, name, offsets) for name, offsets in trained.offsets.items() if name != LM_HEAD}
    save_file({name: factor.matrix.astype(np.float32) for name, factor in factors.items()}, out / ADAPTER_FILE)
    save_file({HEAD_TENSOR: np.ascontiguousarray(trained.head, dtype=np.float32)}, out / HEAD_FILE)
    (out / "README.md").write_text(card(report), encoding="utf-8")
    for path in out.glob("*.safetensors"):
        path.chmod(0o644)  # the library writes for the owner alone, and a wheel keeps that
    return seal_bundle(
        out,
        BundleDraft(
            name="nano",
            base_id="trinity-mlx/nano-base",
            base_ref=base.ref,
            base_folder="base",
            agents=LABELS,
            executions={name: factor.execution for name, factor in factors.items()},
            made={"command": "python tools/nano/build.py", "method": "gram", "numpy": np.__version__},
            lineage={"vector": FileHashes().sha256(vector_file)},
        ),
    )


def _factor(base: Base, name: str, offsets: np.ndarray) -> Factor:
    return svf_factor(read_float32(base.tensors[name]), offsets)

"""A manifest says what computed each step and where, and that is what did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from trinity_backend_mlx.factorize import MlxFactorizer

from trinity_mlx.artifacts.manifest import read_manifest
from trinity_mlx.contracts.artifact import Base
from trinity_mlx.export.pipeline import export
from trinity_mlx.export.request import ExportRequest, Method, Write
from trinity_mlx.factorization.host import HostFactorizer
from trinity_mlx.profiles.backends import load_backend

from .. import builders

NUMPY = {"gram": "numpy, float64", "adapted": "numpy, float32"}
TORCH = {"gram": "numpy, float64", "adapted": "torch on cpu, float32"}


def exported(base: Base, folder: Path, backend: Any, device: str = "cpu") -> dict[str, str]:
    vector = folder / "v.npy"
    np.save(vector, np.random.default_rng(7).normal(0, 0.2, 19 * builders.TINY["hidden_size"]))
    request = ExportRequest(
        base, "test/tiny", vector, folder / "out", backend, device, method=Method.GRAM, write=Write.MERGED
    )
    made = read_manifest(export(request).folder).made
    return {step: made[f"{step} computed by"] for step in ("gram", "adapted")}


@pytest.mark.parametrize(("name", "said"), [("mlx", NUMPY), ("torch", TORCH)])
def test_the_manifest_says_what_each_backend_leaves_to_numpy(
    tiny_base: Base, tmp_path: Path, name: str, said: dict[str, str]
) -> None:
    assert exported(tiny_base, tmp_path, load_backend(name)) == said


class Marked:
    """MLX's backend as on a GPU, on the CPU: its factorizer tells which steps were its own."""

    def __init__(self) -> None:
        self.info = load_backend("mlx").info
        self.own: set[str] = set()

    def factorizer(self, _: str) -> MlxFactorizer:
        backend = self

        class Factorizer(MlxFactorizer):
            def adapted_tiles(self, *arguments: Any) -> Any:
                backend.own.add("adapted")
                return super().adapted_tiles(*arguments)

        return Factorizer(mx.cpu)


def test_on_a_gpu_the_steps_that_mlx_does_well_are_its_own(tiny_base: Base, tmp_path: Path) -> None:
    backend = Marked()
    said = exported(tiny_base, tmp_path, backend)
    assert backend.own == {"adapted"}
    assert said == {"gram": "numpy, float64", "adapted": "mlx on the cpu, float32"}
    assert MlxFactorizer.gram is HostFactorizer.gram
    assert MlxFactorizer(mx.gpu).computes["adapted"] == "mlx on the gpu, float32"


def test_where_mlx_computes_on_the_cpu_numpy_does_all_of_it() -> None:
    backend: Any = load_backend("mlx")
    assert type(backend.factorizer("cpu")) is HostFactorizer

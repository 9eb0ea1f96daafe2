"""Tiny models that every test may use, and the lanes they run on; what they are made of is in ``builders``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from trinity_mlx.contracts.artifact import Base, Bundle
from trinity_mlx.contracts.backend import Backend, LoadedBase, RoutingModel
from trinity_mlx.profiles.backends import load_backend

from . import builders
from .qwen_vocabulary import write_qwen_tokenizer

torch.set_num_threads(1)  # small models gain nothing from a second thread, and lose much on a busy machine


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test of ``backend`` runs on each backend's devices that are here, or on the one asked for."""
    own = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "backend" not in metafunc.fixturenames or any("backend" in names for names in own):
        return
    lanes = builders.lanes(metafunc.config.getoption("--device"))
    ids = [name if device == "cpu" else f"{name}-{device}" for name, device in lanes]
    metafunc.parametrize("backend", lanes, ids=ids, indirect=True, scope="session")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return builders.make_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def tiny_offsets(tiny_base: Base) -> dict[str, np.ndarray]:
    return builders.make_offsets(tiny_base)


@pytest.fixture(scope="session")
def tiny_head(tiny_base: Base) -> np.ndarray:
    return builders.make_head(tiny_base)


@pytest.fixture(scope="session")
def tiny_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_base: Base,
    tiny_offsets: dict[str, np.ndarray],
    tiny_head: np.ndarray,
) -> Bundle:
    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    return builders.write_bundle(folder, tiny_base, builders.factored(tiny_base, tiny_offsets), tiny_head)


@pytest.fixture(scope="session")
def tiny_folders(tiny_base: Base, tiny_bundle: Bundle) -> dict[str, Path]:
    """What ``load_router`` takes to load the tiny router."""
    return {"artifact": tiny_bundle.folder, "base": tiny_base.folder}


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    name, device = request.param
    return load_backend(name) if device == "cpu" else builders.OnDevice(load_backend(name), device)


@pytest.fixture(scope="session")
def loaded(backend: Backend, tiny_base: Base) -> LoadedBase:
    return builders.load(backend, tiny_base)


@pytest.fixture(scope="session")
def plain_model(loaded: LoadedBase, tiny_bundle: Bundle) -> RoutingModel:
    """The base without an adapter."""
    return loaded.attach(None, tiny_bundle.head)


@pytest.fixture(scope="session")
def adapted_model(loaded: LoadedBase, tiny_bundle: Bundle) -> RoutingModel:
    return loaded.attach(tiny_bundle.adapter, tiny_bundle.head)


@pytest.fixture(scope="session")
def plain_recipe(tiny_base: Base) -> builders.PlainRecipe:
    return builders.PlainRecipe(tiny_base.folder)


@pytest.fixture(scope="session")
def adapted_recipe(tiny_base: Base, tiny_offsets: dict[str, np.ndarray]) -> builders.PlainRecipe:
    return builders.adapted_recipe(tiny_base, tiny_offsets)


@pytest.fixture(scope="session")
def qwen_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real Qwen tokenizer."""
    return write_qwen_tokenizer(tmp_path_factory.mktemp("qwen") / "tokenizer.json")

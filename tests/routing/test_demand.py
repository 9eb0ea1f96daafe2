"""Memory before a load: what a model takes is foreseen, too little is told, and nothing stays of a load that failed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trinity_mlx.contracts.artifact import Base, Bundle
from trinity_mlx.contracts.backend import DeviceMemory, Variant
from trinity_mlx.contracts.errors import NotEnoughMemory
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.routing.demand import Demand
from trinity_mlx.routing.leases import ModelRegistry
from trinity_mlx.routing.loading import load_router

from .. import builders
from ..evaluation_cases import assert_fails, install_odd_backends, invoke

Folders = dict[str, Path]


class Watched:
    """Torch, which remembers weakly what it loaded; ``fails`` is raised in the middle of attaching."""

    def __init__(self, fails: Exception | None = None) -> None:
        self._inner = load_backend("torch")
        self.info = self._inner.info
        self.loaded: list[weakref.ref[Any]] = []
        self.fails = fails

    def load_base(self, *arguments: Any, **options: Any) -> Any:
        base = self._inner.load_base(*arguments, **options)
        self.loaded.append(weakref.ref(base))
        return _Base(base, self)

    @property
    def alive(self) -> int:
        gc.collect()
        return sum(each() is not None for each in self.loaded)


class _Base:
    def __init__(self, inner: Any, owner: Watched) -> None:
        self._inner, self._owner, self.nbytes = inner, owner, inner.nbytes

    def attach(self, *arguments: Any, **options: Any) -> Any:
        model = self._inner.attach(*arguments, **options)
        if self._owner.fails:
            raise self._owner.fails
        return model


def load(folders: Folders, backend: Watched, registry: ModelRegistry, **options: Any) -> Any:
    engine: Any = backend
    return load_router(**folders, backend=engine, registry=registry, **options)  # type: ignore[arg-type]


def test_too_little_memory_is_told_before_anything_is_loaded(tiny_folders: Folders) -> None:
    backend, registry = Watched(), ModelRegistry(free_bytes=lambda *_: 100_000)
    with pytest.raises(NotEnoughMemory, match=r"about 0\.\d MB on cpu .*float32.* 0\.1 MB are free: free some"):
        load(tiny_folders, backend, registry)
    assert backend.loaded == []


def test_models_that_nobody_uses_make_room_first(tiny_folders: Folders) -> None:
    backend = Watched()
    registry = ModelRegistry(free_bytes=lambda *_: 200_000 if backend.alive else 10**9)
    load(tiny_folders, backend, registry).close()
    assert backend.alive == 1
    with load(tiny_folders, backend, registry, dtype="bfloat16"):
        assert (backend.alive, len(backend.loaded)) == (1, 2)


def test_a_model_in_use_is_never_given_up_for_another(tiny_folders: Folders) -> None:
    backend = Watched()
    registry = ModelRegistry(free_bytes=lambda *_: 200_000 if backend.alive else 10**9)
    with load(tiny_folders, backend, registry) as router:
        with pytest.raises(NotEnoughMemory):
            load(tiny_folders, backend, registry, dtype="bfloat16")
        assert router.route("What is 17 + 25?").label


def test_a_base_that_is_there_is_not_counted_again(tiny_folders: Folders, tiny_base: Base, tiny_bundle: Bundle) -> None:
    demand = Demand.of(tiny_base, tiny_bundle.adapter, dtype="float32", merged=True, variant=Variant())
    left: Iterator[int] = iter([10**9, 10**9, demand.adapter])
    registry = ModelRegistry(free_bytes=lambda *_: next(left))
    backend = Watched()
    with load(tiny_folders, backend, registry), load(tiny_folders, backend, registry, execution="merged"):
        assert len(backend.loaded) == 1


@pytest.mark.parametrize("error", [MemoryError(), NotEnoughMemory("torch ran out of memory: 20 GB; free some")])
def test_running_out_in_the_middle_is_one_line_and_releases_what_was_loaded(
    tiny_folders: Folders, error: Exception
) -> None:
    backend, registry = Watched(error), ModelRegistry()
    with pytest.raises(NotEnoughMemory, match=r"ran out of memory.*; free some") as told:
        load(tiny_folders, backend, registry)
    assert "\n" not in str(told.value)
    error.__traceback__ = None
    del told
    assert (backend.alive, len(backend.loaded)) == (0, 1)
    backend.fails = None
    with load(tiny_folders, backend, registry) as router:
        assert router.route("What is 17 + 25?").label


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize(
    ("name", "dtype", "variant"),
    [
        ("torch", "float32", Variant()),
        ("torch", "bfloat16", Variant()),
        ("torch", "float32", Variant(quantize=8)),
        ("mlx", "float32", Variant()),
        ("mlx", "bfloat16", Variant()),
        ("mlx", "bfloat16", Variant(quantize=8)),
        ("mlx", "bfloat16", Variant(quantize=4)),
    ],
    ids=str,
)
def test_what_a_model_takes_is_foreseen(
    tiny_base: Base, tiny_bundle: Bundle, name: str, dtype: str, variant: Variant, merged: bool
) -> None:
    foreseen = Demand.of(tiny_base, tiny_bundle.adapter, dtype=dtype, merged=merged, variant=variant)
    base = load_backend(name).load_base(tiny_base, device="cpu", dtype=dtype, variant=variant)
    bare = base.nbytes
    model = base.attach(tiny_bundle.adapter, tiny_bundle.head, merged=merged)
    twice = base.nbytes - bare  # matrices that an adapter changes are held apart from the joint ones
    assert bare <= foreseen.base <= 1.1 * bare + 2 * max(tensor.nbytes for tensor in tiny_base.tensors.values())
    assert model.nbytes - builders.make_head(tiny_base).nbytes <= foreseen.adapter <= 3 * (model.nbytes + twice)


def test_a_backend_that_tells_its_memory_is_asked(tiny_folders: Folders) -> None:
    class Full(Watched):
        def device_memory(self, _: str) -> Any:
            return DeviceMemory(1000, is_host=False)

        def kept_bytes(self) -> int:
            return 0

    with pytest.raises(NotEnoughMemory, match=r"0\.0 MB are free"):
        load(tiny_folders, Full(), ModelRegistry())


@pytest.mark.parametrize(("kept", "alive"), [(0, 1), (10**6, 0)])
def test_freed_memory_that_a_framework_keeps_counts_with_idle_models(
    tiny_folders: Folders, kept: int, alive: int
) -> None:
    class Hoarding(Watched):
        def device_memory(self, _: str) -> None:
            return None

        def kept_bytes(self) -> int:
            return kept

    backend = Hoarding()
    registry = ModelRegistry(max_idle_bytes=1_200_000)
    load(tiny_folders, backend, registry).close()
    assert backend.alive == alive


@pytest.mark.parametrize(
    ("command", "tried"),
    [
        (("route", "What is 17 + 25?", "--artifact", "nano"), "--dtype bfloat16"),
        (("eval", "--artifact", "nano"), "--quantize 8"),
    ],
)
def test_the_command_line_says_in_one_line_how_much_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], tried: str
) -> None:
    install_odd_backends(tmp_path, tmp_path / "config", monkeypatch)
    monkeypatch.setenv("TRINITY_MLX_CONFIG", str(tmp_path / "config"))
    assert_fails(invoke(*command, "--profile", "tight"), 3, "needs about", "0.0 MB are free", tried)

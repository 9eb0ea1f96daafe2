"""Backends found by name through the entry-point group ``trinity_mlx.backends``, and imported only when asked for."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from ..contracts.backend import ENTRY_POINT_GROUP, Backend, Capabilities, SvdWeightsReader, TellsCapabilities
from ..contracts.errors import EnvironmentUnavailable, ProfileUnavailable


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection meanwhile: a framework's import makes hundreds of thousands of objects, all to stay.

    Nor are they looked through right after it: they are old at once, by a freeze that is undone, which leaves alone
    what the program itself has frozen.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()
        if was_enabled:
            gc.enable()


PROFILES_GROUP = "trinity_mlx.profiles"
"""A package named in this group of entry points brings profiles: TOML files that lie in it."""


@cache
def load_backend(name: str) -> Backend:
    """The backend ``name``, one instance a process.

    Raises:
        ProfileUnavailable: no installed package offers it, or its import fails.
    """
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in points:
        offered = ", ".join(sorted(points)) or "none"
        raise ProfileUnavailable(f"no backend {name!r} is installed (found: {offered}); reinstall trinity-mlx")
    try:
        with _no_collection():
            backend: Backend = points[name].load()()
    except (ImportError, OSError) as error:
        raise ProfileUnavailable(f"backend {name!r} cannot be imported: {error}") from None
    return backend


def capabilities_of(name: str, device: str) -> Capabilities | None:
    """What the backend ``name`` can do on ``device``; None where it does not tell.

    Raises:
        ProfileUnavailable: as ``load_backend``.
    """
    backend = load_backend(name)
    return backend.capabilities(device) if isinstance(backend, TellsCapabilities) else None


def svd_weights_reader(load: Callable[[str], object] = load_backend) -> SvdWeightsReader:
    """What reads the decompositions that torch saved: the backend that ``load`` gives for ``torch``.

    Raises:
        EnvironmentUnavailable: torch is not installed, or its backend does not read them.
    """
    try:
        backend = load("torch")
    except ProfileUnavailable as error:
        raise EnvironmentUnavailable(
            f"only torch can read what torch saved, and it is not here ({error}): pip install 'trinity-mlx[torch]'"
        ) from None
    if not isinstance(backend, SvdWeightsReader):
        raise EnvironmentUnavailable("the torch backend that is installed does not read svd_weights.pt")
    return backend


@cache
def offered_folders() -> list[Path]:
    """Folders of profiles that installed packages offer: the packages named in the group ``trinity_mlx.profiles``.

    Nothing of them is imported.
    """
    folders: list[Path] = []
    for point in entry_points(group=PROFILES_GROUP):
        with suppress(ImportError, ValueError):
            package = find_spec(point.value)
            folders += map(Path, (package and package.submodule_search_locations) or ())
    return folders

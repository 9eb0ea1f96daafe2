"""Choosing an artifact on the command line; ``library`` knows which bundle a name means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..contracts.errors import ArtifactNotFound, FolderUnavailable
from . import settings
from .output import note

if TYPE_CHECKING:
    from pathlib import Path

    from ..contracts.routing import Window
    from ..library import Library
    from ..profiles.registry import DTypeName
    from ..routing.loading import ArtifactChoice
    from ..routing.recipe import Recipe

AUTO = "auto"


def user_library() -> Library:
    """The artifacts of this user."""
    from ..library import Library

    return Library(
        settings.cache_dir(),
        settings.config_dir(),
        on_build=lambda name: note(f"building the {name} router; this happens once"),
    )


def choose_artifact(artifact: str, base: str | None = None, profile: str = "auto") -> ArtifactChoice:
    """The bundle and the base that ``artifact`` means; where ``auto`` falls back to nano, a line says so.

    Raises:
        TrinityError: as ``Library.find``.
    """
    from ..library import FALLBACK, PUBLISHED

    with _advice(artifact):
        choice = user_library().find(artifact, base, profile)
    if artifact == AUTO and choice.artifact == FALLBACK:
        note(f"this is {FALLBACK}, a small demonstration; `trinity-mlx fetch {PUBLISHED[0]}` gets the published router")
    return choice


def recipe_for(
    artifact: str,
    base: str | None = None,
    profile: str = "auto",
    *,
    dtype: DTypeName | None = None,
    window: Window | None = None,
) -> Recipe:
    """How to load the router that ``artifact`` means, with this user's folders and hub.

    Raises:
        TrinityError: as ``Library.find``.
    """
    from ..routing.recipe import Recipe

    choice = choose_artifact(artifact, base, profile)
    return Recipe(
        str(choice.artifact),
        str(choice.base) if choice.base else None,
        profile,
        dtype,
        window=window,
        config_dir=settings.config_dir(),
        hash_memory=settings.hash_memory(),
        hub=settings.hub,
    )


def locate_bundle(name: str) -> str | Path:
    """Where the bundle ``name`` lies, without building anything: for commands that only look at it.

    Raises:
        ArtifactNotFound: as ``Library.locate``.
    """
    with _advice(name):
        return user_library().locate(name)


@contextmanager
def _advice(name: str) -> Iterator[None]:
    """Add to an error what command helps."""
    from ..downloads.pins import shipped_pins

    try:
        yield
    except ArtifactNotFound as error:
        if name in shipped_pins() and settings.store().find(name) is None:
            raise ArtifactNotFound(f"{error}: run `trinity-mlx fetch {name}` first") from None
        raise
    except FolderUnavailable as error:
        raise FolderUnavailable(f"{error}; set TRINITY_MLX_CACHE to another folder") from None

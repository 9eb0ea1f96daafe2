"""The base, window and machine of a training, from options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..contracts.errors import ArtifactNotFound
from . import settings
from .base_names import name_of_base

if TYPE_CHECKING:
    from ..contracts.routing import Window
    from ..training.reading import Engine, Reading
    from ..training.sealing import BaseIdentity
    from ..training.table import Table


class BaseChoice(NamedTuple):
    """Where a base lies, how it is read and run, and what a bundle calls it."""

    reading: Reading
    identity: BaseIdentity
    engine: Engine


def choose_base(base: str, profile: str, window: str | None, text_format: str) -> BaseChoice:
    """The base that ``base`` means: an embedded artifact's own, a folder, or ``OWNER/NAME[@REVISION]`` on the Hub."""
    from ..artifacts.base import open_base
    from ..contracts.text_format import TextFormat
    from ..files.hashing import FileHashes
    from ..profiles.backends import load_backend
    from ..profiles.registry import ProfileRegistry
    from ..training.reading import Engine, Reading
    from ..training.sealing import BaseIdentity

    carried = _embedded_base(base)
    chosen, device = ProfileRegistry(settings.config_dir()).resolve(profile)
    model = open_base(carried or base, hashes=FileHashes(settings.hash_memory()), hub=settings.hub)
    name, revision = name_of_base(model)
    return BaseChoice(
        Reading(model, TextFormat(text_format), _window(window, model.config.max_positions), spare=window is None),
        BaseIdentity(f"{base}-base" if carried else name, revision, carried=carried is not None),
        Engine(load_backend(chosen.backend), device, "float32", settings.cache_dir() / "training"),
    )


def agents_of(table: Table, text: str | None) -> tuple[str, ...]:
    """The agents in the order of their slots: as named, or all of the table's in alphabetic order."""
    if text is None:
        return table.agents
    return tuple(agent.strip() for agent in text.split(","))


def _embedded_base(name: str) -> Path | None:
    from ..artifacts.catalog import EMBEDDED, find_bundle

    if name not in EMBEDDED:
        return None
    folder = find_bundle(name).base_folder
    if folder is None:
        raise ArtifactNotFound(f"{name} does not carry its base: give the base's folder")
    return folder


def _window(text: str | None, most: int) -> Window | None:
    """Half of what the base reads for the beginning and half for the end, unless said otherwise."""
    from ..contracts.routing import Window

    if text == "none":
        return None
    if text is None:
        return Window(most // 2, most - most // 2, step=min(256, most - most // 2))
    return Window.parse(text)

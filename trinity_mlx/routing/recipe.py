"""How to load a router, as plain values that can go to another process or machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..contracts.access import Hub
from ..contracts.backend import DEFAULT_VARIANT, Variant
from ..contracts.routing import Window
from ..files.hashing import FileHashes
from ..profiles.registry import AUTO, DTypeName
from .loading import CACHE_BYTES, load_router, open_artifact
from .router import Router


@dataclass(frozen=True)
class Recipe:
    """What ``load_router`` takes; see there.

    ``hub`` alone is no plain value: ``at_hand`` makes it unnecessary, and ``to_dict`` leaves it out.
    """

    artifact: str
    base: str | None = None
    profile: str = AUTO
    dtype: DTypeName | None = None
    variant: Variant = DEFAULT_VARIANT
    window: Window | None = None
    device: str | None = None
    config_dir: Path | None = None
    hash_memory: Path | None = None
    hub: Callable[[], Hub] = Hub

    def load(self, *, remember: bool = True) -> Router:
        """The router; with ``remember=False`` it keeps nothing between routes.

        Raises:
            TrinityError: as ``load_router``.
        """
        return load_router(
            self.artifact,
            self.base,
            self.profile,
            self.dtype,
            kernels=self.variant.kernels,
            quantize=self.variant.quantize,
            cache_bytes=CACHE_BYTES if remember else 0,
            window=self.window,
            device=self.device,
            config_dir=self.config_dir,
            hash_memory=self.hash_memory,
            hub=self.hub,
        )

    def at_hand(self) -> Recipe:
        """The same with the base as a folder, fetched where it has to be: so whoever loads it needs no token.

        Raises:
            TrinityError: as ``open_artifact``.
        """
        _, base = open_artifact(self.artifact, self.base, FileHashes(self.hash_memory), hub=self.hub)
        return replace(self, base=str(base.folder), hub=Hub)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, JSON-ready."""
        values = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        del values["hub"]
        return values

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Recipe:
        """From the plain values of ``to_dict``."""
        window, folder, memory = values["window"], values["config_dir"], values["hash_memory"]
        typed = {
            "variant": Variant(**values["variant"]),
            "window": Window(**window) if window else None,
            "config_dir": Path(folder) if folder else None,
            "hash_memory": Path(memory) if memory else None,
        }
        return cls(**{**values, **typed})

"""How to load a router, as plain values that can go to another process or machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..contracts.access import Hub
from ..contracts.routing import Window
from ..files.hashing import FileHashes
from ..profiles.registry import AUTO, DTypeName
from ..routing.loading import load_router, open_artifact
from ..routing.router import Router


@dataclass(frozen=True, slots=True)
class Recipe:
    """What ``load_router`` takes; see there."""

    artifact: str
    base: str | None = None
    profile: str = AUTO
    dtype: DTypeName | None = None
    window: Window | None = None
    device: str | None = None
    config_dir: str | None = None
    hash_memory: str | None = None

    def at_hand(self, hub: Callable[[], Hub] = Hub) -> Recipe:
        """The same with the base as a folder, fetched through ``hub`` where it has to be: so no worker needs a token.

        Raises:
            TrinityError: as ``open_artifact``.
        """
        hashes = FileHashes(Path(self.hash_memory) if self.hash_memory else None)
        _, base = open_artifact(self.artifact, self.base, hashes, hub=hub)
        return replace(self, base=str(base.folder))

    def load(self, hub: Callable[[], Hub] = Hub) -> Router:
        """The router.

        Raises:
            TrinityError: as ``load_router``.
        """
        return load_router(
            self.artifact,
            self.base,
            self.profile,
            self.dtype,
            window=self.window,
            device=self.device,
            config_dir=Path(self.config_dir) if self.config_dir else None,
            hash_memory=Path(self.hash_memory) if self.hash_memory else None,
            hub=hub,
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Recipe:
        """From plain values."""
        window = values["window"]
        return cls(**{**values, "window": Window(**window) if window else None})

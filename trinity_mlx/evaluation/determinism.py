"""What is asked of a framework while bits are compared, and a record of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from ..contracts.backend import Backend, Reproduces
from ..profiles.backends import load_backend
from ..profiles.registry import ProfileRegistry
from ..routing.router import RouterIdentity


def reproducing(
    identity: RouterIdentity, config_dir: Path | None = None, load: Callable[[str], Backend] = load_backend
) -> AbstractContextManager[Mapping[str, str]]:
    """While inside, the backend of a router's profile gives the same bits every time, as far as that can be asked.

    Gives each setting with what it is, none where the backend has nothing to choose or the profile is nobody's.
    """
    profiles = ProfileRegistry(config_dir)
    if identity.profile not in profiles.names:
        return nullcontext({})
    backend: object = load(profiles.get(identity.profile).backend)
    return backend.reproducing(identity.device) if isinstance(backend, Reproduces) else nullcontext({})

"""From what the user of ``serve`` said to a service: keys, pools, a router that reads through a window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contracts.errors import UsageError
from . import preferences, settings
from .artifact_choice import choose_artifact
from .output import note
from .run_options import policy_options

if TYPE_CHECKING:
    from ..contracts.pool import Pool
    from ..routing.router import Router
    from ..runs.coordinator import Coordinator
    from ..server.auth import Keys
    from ..server.service import Service

KEY = "TRINITY_API_KEY"


@dataclass(frozen=True)
class ServeOptions:
    """What the user said; ``limits`` by the names of ``Limits``, None where there is none."""

    pools: tuple[str, ...]
    policy: str
    options: tuple[str, ...]
    live: bool
    artifact: str
    base: str | None
    profile: str
    window: str
    route_timeout: float | None
    default_slot: int | None
    host: str
    port: int
    api_key_file: Path | None
    names: tuple[str, ...]
    origins: tuple[str, ...]
    aliases: tuple[str, ...]
    allowed: tuple[str, ...]
    max_requests: int
    max_queued: int
    max_per_key: int | None
    grace: float
    trace_out: Path | None
    trace_content: bool
    quiet: bool
    check: bool
    limits: Mapping[str, Any]


def keys_of(asked: ServeOptions) -> Keys:
    """The keys that are accepted: those of the file, and the one in the environment.

    Raises:
        InputFileError: the file cannot be read, or holds none.
    """
    from ..server.assembly import read_keys
    from ..server.auth import Keys

    own = settings.environment().get(KEY)
    return Keys([*([own] if own else []), *(read_keys(asked.api_key_file) if asked.api_key_file else [])])


def pools_of(asked: ServeOptions) -> dict[str, Pool]:
    """The pools by the names under which they are served; the usual one where none was named.

    Raises:
        UsageError: two have one name.
        PoolInvalid: there is no such pool, or it does not describe one.
    """
    from ..pools.files import find_pool
    from ..server.assembly import named_pools

    folder = settings.config_dir()
    usual, _ = preferences.value_of("pool", folder, settings.environment())
    return {name: find_pool(place, folder) for name, place in named_pools(asked.pools or (usual,)).items()}


def load_router(asked: ServeOptions) -> Router:
    """The router with its window; measuring one takes a second or two.

    Raises:
        TrinityError: it cannot be loaded, or the window cannot be read.
    """
    from ..server.assembly import load_served

    choice = choose_artifact(asked.artifact, asked.base, asked.profile)
    router = load_served(
        choice.artifact,
        choice.base,
        asked.profile,
        asked.window,
        config_dir=settings.config_dir(),
        hash_memory=settings.hash_memory(),
        hub=settings.hub,
    )
    window = router.identity.window
    read = f"the first {window.head} and the last {window.tail} tokens" if window else "every transcript whole"
    note(f"router {router.identity.artifact.name} on {router.identity.profile}; it reads {read}")
    return router


def service_of(asked: ServeOptions, router: Router, pools: Mapping[str, Pool], keys: Keys) -> Service:
    """All that is served, put together.

    Raises:
        UsageError: anybody on the network could use it, nobody could release its answers, or an option does not fit.
        TrinityError: as ``Coordinator``.
    """
    from ..server.assembly import secret_of
    from ..server.auth import accepted_hosts, check_exposure
    from ..server.capacity import Room
    from ..server.narrowing import ALLOWED_OPTIONS
    from ..server.routers import ServedRouter
    from ..server.service import Service, Settings

    check_exposure(asked.host, keys)
    served = ServedRouter(router, asked.route_timeout, asked.default_slot)
    per_key = asked.max_per_key or asked.max_requests + asked.max_queued
    return Service(
        {name: _coordinator(asked, served, pool) for name, pool in pools.items()},
        served,
        Settings(
            hosts=accepted_hosts(asked.host, asked.names),
            origins=frozenset(asked.origins),
            room=Room(asked.max_requests, asked.max_queued, per_key),
            allowed_options=ALLOWED_OPTIONS | {name.replace("-", "_") for name in asked.allowed},
        ),
        keys,
        dict(map(_alias, asked.aliases)),
        secret_of(keys.digests),
    )


def _coordinator(asked: ServeOptions, router: Any, pool: Pool) -> Coordinator:
    from ..rules.budgets import Limits
    from ..rules.policy import Policy, Review
    from ..runs.coordinator import Coordinator, TraceFile

    policy = Policy.named(asked.policy).with_options(**policy_options(asked.options))
    if policy.review is Review.ASK:
        raise UsageError(
            "review=ask has a person release each answer, and over HTTP nobody can be asked: leave it out, or use "
            "trinity-mlx run, which asks in the terminal"
        )
    return Coordinator(
        router,
        pool,
        policy,
        limits=Limits(**asked.limits),
        environment=settings.environment(),
        live=asked.live,
        trace=TraceFile(asked.trace_out, asked.trace_content) if asked.trace_out else None,
    )


def _alias(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"--alias is {text[:80]!r}: give NAME=MODEL")
    return name.strip(), model.strip()

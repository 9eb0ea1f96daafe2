"""What a server consists of, put together once: pools and their coordinators, memories, counts, limits."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from ..runs.coordinator import Coordinator
from ..runs.state import RunState
from .asgi import Receive, Scope
from .auth import Keys
from .bounded import Bounded
from .call_ids import CallIds
from .capacity import Capacity, Room
from .drain import Drain
from .limits import MIB, RequestLimits, read_json
from .metrics import Metrics
from .models import Catalogue
from .narrowing import ALLOWED_OPTIONS
from .routers import ServedRouter

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator decided, beyond pools and router.

    ``hosts`` are the names in a Host header that are answered, ``origins`` the web pages that may call (CORS).
    ``allowed_options`` are the policy's options that a request may set.
    """

    hosts: frozenset[str] = frozenset({"localhost", "127.0.0.1", "::1"})
    origins: frozenset[str] = frozenset()
    limits: RequestLimits = field(default_factory=RequestLimits)
    room: Room = field(default_factory=Room)
    allowed_options: frozenset[str] = ALLOWED_OPTIONS
    heartbeat_s: float = 10.0
    stored_responses: int = 1_000
    store_bytes: int = 256 * MIB


@dataclass(frozen=True, slots=True)
class Parked:
    """A run that waits for its client's tools: an optimisation, since the client's history says enough without it.

    ``history`` is the hash of what the client had sent; ``ids`` are the provider's ids of the calls, by ours.
    """

    state: RunState
    history: str
    ids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response that was kept: its body, all items it was asked with, and their size in bytes."""

    body: Mapping[str, Any]
    items: tuple[Mapping[str, Any], ...]
    size: int


class Service:
    """Everything that requests share.

    Args:
        teams: by the name of each pool, its coordinator; first the default.
        router: what they all route with.
        settings: what the operator decided.
        keys: who may ask.
        aliases: further names of models.
        secret: what call ids are signed with; replicas share one.
    """

    def __init__(
        self,
        teams: Mapping[str, Coordinator],
        router: ServedRouter,
        settings: Settings | None = None,
        keys: Keys | None = None,
        aliases: Mapping[str, str] | None = None,
        secret: bytes | None = None,
    ) -> None:
        self.teams = dict(teams)
        self.router = router
        self.settings = settings or Settings()
        self.keys = keys or Keys()
        self.catalogue = Catalogue({name: team.pool for name, team in teams.items()}, aliases)
        self.call_ids = CallIds(secret or secrets.token_bytes(32))
        self.metrics = Metrics()
        self.capacity = Capacity(self.settings.room)
        self.drain = Drain()
        self.sessions: Bounded[str, int] = Bounded(10_000, HOUR_S)
        """By conversation, the slot of the agent that spoke last."""
        self.parked: Bounded[str, Parked] = Bounded(2_000, HOUR_S)
        self.stored: Bounded[tuple[str, str], StoredResponse] = Bounded(
            self.settings.stored_responses, 24 * HOUR_S, weight=self.settings.store_bytes, weigh=lambda kept: kept.size
        )
        """By who asked and the response's id."""
        self.reports: Bounded[tuple[str, str], Mapping[str, Any]] = Bounded(500, HOUR_S)
        """By who asked and the run's id, what happened in it, without texts."""
        self._watch()
        self._end_watch = router.watch_passes(self.metrics.route_batch.observe)

    @property
    def is_ready(self) -> bool:
        """Whether new work should be sent here: a route has passed, none is stuck, and the server stays up."""
        return self.router.is_ready and not self.drain.is_draining

    async def close(self) -> None:
        """Close the connections of every pool."""
        self._end_watch()
        for team in self.teams.values():
            await team.aclose()

    def _watch(self) -> None:
        self.metrics.watch("trinity_in_flight", "Requests at work.", lambda: self.capacity.in_flight)
        self.metrics.watch("trinity_queued", "Requests that wait.", lambda: self.capacity.queued)
        self.metrics.watch("trinity_ready", "Whether new work is taken.", lambda: float(self.is_ready))


class Endpoint:
    """What answers the requests of one route."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def body(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        """The request's JSON object, within the operator's limits.

        Raises:
            Problem: it is too large, too deep, or no JSON object.
            ClientGone: the client left before its end.
        """
        return await read_json(scope, receive, self.service.settings.limits)


def session_key(principal: str, pool: str, *named: str | None, first: str) -> str:
    """What tells conversations apart: the first name that is given, else the first messages. Only a hash is kept."""
    name = next((text for text in named if text), first)
    return sha256(f"{principal}\0{pool}\0{name}".encode()).hexdigest()

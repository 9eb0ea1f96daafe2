"""The names under which pools are offered, and what a request for each means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from ..contracts.errors import UsageError
from ..contracts.pool import Pool
from .problems import Kind, Problem

DEFAULT = "trinity"
_SUFFIXES = {"-live": "live", "-route": "route"}
_SLOT = re.compile(r"(?P<name>[^:]+):slot=(?P<slot>\d{1,3})")
_BUILT_IN_ALIASES = {
    "claude-trinity": "trinity",
    "claude-trinity-live": "trinity-live",
    "claude-trinity-route": "trinity-route",
}
CREATED = 1_764_547_200
"""What the interfaces want to know of each model: a time of its making. It says nothing here."""


class Mode(StrEnum):
    """When text is shown, and who speaks."""

    HELD = "held"
    """A whole run; its text is held until a Verifier accepts it."""
    LIVE = "live"
    """A whole run; the Worker's text is shown at once, and again where it was revised."""
    ROUTE = "route"
    """One routed call of a Worker, passed through."""
    DIRECT = "direct"
    """One call of a named Worker, passed through; nothing is routed."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a model's name means: a pool, a mode, and the slot where one is named."""

    pool: str
    mode: Mode
    slot: int | None = None


class Catalogue:
    """Which names are served.

    The first pool is ``trinity``; each is ``trinity-NAME`` as well. Each name has the endings ``-live`` and ``-route``,
    and ``:slot=N``. An agent's own name means that agent, in the first pool that has it.

    Args:
        pools: by the name that the operator gave them, first the default.
        aliases: further names, perhaps with ``*`` in them, and what they stand for.

    Raises:
        UsageError: an alias stands for a name that is not served.
    """

    def __init__(self, pools: Mapping[str, Pool], aliases: Mapping[str, str] | None = None) -> None:
        self._pools = dict(pools)
        self._names: dict[str, Target] = {}
        for index, name in enumerate(pools):
            for public in ([DEFAULT] if index == 0 else []) + [f"{DEFAULT}-{name}"]:
                self._names.setdefault(public, Target(name, Mode.HELD))
                for suffix, mode in _SUFFIXES.items():
                    self._names.setdefault(public + suffix, Target(name, Mode(mode)))
        self._agents: dict[str, Target] = {}
        for name, pool in pools.items():
            for agent in pool.agents:
                self._agents.setdefault(agent.name, Target(name, Mode.DIRECT, agent.slot))
        self._aliases = {**_BUILT_IN_ALIASES, **(aliases or {})}
        for alias, meant in (aliases or {}).items():
            if self._known(meant) is None:
                raise UsageError(f"alias {alias!r} stands for {meant!r}, which is not served: use {self._offer()}")

    def find(self, name: str) -> Target:
        """What ``name`` means.

        Raises:
            Problem: no model has that name.
        """
        target = self._known(name) or self._known(self._alias_of(name))
        if target is None:
            text = f"there is no model {name[:100]!r} here: use {self._offer()}"
            raise Problem(Kind.NOT_FOUND, text, code="model_not_found", param="model")
        return target

    def passing(self, target: Target) -> str:
        """The name under which the same pool, or the same agent, passes one call through."""
        if target.slot is not None:
            return f"{DEFAULT}-{target.pool}:slot={target.slot}"
        return f"{DEFAULT}-{target.pool}-route"

    @property
    def names(self) -> list[str]:
        """Every name that a list of models shows: the pools', the plain aliases, the agents'."""
        plain = [alias for alias in self._aliases if "*" not in alias]
        return list(dict.fromkeys([*self._names, *plain, *self._agents]))

    def _known(self, name: str) -> Target | None:
        if target := self._names.get(name) or self._agents.get(name):
            return target
        match = _SLOT.fullmatch(name)
        target = self._names.get(match["name"]) or self._names.get(self._alias_of(match["name"])) if match else None
        if match is None or target is None or int(match["slot"]) >= len(self._pools[target.pool]):
            return None
        return Target(target.pool, Mode.DIRECT, int(match["slot"]))

    def _alias_of(self, name: str) -> str:
        return next((meant for alias, meant in self._aliases.items() if fnmatchcase(name, alias)), name)

    def _offer(self) -> str:
        return ", ".join(self.names[:12])


def openai_model(name: str) -> dict[str, Any]:
    """A model as OpenAI's list holds it."""
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "trinity-mlx"}


def openai_list(names: list[str]) -> dict[str, Any]:
    """``GET /v1/models`` as OpenAI answers it."""
    return {"object": "list", "data": [openai_model(name) for name in names]}


def anthropic_model(name: str) -> dict[str, Any]:
    """A model as Anthropic's list holds it."""
    return {"type": "model", "id": name, "display_name": name, "created_at": "2025-12-01T00:00:00Z"}


def anthropic_list(names: list[str]) -> dict[str, Any]:
    """``GET /v1/models`` as Anthropic answers it: one page."""
    ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
    return {"data": [anthropic_model(name) for name in names], "has_more": False, **ends}

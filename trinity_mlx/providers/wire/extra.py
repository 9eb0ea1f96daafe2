"""The body of a request, in what it takes from an agent and from whoever asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...contracts.errors import PoolInvalid
from ...contracts.pool import Agent

RESERVED = ("messages", "model", "stream")


def checked_extra(agent: Agent) -> dict[str, Any]:
    """The agent's ``extra``.

    Raises:
        PoolInvalid: it names a field that is not its own to set.
    """
    taken = sorted(set(agent.extra) & set(RESERVED))
    if taken:
        raise PoolInvalid(f"agent {agent.name!r}: extra may not hold {', '.join(taken)}: each call sets these itself")
    return dict(agent.extra)


def stated(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that have a value; None leaves one to the provider."""
    return {name: value for name, value in fields.items() if value is not None}

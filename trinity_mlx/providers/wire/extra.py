"""What an agent's ``extra`` may add to the body of each request."""

from __future__ import annotations

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

"""Who may take part in one run, and in which roles."""

from __future__ import annotations

from collections.abc import Collection

from ..contracts.errors import PoolInvalid, UsageError
from ..contracts.parts import Image, ToolCall, ToolResult
from ..contracts.pool import ACCEPTS, Agent, Pool
from ..contracts.routing import Role
from ..contracts.transcript import Transcript
from ..rules.assignment import Seats


def seats_for(
    pool: Pool, task: Transcript, *, has_tools: bool, deny: Collection[int | str], roles: Collection[Role]
) -> Seats:
    """The roles that each agent of ``pool`` may take in a run of ``task``.

    Args:
        pool: the agents, with the roles that the pool gives them.
        task: what the run is given: images in it, and calls of tools, need agents that accept them.
        has_tools: whether Workers are given tools.
        deny: agents that take no part, by slot or by name.
        roles: the roles that may be taken at all.

    Raises:
        PoolInvalid: nobody is left who may be a Worker.
        UsageError: ``deny`` names an agent that the pool does not have.
    """
    _check_denied(pool, deny)
    needs = _needs(task, has_tools)
    present = [agent for agent in pool.agents if agent.slot not in deny and agent.name not in deny]
    seats = {agent.slot: _roles(agent, needs).intersection(roles) for agent in present}
    if not any(Role.WORKER in seat for seat in seats.values()):
        accepting = f"this run needs {' and '.join(needs)}: say so in accepts of an agent that has them"
        advice = accepting if needs else "deny fewer agents"
        raise PoolInvalid(f"no agent of pool {pool.name!r} is left that may be a Worker: {advice}")
    return {slot: seat for slot, seat in seats.items() if seat}


def _check_denied(pool: Pool, deny: Collection[int | str]) -> None:
    known = {name for agent in pool.agents for name in (agent.slot, agent.name)}
    for name in deny:
        if name not in known:
            names = ", ".join(agent.name for agent in pool.agents)
            raise UsageError(f"pool {pool.name!r} has no agent {str(name)[:80]!r} to deny: it has {names}")


def _needs(task: Transcript, has_tools: bool) -> list[str]:
    """What of ``ACCEPTS`` an agent has to accept in this run."""
    parts = [part for message in task.messages for part in message.parts]
    is_needed = {
        "tools": has_tools or any(isinstance(part, ToolCall | ToolResult) for part in parts),
        "images": any(isinstance(part, Image) for part in parts),
    }
    return [name for name in ACCEPTS if is_needed[name]]


def _roles(agent: Agent, needs: Collection[str]) -> frozenset[Role]:
    """Whoever cannot see the images takes no role; whoever cannot call the tools is no Worker."""
    missing = set(needs) - set(agent.accepts)
    if "images" in missing:
        return frozenset()
    return agent.roles - {Role.WORKER} if "tools" in missing else agent.roles

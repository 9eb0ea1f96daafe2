"""Routers, agents and pools for the tests of runs."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from trinity_mlx.contracts.backend import Variant
from trinity_mlx.contracts.events import Event
from trinity_mlx.contracts.pool import Agent, Pool, Price
from trinity_mlx.contracts.provider import ENTRY_POINT_GROUP
from trinity_mlx.contracts.routing import ArtifactIdentity, Guard, Role, RouteLogits
from trinity_mlx.contracts.text_format import TextFormat
from trinity_mlx.contracts.transcript import Transcript
from trinity_mlx.routing.router import RouterIdentity
from trinity_mlx.runs.coordinator import Coordinator
from trinity_mlx.runs.result import RunResult
from trinity_mlx.runs.retry import RetryPolicy

from . import odd_providers
from .virtual_time import run_in_virtual_time

W, T, V = Role.WORKER, Role.THINKER, Role.VERIFIER
AT_ONCE = RetryPolicy(wait_initial_s=0.0, jitter_s=0.0)
FREE = Price(0.0, 0.0)


def toward(slot: int, role: Role, lead: float = 5.0, slots: int = 7) -> RouteLogits:
    """Logits that choose ``slot`` and ``role``, each ``lead`` above the rest; slots further on come later."""
    agent = tuple(lead if index == slot else -0.1 * index for index in range(slots))
    return RouteLogits(agent, tuple(lead if index == role else 0.0 for index in range(3)))


@dataclass(frozen=True)
class FixedRead:
    """What a router has read."""

    logits: RouteLogits
    token_count: int
    transcript_hash: str


class FixedRouter:
    """Decides by how many replies a transcript holds: as in ``plan``, and then like its last entry."""

    def __init__(self, *plan: RouteLogits | Exception, slots: int = 7, guard: Guard | None = None) -> None:
        self.plan = plan
        self.identity = RouterIdentity(
            artifact=ArtifactIdentity("fixed", "a" * 64, "b" * 64),
            head_ref="c" * 64,
            labels=tuple(f"label {slot}" for slot in range(slots)),
            text_format=TextFormat.ROLE_LINES,
            max_positions=4096,
            profile="cpu",
            device="cpu",
            dtype="float32",
            variant=Variant(),
            load_ms=1.0,
            guard=guard,
        )

    async def read(self, transcript: Transcript) -> FixedRead:
        replies = sum(message.role == "assistant" for message in transcript.messages)
        entry = self.plan[min(replies, len(self.plan) - 1)]
        if isinstance(entry, Exception):
            raise entry
        return FixedRead(entry, replies, transcript.sha256)


TEAM = FixedRouter(toward(0, W), toward(1, V), toward(0, W), toward(1, V))
"""A Worker in slot 0 and a Verifier in slot 1, by turns."""


def scripted(slot: int, *replies: str | dict[str, Any], **fields: Any) -> Agent:
    """An agent that gives the first reply that fits; a text alone fits always."""
    rules = [{"text": reply} if isinstance(reply, str) else reply for reply in replies]
    values = {"name": f"agent-{slot}", "provider": "scripted", "model": f"model-{slot}", "price": FREE}
    return Agent(slot=slot, extra={"replies": rules}, **{**values, **fields})


def odd(slot: int, behaviour: str, **fields: Any) -> Agent:
    """An agent of ``odd_providers``."""
    return Agent(slot=slot, **{"name": f"agent-{slot}", "provider": "odd", "model": behaviour, **fields})


def pool_of(*agents: Agent) -> Pool:
    return Pool("team", agents)


def coordinator_of(*agents: Agent, router: Any = TEAM, **options: Any) -> Coordinator:
    return Coordinator(router, pool_of(*agents), **{"retry": AT_ONCE, **options})


def carry_out(
    *agents: Agent, task: Any = "What is 6 * 7?", run: dict[str, Any] | None = None, **options: Any
) -> RunResult:
    """One run; ``run`` goes to ``Coordinator.run``, the rest to the coordinator."""
    with coordinator_of(*agents, **options) as coordinator:
        return coordinator.run(task, **(run or {}))


def carry_out_in_virtual_time(
    *agents: Agent, task: Any = "What is 6 * 7?", run: dict[str, Any] | None = None, **options: Any
) -> RunResult:
    """``carry_out`` where only waiting takes time; not for a ``TraceFile``, whose threads know nothing of that."""

    async def main() -> RunResult:
        async with coordinator_of(*agents, **options) as coordinator:
            return await coordinator.arun(task, **(run or {}))

    return run_in_virtual_time(main())


class Listener:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        """Nothing to close."""

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def install_odd_providers(folder: Path, monkeypatch: pytest.MonkeyPatch | None = None) -> Path:
    """Make ``odd_providers`` a package that offers the provider ``odd``; gives the folder to put on the path."""
    site = folder / "site"
    information = site / "odd_providers-1.0.dist-info"
    information.mkdir(parents=True)
    shutil.copy(odd_providers.__file__, site / "odd_providers.py")
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-providers\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\nodd = odd_providers:make_provider\n")
    if monkeypatch:
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, "odd_providers", raising=False)
    return site

"""A run that waits for its tools, as frozen plain data: it can be kept anywhere, and go on in another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..contracts.errors import TrinityError, UsageError
from ..contracts.plain import from_plain, to_plain
from ..contracts.provider import ResponseFormat, Sampling, Tool, ToolChoice, Usage
from ..contracts.routing import Margins, Role
from ..rules import machine
from ..rules.budgets import Limits
from ..rules.verdict import Verdict
from ..tracing.record import plain
from .meter import Totals


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One reply with all that is known of it.

    ``tools`` names those that were called before it. Usage, cost and latency (milliseconds) are those of every call
    that the agent answered in this turn.
    """

    turn: int
    slot: int
    agent: str
    model: str
    role: Role
    raw_role: Role | None
    adjustments: tuple[str, ...]
    margins: Margins
    text: str
    finish: str
    usage: Usage | None
    cost_usd: float | None
    latency_ms: float
    verdict: Verdict | None
    fallback_from: int | None
    tools: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: one element of ``turns``."""
        fields: dict[str, Any] = plain(self)
        return fields


@dataclass(frozen=True, slots=True)
class TurnTotals:
    """What the calls of a turn under way have used: None once one of them was not counted, or has no price."""

    usage: Usage | None = field(default_factory=lambda: Usage(0, 0))
    cost_usd: float | None = 0.0
    latency_s: float = 0.0

    def plus(self, usage: Usage | None, cost_usd: float | None, latency_s: float) -> TurnTotals:
        """With one more call."""
        return TurnTotals(
            self.usage + usage if self.usage is not None and usage is not None else None,
            self.cost_usd + cost_usd if self.cost_usd is not None and cost_usd is not None else None,
            self.latency_s + latency_s,
        )


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What whoever asked for a run wants of its Workers' calls."""

    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    response_format: ResponseFormat | None = None
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, slots=True)
class RunState:
    """A run so far. ``part`` counts how often it has waited; ``turn`` is what the turn under way has used."""

    run_id: str
    machine: machine.State
    limits: Limits
    options: WorkerOptions = field(default_factory=WorkerOptions)
    totals: Totals = field(default_factory=Totals)
    turn: TurnTotals = field(default_factory=TurnTotals)
    turns: tuple[TurnRecord, ...] = ()
    part: int = 0

    @property
    def part_id(self) -> str:
        """The name of this part of the run in a trace."""
        return f"{self.run_id}.{self.part}" if self.part else self.run_id

    def to_json(self) -> dict[str, Any]:
        """The whole state as plain data for JSON; ``from_json`` gives an equal one."""
        data: dict[str, Any] = to_plain(self)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunState:
        """The state that ``to_json`` wrote.

        Raises:
            UsageError: ``data`` is no such state.
        """
        try:
            return from_plain(cls, data)
        except (ValueError, TypeError, TrinityError) as error:
            raise UsageError(f"this is not the state of a run: {error}") from None

"""What a run has used, and its limits."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..contracts.errors import BudgetExceeded
from ..contracts.parts import Image, Part, ToolCall, ToolResult
from ..contracts.pool import Agent
from ..contracts.provider import Reply, Request, Usage, counted
from ..contracts.transcript import Message
from ..rules.budgets import Limits, Spent, check_after_call, check_before_call

CHARACTERS_PER_TOKEN = 3
"""What limits assume where a provider did not count: shorter tokens, and so more of them, than most texts have."""
IMAGE_CHARACTERS = 6000
"""What an image counts as where a provider did not count."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What a run has used so far: ``spent`` for its limits, the rest for its report.

    ``usage`` is what providers counted; ``cost_usd`` is None once a call's cost is unknown. ``wall_s`` are the seconds
    in which the run was carried out: none of those in which it waited for tools somewhere else.
    """

    spent: Spent = field(default_factory=Spent)
    usage: Usage = field(default_factory=lambda: Usage(0, 0))
    cost_usd: float | None = 0.0
    wall_s: float = 0.0


class Meter:
    """Counts one run, from where ``totals`` left off.

    Args:
        limits: what the run may spend.
        totals: what it had used before it was set aside.
        now: the clock of the run in seconds; an event loop's own is the one by which its timers go.
    """

    def __init__(self, limits: Limits, totals: Totals | None = None, now: Callable[[], float] = time.monotonic) -> None:
        before = totals or Totals()
        self._limits = limits
        self._spent = before.spent
        self.now = now
        self._begun = now() - before.wall_s
        self.usage = before.usage
        self.cost_usd = before.cost_usd

    @property
    def wall_s(self) -> float:
        """Seconds for which the run has been carried out."""
        return self.now() - self._begun

    @property
    def totals(self) -> Totals:
        """What has been used up to now."""
        return Totals(self._spent, self.usage, self.cost_usd, self.wall_s)

    def admit(self) -> None:
        """Count one more attempt at a provider.

        Raises:
            BudgetExceeded: a limit forbids it.
        """
        check_before_call(self._limits, self._spent, self.wall_s)
        self._spent = self._spent.called()

    def count(self, agent: Agent, request: Request, reply: Reply, revised: bool = False) -> float | None:
        """Count a reply; gives its cost in US dollars, None where that is not known.

        Limits go by an estimate where the provider did not count; what is reported never does. No count can lower what
        a limit is held against: one that is no whole number from 0 to 2**53 counts as not given.
        """
        usage = counted(reply.usage.input_tokens, reply.usage.output_tokens) if reply.usage else None
        assumed = usage or _estimate(request, reply)
        estimate = agent.price.cost(assumed.input_tokens, assumed.output_tokens) if agent.price else 0.0
        self._spent = self._spent.replied(assumed.input_tokens + assumed.output_tokens, estimate, revised)
        cost = estimate if agent.price and usage else None
        self.usage = self.usage + usage if usage else self.usage
        self.cost_usd = None if cost is None or self.cost_usd is None else self.cost_usd + cost
        return cost

    def leave_out(self, seconds: float) -> None:
        """Do not count a time in which the run waited for a person."""
        self._begun += seconds

    def check(self, latency_s: float) -> None:
        """Hold the limits against a call that has just ended.

        Raises:
            BudgetExceeded: one of them is exceeded.
        """
        check_after_call(self._limits, self._spent, self.wall_s, latency_s)

    def wall_left_s(self) -> float | None:
        """Seconds that the run may still take; None without a limit."""
        limit = self._limits.wall_time_s
        return None if limit is None else max(0.0, limit - self.wall_s)

    def attempt_left_s(self) -> float | None:
        """Seconds that an attempt beginning now may take; None without a limit."""
        limits = [limit for limit in (self.wall_left_s(), self._limits.call_latency_s) if limit is not None]
        return min(limits, default=None)

    def ran_out(self, latency_s: float | None) -> BudgetExceeded:
        """The limit that ended an attempt of ``latency_s`` seconds, or the wait after one for None."""
        latency, wall = self._limits.call_latency_s, self._limits.wall_time_s
        if (
            latency is not None
            and latency_s is not None
            and (wall is None or latency - latency_s <= wall - self.wall_s)
        ):
            return BudgetExceeded("call_latency", latency, latency_s)
        return BudgetExceeded("wall_time", wall or 0.0, self.wall_s)


def _estimate(request: Request, reply: Reply) -> Usage:
    tools = sum(
        len(tool.name) + len(tool.description) + len(json.dumps(dict(tool.parameters))) for tool in request.tools
    )
    asked = _characters(request.messages) + tools
    return Usage(
        math.ceil(asked / CHARACTERS_PER_TOKEN), math.ceil(_characters([reply.message]) / CHARACTERS_PER_TOKEN)
    )


def _characters(messages: Iterable[Message]) -> int:
    return sum(_part_characters(part) for message in messages for part in message.parts)


def _part_characters(part: Part) -> int:
    if isinstance(part, Image):
        return IMAGE_CHARACTERS
    if isinstance(part, ToolCall):
        return len(part.name) + len(part.arguments)
    if isinstance(part, ToolResult):
        return sum(_part_characters(inner) for inner in part.parts)
    return len(part.text)

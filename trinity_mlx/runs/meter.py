"""What a run has used, and its limits."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from ..contracts.errors import BudgetExceeded
from ..contracts.pool import Agent
from ..contracts.provider import Reply, Usage
from ..contracts.transcript import Message
from ..rules.budgets import Limits, Spent, check_after_call, check_before_call

CHARACTERS_PER_TOKEN = 3
"""What limits assume where a provider did not count: shorter tokens, and so more of them, than most texts have."""


class Meter:
    """Counts one run. ``usage`` is what providers counted; ``cost_usd`` becomes None once a call's cost is unknown."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._spent = Spent()
        self._begun = time.monotonic()
        self.usage = Usage(0, 0)
        self.cost_usd: float | None = 0.0

    @property
    def wall_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._begun

    def admit(self) -> None:
        """Count one more attempt at a provider.

        Raises:
            BudgetExceeded: a limit forbids it.
        """
        check_before_call(self._limits, self._spent, self.wall_s)
        self._spent = self._spent.called()

    def count(self, agent: Agent, messages: Iterable[Message], reply: Reply, revised: bool) -> float | None:
        """Count a reply; gives its cost in US dollars, None where that is not known.

        Limits go by an estimate where the provider did not count; what is reported never does.
        """
        counted = reply.usage or _estimate(messages, reply)
        estimate = agent.price.cost(counted.input_tokens, counted.output_tokens) if agent.price else 0.0
        self._spent = self._spent.replied(counted.input_tokens + counted.output_tokens, estimate, revised)
        cost = estimate if agent.price and reply.usage else None
        self.usage = self.usage + reply.usage if reply.usage else self.usage
        self.cost_usd = None if cost is None or self.cost_usd is None else self.cost_usd + cost
        return cost

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


def _estimate(messages: Iterable[Message], reply: Reply) -> Usage:
    asked = sum(len(message.text) for message in messages)
    return Usage(math.ceil(asked / CHARACTERS_PER_TOKEN), math.ceil(len(reply.text) / CHARACTERS_PER_TOKEN))

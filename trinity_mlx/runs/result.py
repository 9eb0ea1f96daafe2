"""What a run gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ..contracts.errors import BudgetExceeded, TrinityError
from ..contracts.parts import ToolCall
from ..contracts.provider import Usage
from ..contracts.transcript import Message
from ..rules.verdict import Verdict
from ..tracing.record import plain
from .state import RunState, TurnRecord


class RunStatus(StrEnum):
    """How a run ended."""

    ACCEPTED = "accepted"
    """A Verifier accepted the answer."""
    MAX_TURNS = "max_turns"
    """The turns ran out; the answer is the latest Worker's."""
    REFUSED = "refused"
    """Whoever was asked refused to answer; the answer is the refusal."""
    AWAITING_TOOLS = "awaiting_tools"
    """A Worker waits for the results of ``calls``; the run goes on from ``state``."""
    AWAITING_REVIEW = "awaiting_review"
    """The answer waits for a person's decision; the run goes on from ``state``."""
    BUDGET_EXCEEDED = "budget_exceeded"
    """A limit was reached; the answer is the best so far, where there is one."""
    FAILED = "failed"
    """Something else ended it; the answer is the best so far, where there is one."""


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run did not end well: the kind of failure, a message for people, and its figures."""

    type: str
    message: str
    exit_code: int
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, error: TrinityError) -> RunError:
        """``error``, with its figures where a limit was reached."""
        details: dict[str, Any] = {}
        if isinstance(error, BudgetExceeded):
            details = {"kind": error.kind, "limit": error.limit, "observed": error.observed}
        return cls(type(error).__name__, str(error), error.exit_code, details)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"type": self.type, "message": self.message, **self.details}


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run from its task to its end, or to the tools that it waits for.

    ``message`` is what the user receives, ``verdict`` the latest one on it, None where nobody checked it. ``usage``
    sums what providers counted; ``cost_usd`` is None where an agent has no price or its provider did not count.
    ``calls`` and ``state`` are there for a run that waits: ``Coordinator.aresume`` takes the state and a result for
    each call.
    """

    run_id: str
    status: RunStatus
    message: Message | None
    verdict: Verdict | None
    turns: tuple[TurnRecord, ...]
    usage: Usage
    cost_usd: float | None
    wall_ms: float
    error: RunError | None = None
    calls: tuple[ToolCall, ...] = ()
    state: RunState | None = None

    @property
    def answer(self) -> str | None:
        """The text of the message."""
        return None if self.message is None else self.message.text

    @property
    def exit_code(self) -> int:
        """0 with an answer that counts, else the failure's own code."""
        return self.error.exit_code if self.error else 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the object that ``trinity-mlx run --json`` prints."""
        return {
            "run_id": self.run_id,
            "status": str(self.status),
            "answer": self.answer,
            "verdict": plain(self.verdict),
            "turns": plain(self.turns),
            "usage": plain(self.usage),
            "cost_usd": self.cost_usd,
            "wall_ms": round(self.wall_ms, 3),
            "error": self.error.to_dict() if self.error else None,
            "calls": plain(self.calls),
        }

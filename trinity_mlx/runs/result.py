"""What a run gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ..contracts.provider import Usage
from ..contracts.routing import Margins, Role
from ..rules.verdict import Verdict


class RunStatus(StrEnum):
    """How a run ended."""

    ACCEPTED = "accepted"
    """A Verifier accepted the answer."""
    MAX_TURNS = "max_turns"
    """The turns ran out; the answer is the latest Worker's."""
    BUDGET_EXCEEDED = "budget_exceeded"
    """A limit was reached; the answer is the best so far, where there is one."""
    FAILED = "failed"
    """Something else ended it; the answer is the best so far, where there is one."""


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One reply with all that is known of it. ``latency_ms`` is that of the attempt that succeeded."""

    turn: int
    slot: int
    agent: str
    model: str
    role: Role
    raw_role: Role
    adjustments: tuple[str, ...]
    margins: Margins
    text: str
    finish: str
    usage: Usage | None
    cost_usd: float | None
    latency_ms: float
    verdict: Verdict | None
    fallback_from: int | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: one element of ``turns``."""
        return {
            "turn": self.turn,
            "slot": self.slot,
            "agent": self.agent,
            "model": self.model,
            "role": self.role.label,
            "raw_role": self.raw_role.label,
            "adjustments": list(self.adjustments),
            "margins": {"agent": self.margins.agent, "role": self.margins.role},
            "text": self.text,
            "finish": self.finish,
            "usage": _usage(self.usage) if self.usage else None,
            "cost_usd": self.cost_usd,
            "latency_ms": round(self.latency_ms, 3),
            "verdict": _verdict(self.verdict),
            "fallback_from": self.fallback_from,
        }


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run did not end well: the kind of failure, a message for people, and its figures."""

    type: str
    message: str
    exit_code: int
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"type": self.type, "message": self.message, **self.details}


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run from its task to its end.

    ``verdict`` is the latest one on ``answer``, None where nobody checked it. ``usage`` sums what providers counted;
    ``cost_usd`` is None where an agent has no price or its provider did not count.
    """

    run_id: str
    status: RunStatus
    answer: str | None
    verdict: Verdict | None
    turns: tuple[TurnRecord, ...]
    usage: Usage
    cost_usd: float | None
    wall_ms: float
    error: RunError | None = None

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
            "verdict": _verdict(self.verdict),
            "turns": [turn.to_dict() for turn in self.turns],
            "usage": _usage(self.usage),
            "cost_usd": self.cost_usd,
            "wall_ms": round(self.wall_ms, 3),
            "error": self.error.to_dict() if self.error else None,
        }


def _usage(usage: Usage) -> dict[str, int]:
    return {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}


def _verdict(verdict: Verdict | None) -> dict[str, Any] | None:
    return {"status": str(verdict.status), "diagnosis": verdict.diagnosis} if verdict else None

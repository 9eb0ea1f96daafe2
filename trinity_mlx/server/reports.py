"""What a server tells of a run: the object ``trinity`` of an answer, which ``/runs`` keeps for a while."""

from __future__ import annotations

from typing import Any

from ..contracts.provider import Usage
from ..runs.coordinator import Coordinator
from ..runs.result import RunResult
from ..runs.state import TurnRecord
from .models import Target


def report_of(result: RunResult, target: Target, outcome: str, usage: Usage, team: Coordinator) -> dict[str, Any]:
    """What happened in a run, without a text of anybody; ``usage`` is that of the call which gave the answer."""
    coordination = {
        "input_tokens": max(0, result.usage.input_tokens - usage.input_tokens),
        "output_tokens": max(0, result.usage.output_tokens - usage.output_tokens),
    }
    return {
        "run_id": result.run_id,
        "pool": team.pool.name,
        "mode": str(target.mode),
        "outcome": outcome,
        "status": str(result.status),
        "turns": [_turn_report(turn) for turn in result.turns],
        "coordination": coordination,
        "cost_usd": result.cost_usd,
        "wall_ms": round(result.wall_ms, 1),
    }


def _turn_report(turn: TurnRecord) -> dict[str, Any]:
    verdict = None if turn.verdict is None else str(turn.verdict.status)
    usage = None if turn.usage is None else [turn.usage.input_tokens, turn.usage.output_tokens]
    return {
        "turn": turn.turn,
        "slot": turn.slot,
        "agent": turn.agent,
        "role": turn.role.label,
        "margins": {"agent": turn.margins.agent, "role": turn.margins.role},
        "adjustments": list(turn.adjustments),
        "verdict": verdict,
        "finish": turn.finish,
        "tokens": usage,
        "cost_usd": turn.cost_usd,
        "ms": round(turn.latency_ms, 1),
    }

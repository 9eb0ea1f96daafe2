"""What happened in a run, as the events that tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

from ..contracts.events import (
    Content,
    ProviderFailed,
    Routed,
    RunFailed,
    RunStarted,
    TaskMessage,
    ToolsAnswered,
    ToolsCalled,
    TurnCompleted,
)
from ..contracts.parts import Refusal
from ..contracts.pool import Agent, Pool
from ..contracts.provider import Reply
from ..contracts.routing import Read, RouteLogits, route_hash
from ..contracts.transcript import Message
from ..rules import machine
from ..rules.assignment import Routing
from ..rules.budgets import Limits
from .client import Answer
from .result import RunError, RunResult
from .state import TurnRecord, TurnTotals

E = TypeVar("E")


def _event(kind: type[E], source: object, **rest: Any) -> E:
    """An event of ``kind``: what it has in common with ``source``, by name, and the rest."""
    common = [name for name in _field_names(kind) if name not in rest]  # type: ignore[arg-type]
    return kind(**{name: getattr(source, name) for name in common}, **rest)


@cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def started(
    state: machine.State,
    limits: Limits,
    pool: Pool,
    router: Mapping[str, Any],
    transcript_hash: str,
    resumes: str | None,
) -> RunStarted:
    """The beginning of a run, or of its next part."""
    return RunStarted(
        task=TaskMessage.all_of(state.transcript),
        transcript_hash=transcript_hash,
        policy=state.policy.to_dict(),
        pool=pool.name,
        agents=tuple(
            {"slot": agent.slot, "name": agent.name, "provider": agent.provider, "model": agent.model}
            for agent in pool.agents
        ),
        limits=limits.to_dict(),
        router=router,
        resumes=resumes,
    )


def routed(turn: int, routing: Routing, read: Read | None, latency_ms: float) -> Routed:
    """Whose turn it is; ``read`` is what the router gave, None where it was not asked."""
    logits = read.logits if read else None
    return Routed(
        turn=turn,
        slot=routing.slot,
        role=routing.role,
        raw_slot=routing.raw_slot,
        raw_role=routing.raw_role,
        adjustments=tuple(map(str, routing.adjustments)),
        margins=routing.margins if routing.choice else None,
        logits=logits,
        read_hash=read.transcript_hash if read else None,
        route_hash=_route_hash(routing, logits),
        token_count=read.token_count if read else None,
        latency_ms=latency_ms,
    )


def _route_hash(routing: Routing, logits: RouteLogits | None) -> str | None:
    """The hash of the router's own choice; a bypassed router made none."""
    if routing.raw_slot is None or routing.raw_role is None or logits is None:
        return None
    return route_hash(routing.raw_slot, routing.raw_role, logits)


def record(agent: Agent, turn: machine.Turn, reply: Reply, totals: TurnTotals) -> TurnRecord:
    """A turn that is complete, with what all of its calls used."""
    return TurnRecord(
        turn=turn.index,
        slot=agent.slot,
        agent=agent.name,
        model=reply.model,
        role=turn.role,
        raw_role=turn.raw_role,
        adjustments=tuple(map(str, turn.routing.adjustments)),
        margins=turn.routing.margins,
        text=turn.text,
        finish=str(reply.finish),
        usage=totals.usage,
        cost_usd=totals.cost_usd,
        latency_ms=round(totals.latency_s * 1000, 3),
        verdict=turn.verdict,
        fallback_from=turn.fallback_from,
        tools=tuple(call.name for exchange in turn.exchanges for call in exchange.message.tool_calls),
    )


def turn_completed(completed: TurnRecord, turn: machine.Turn, reply: Reply, transcript_hash: str) -> TurnCompleted:
    """A reply that joined the transcript."""
    return _event(
        TurnCompleted,
        completed,
        reply=Content.of(turn.message),
        request_id=reply.request_id,
        verdict=str(turn.verdict.status) if turn.verdict else None,
        suggested_role=turn.suggestion.role if turn.suggestion else None,
        transcript_hash=transcript_hash,
    )


def tools_called(
    step: machine.Call, agent: Agent, answer: Answer, cost_usd: float | None, transcript_hash: str
) -> ToolsCalled:
    """A Worker's calls of tools."""
    reply = answer.reply
    return _event(
        ToolsCalled,
        reply,
        turn=step.turn,
        slot=step.slot,
        agent=agent.name,
        calls=len(reply.message.tool_calls),
        message=Content.of(reply.message),
        finish=str(reply.finish),
        cost_usd=cost_usd,
        latency_ms=answer.latency_s * 1000,
        transcript_hash=transcript_hash,
    )


def tools_answered(state: machine.State, transcript_hash: str, latency_ms: float) -> ToolsAnswered:
    """The results with which the turn under way goes on."""
    exchange = state.exchanges[-1]
    return ToolsAnswered(
        turn=len(state.turns),
        slot=state.routing.slot if state.routing else 0,
        results=tuple(Content.of(message) for message in exchange.messages[1:]),
        errors=sum(result.is_error for result in exchange.results),
        latency_ms=latency_ms,
        transcript_hash=transcript_hash,
    )


def not_taken(step: machine.Call, agent: Agent, answer: Answer, after: machine.State) -> ProviderFailed:
    """A reply that did not become a turn: a refusal, or calls of tools beyond what the policy allows."""
    is_refusal = bool(refusal_text(answer.reply.message)) or not answer.reply.message.tool_calls
    end = after.end
    words = end.reason if isinstance(end, machine.Fail) and not is_refusal else refusal_text(answer.reply.message)
    return ProviderFailed(
        turn=step.turn,
        slot=step.slot,
        agent=agent.name,
        attempt=answer.attempt,
        error="Refused" if is_refusal else "TooManyToolRounds",
        message=words or "it refused to answer, without a word",
        status=None,
        latency_ms=answer.latency_s * 1000,
        retry_in_s=None,
        request_id=answer.reply.request_id,
    )


def refusal_text(message: Message) -> str:
    """What a model said as it refused; its text where that is all there is."""
    return "".join(part.text for part in message.parts if isinstance(part, Refusal)) or message.text


def is_revision(turn: machine.Turn) -> bool:
    """Whether a Verifier did not accept."""
    return turn.verdict is not None and not turn.verdict.accepted


def ended(kind: type[E], result: RunResult, **rest: Any) -> E:
    """The end of a run, or of its part up to its tools."""
    return _event(kind, result, status=str(result.status), turns=len(result.turns), **rest)


def run_failed(result: RunResult, error: RunError) -> RunFailed:
    """The end of a run without an answer that counts."""
    answer = None if result.message is None else Content.of(result.message)
    return ended(RunFailed, result, error=error.type, message=error.message, details=error.details, answer=answer)

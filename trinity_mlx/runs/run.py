"""One run: the machine's steps carried out, and every event told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ..contracts.errors import BudgetExceeded, ProviderError, TrinityError
from ..contracts.events import (
    Content,
    Event,
    Fallback,
    Routed,
    RunCompleted,
    RunFailed,
    RunStarted,
    Sink,
    TurnCompleted,
    TurnStarted,
)
from ..contracts.pool import Agent, Pool
from ..contracts.provider import Finish, Reply
from ..contracts.routing import RouteDecision, RouteLogits, route_hash
from ..contracts.text_format import role_lines
from ..contracts.transcript import Transcript
from ..rules import machine
from ..rules.assignment import Routing
from ..rules.budgets import Limits
from ..rules.policy import Policy
from .attempts import Attempts
from .meter import Meter
from .result import RunError, RunResult, RunStatus, TurnRecord
from .retry import AgentClient

OnText = Callable[[int, str], None]
"""Told the turn and each piece of text as it arrives."""


class ReadsTranscripts(Protocol):
    """What a run needs of a router; ``routing.router.Router`` is one."""

    def route(self, transcript: Transcript, /) -> RouteDecision:
        """The decision for a transcript, with its logits. Called on a thread of its own."""


@dataclass(frozen=True)
class RunSetup:
    """What a run is carried out with. ``router_info`` describes the router in the trace."""

    router: ReadsTranscripts
    router_info: Mapping[str, Any]
    pool: Pool
    clients: Mapping[int, AgentClient]
    policy: Policy
    limits: Limits
    sinks: Sequence[Sink] = ()
    on_text: OnText | None = None


class Run:
    """One run of one task; used once.

    Args:
        setup: what it is carried out with.
        run_id: its name, different for each.
        task: the conversation so far; its last message is what is asked.
        last_slot: the agent that spoke last in this conversation, for stickiness.

    Raises:
        PoolInvalid, PolicyInvalid: pool and policy do not go together.
    """

    def __init__(self, setup: RunSetup, run_id: str, task: Transcript, last_slot: int | None = None) -> None:
        self._setup = setup
        self._run_id = run_id
        self._task = task
        seats = {agent.slot: agent.roles for agent in setup.pool.agents}
        self._state = machine.begin(setup.policy, task, seats, last_slot)
        self._meter = Meter(setup.limits)
        self._turns: list[TurnRecord] = []
        self._unended = tuple(setup.sinks)
        self._last_error: ProviderError | None = None

    async def carry_out(self) -> RunResult:
        """The whole run. What goes wrong is in the result, but for cancellation and what a listener raised.

        Those are raised once the run's end has been told.
        """
        try:
            self._tell(self._started())
            ending = await self._steps()
            if isinstance(ending, machine.Finish):
                return self._finish(ending)
            return self._fail(self._error_of(ending))
        except TrinityError as error:
            return self._fail(_run_error(error))
        except asyncio.CancelledError:
            self._fail(RunError("Cancelled", "the run was cancelled", exit_code=1))
            raise
        except Exception as error:
            self._fail(RunError(type(error).__name__, str(error), exit_code=1))
            raise

    async def _steps(self) -> machine.Finish | machine.Fail:
        while True:
            step = machine.next_step(self._state)
            if isinstance(step, machine.Route):
                await self._route(step)
            elif isinstance(step, machine.Call):
                await self._call(step)
            else:
                return step

    async def _route(self, step: machine.Route) -> None:
        transcript = self._state.transcript
        self._tell(TurnStarted(step.turn, len(transcript.messages), transcript.sha256))
        begun = time.monotonic()
        decision = await asyncio.to_thread(self._setup.router.route, step.read)
        latency_ms = (time.monotonic() - begun) * 1000
        self._state = machine.routed(self._state, decision.logits)
        following = machine.next_step(self._state)
        if isinstance(following, machine.Call):
            self._tell(_routed(following, decision, latency_ms))

    async def _call(self, step: machine.Call) -> None:
        on_text = partial(self._setup.on_text, step.turn) if self._setup.on_text else None
        attempts = Attempts(step, self._setup.clients[step.slot], self._meter, self._tell)
        try:
            reply, latency_s = await attempts.ask(on_text)
        except ProviderError as error:
            self._give_up(step, error)
            return
        self._state = machine.replied(self._state, reply.text, cut=reply.finish is Finish.LENGTH)
        self._complete(step, reply, latency_s)
        self._meter.check(latency_s)

    def _give_up(self, step: machine.Call, error: ProviderError) -> None:
        """The agent has failed for this turn; whoever is next takes it."""
        self._last_error = error
        reason = f"{type(error).__name__}: {error}"
        self._state = machine.failed(self._state, reason)
        following = machine.next_step(self._state)
        if isinstance(following, machine.Call):
            self._tell(Fallback(step.turn, step.slot, following.slot, reason))

    def _complete(self, step: machine.Call, reply: Reply, latency_s: float) -> None:
        agent, turn = self._setup.pool[step.slot], self._state.turns[-1]
        revised = turn.verdict is not None and not turn.verdict.accepted
        cost_usd = self._meter.count(agent, step.messages, reply, revised)
        self._turns.append(_record(agent, turn, reply, cost_usd, latency_s * 1000))
        self._tell(_turn_completed(self._turns[-1], turn, reply, self._state.transcript.sha256))

    def _finish(self, ending: machine.Finish) -> RunResult:
        status, wall_ms = RunStatus(ending.status), self._meter.wall_s * 1000
        usage, cost_usd = self._meter.usage, self._meter.cost_usd
        self._tell_end(RunCompleted(str(status), Content(ending.answer), len(self._turns), usage, cost_usd, wall_ms))
        turns = tuple(self._turns)
        return RunResult(self._run_id, status, ending.answer, ending.verdict, turns, usage, cost_usd, wall_ms)

    def _fail(self, error: RunError) -> RunResult:
        is_budget = error.type == BudgetExceeded.__name__
        result = RunResult(
            run_id=self._run_id,
            status=RunStatus.BUDGET_EXCEEDED if is_budget else RunStatus.FAILED,
            answer=self._state.answer,
            verdict=self._state.answer_verdict,
            turns=tuple(self._turns),
            usage=self._meter.usage,
            cost_usd=self._meter.cost_usd,
            wall_ms=self._meter.wall_s * 1000,
            error=error,
        )
        with suppress(Exception):  # a sink that is broken may be why the run failed
            self._tell_end(_run_failed(result, error))
        return result

    def _error_of(self, ending: machine.Fail) -> RunError:
        last = self._last_error
        if ending.kind is machine.FailKind.AGENTS_FAILED and last is not None:
            return RunError(type(last).__name__, ending.message, last.exit_code, {"status": last.status})
        return RunError(str(ending.kind), ending.message, exit_code=1)

    def _started(self) -> RunStarted:
        setup = self._setup
        return RunStarted(
            task=Content(role_lines(self._task)),
            transcript_hash=self._task.sha256,
            policy=setup.policy.to_dict(),
            pool=setup.pool.name,
            agents=tuple(
                {"slot": agent.slot, "name": agent.name, "provider": agent.provider, "model": agent.model}
                for agent in setup.pool.agents
            ),
            limits=setup.limits.to_dict(),
            router=setup.router_info,
        )

    def _tell(self, event: Event) -> None:
        for sink in self._setup.sinks:
            sink.emit(event)

    def _tell_end(self, event: RunCompleted | RunFailed) -> None:
        """Tell every sink how the run ended, once, whatever another one makes of it; then raise the first failure."""
        sinks, self._unended = self._unended, ()
        failures = [failure for sink in sinks if (failure := _failure_of(sink, event))]
        if failures:
            raise failures[0]


def _failure_of(sink: Sink, event: Event) -> Exception | None:
    try:
        sink.emit(event)
    except Exception as error:
        return error
    return None


def _record(agent: Agent, turn: machine.Turn, reply: Reply, cost_usd: float | None, latency_ms: float) -> TurnRecord:
    return TurnRecord(
        turn=turn.index,
        slot=agent.slot,
        agent=agent.name,
        model=reply.model,
        role=turn.role,
        raw_role=turn.raw_role,
        adjustments=tuple(map(str, turn.routing.adjustments)),
        margins=turn.routing.margins,
        text=reply.text,
        finish=str(reply.finish),
        usage=reply.usage,
        cost_usd=cost_usd,
        latency_ms=latency_ms,
        verdict=turn.verdict,
        fallback_from=turn.fallback_from,
    )


def _routed(call: machine.Call, decision: RouteDecision, latency_ms: float) -> Routed:
    routing = call.routing
    return Routed(
        turn=call.turn,
        slot=routing.slot,
        role=routing.role,
        raw_slot=routing.raw_slot,
        raw_role=routing.raw_role,
        adjustments=tuple(map(str, routing.adjustments)),
        margins=routing.margins,
        logits=decision.logits,
        read_hash=decision.transcript_hash,
        route_hash=_route_hash(routing, decision.logits),
        token_count=decision.token_count,
        latency_ms=latency_ms,
    )


def _route_hash(routing: Routing, logits: RouteLogits) -> str | None:
    """The hash of the router's own choice; a bypassed router made none."""
    return None if routing.raw_slot is None else route_hash(routing.raw_slot, routing.raw_role, logits)


def _turn_completed(record: TurnRecord, turn: machine.Turn, reply: Reply, transcript_hash: str) -> TurnCompleted:
    return TurnCompleted(
        turn=record.turn,
        slot=record.slot,
        agent=record.agent,
        model=record.model,
        role=record.role,
        reply=Content(record.text),
        finish=record.finish,
        usage=record.usage,
        cost_usd=record.cost_usd,
        latency_ms=record.latency_ms,
        request_id=reply.request_id,
        verdict=str(turn.verdict.status) if turn.verdict else None,
        suggested_role=turn.suggestion.role if turn.suggestion else None,
        fallback_from=record.fallback_from,
        transcript_hash=transcript_hash,
    )


def _run_failed(result: RunResult, error: RunError) -> RunFailed:
    return RunFailed(
        status=str(result.status),
        error=error.type,
        message=error.message,
        details=error.details,
        answer=None if result.answer is None else Content(result.answer),
        turns=len(result.turns),
        usage=result.usage,
        cost_usd=result.cost_usd,
        wall_ms=result.wall_ms,
    )


def _run_error(error: TrinityError) -> RunError:
    details: dict[str, Any] = {}
    if isinstance(error, BudgetExceeded):
        details = {"kind": error.kind, "limit": error.limit, "observed": error.observed}
    return RunError(type(error).__name__, str(error), error.exit_code, details)

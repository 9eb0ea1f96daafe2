"""One run: the machine's steps carried out, and every event told."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from ..contracts.errors import BudgetExceeded, ProviderError, TrinityError, UsageError
from ..contracts.events import (
    Content,
    Fallback,
    Reviewed,
    RunCompleted,
    RunPaused,
    RunStarted,
    Sink,
    TurnStarted,
)
from ..contracts.parts import ToolCall, ToolResult
from ..contracts.pool import Pool
from ..contracts.provider import Request
from ..contracts.routing import Read, Role
from ..contracts.transcript import Message, Transcript
from ..rules import machine
from ..rules.verdict import Verdict
from . import telling
from .client import AgentClient, Answer
from .listeners import Listeners, OnTurnText
from .meter import Meter
from .result import RunError, RunResult, RunStatus
from .state import RunState, TurnRecord, TurnTotals, WorkerOptions
from .tools import ToolBox

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReviewRequest:
    """What a person is asked to release: the message, the verdict on it, and the turns that led there."""

    run_id: str
    message: Message
    verdict: Verdict | None
    turns: tuple[TurnRecord, ...]


Reviewer = Callable[[ReviewRequest], machine.Decision | bool | Awaitable[machine.Decision | bool]]
"""Asks a person; one that is no coroutine function is called on a thread."""


class ReadsTranscripts(Protocol):
    """What a run needs of a router; ``routing.router.Router`` is one."""

    async def read(self, transcript: Transcript, /) -> Read:
        """The logits of a transcript."""


@dataclass(frozen=True)
class RunSetup:
    """What a run is carried out with. ``router_info`` describes the router in the trace; without ``tools``, calls of
    them are left to the caller."""

    router: ReadsTranscripts
    router_info: Mapping[str, Any]
    pool: Pool
    clients: Mapping[int, AgentClient] = field(default_factory=dict)
    tools: ToolBox | None = None
    reviewer: Reviewer | None = None
    sinks: Sequence[Sink] = ()
    on_text: OnTurnText | None = None


class Run:
    """One run, or one part of it up to the tools that it waits for; used once.

    Args:
        setup: what it is carried out with.
        state: where it begins.

    Raises:
        UsageError: the state names an agent that the pool does not have.
    """

    def __init__(self, setup: RunSetup, state: RunState) -> None:
        self._setup = setup
        self._begun = state
        self._state = state.machine
        self._turn, self._turns = state.turn, state.turns
        self._meter = Meter(state.limits, state.totals, asyncio.get_running_loop().time)
        self._transcript_hash = self._state.transcript.sha256
        self._listeners = Listeners(setup.sinks, setup.on_text)
        self._last_error: ProviderError | None = None
        missing = set(self._state.seats) - set(setup.clients)
        if missing:
            raise UsageError(
                f"the run has an agent in slot {min(missing)}, and pool {setup.pool.name!r} has none there"
            )

    async def carry_out(
        self, results: Sequence[ToolResult] = (), decision: machine.Decision | None = None
    ) -> RunResult:
        """The whole run, or the part of it up to its tools or its review, which ``results`` or ``decision`` answer.

        What goes wrong is in the result, except for cancellation and what a listener raised: these are raised once
        the run's end has been told.

        Raises:
            UsageError: the results are not one for each call, or no decision came where one was due.
        """
        following = self._following(results, decision) if self._begun.part else None
        try:
            self._listeners.tell(self._started())
            if following is not None and decision is not None:
                self._decide(following, decision)
            elif following is not None:
                self._go_on(following, 0.0)
            ending = await self._steps()
            await self._listeners.wait()
            return await self._ended(ending)
        except TrinityError as error:
            return await self._fail(RunError.of(error))
        except asyncio.CancelledError:
            await self._fail(RunError("Cancelled", "the run was cancelled", exit_code=1))
            raise
        except Exception as error:
            await self._fail(RunError(type(error).__name__, str(error), exit_code=1))
            raise

    def _following(self, results: Sequence[ToolResult], decision: machine.Decision | None) -> machine.State:
        """The state after what the run has waited for."""
        if decision is not None:
            return machine.reviewed(self._state, decision)
        return machine.answered(self._state, results)

    async def _steps(self) -> machine.Done | machine.Fail | machine.Await | machine.AwaitReview:
        if self._state.routing is not None and not self._state.exchanges:
            self._tell_turn(None, 0.0)
        while True:
            step = machine.next_step(self._state)
            if isinstance(step, machine.Route):
                await self._route(step)
            elif isinstance(step, machine.Call):
                await self._call(step)
            elif isinstance(step, machine.Await) and self._setup.tools:
                await self._call_tools(step, self._setup.tools)
            elif isinstance(step, machine.AwaitReview) and self._setup.reviewer:
                await self._review(step.ending, self._setup.reviewer)
            else:
                return step

    async def _route(self, step: machine.Route) -> None:
        begun = time.monotonic()
        read = await self._within_the_wall(self._setup.router.read(step.read))
        self._state = machine.routed(self._state, read.logits)
        self._tell_turn(read, (time.monotonic() - begun) * 1000)

    def _tell_turn(self, read: Read | None, latency_ms: float) -> None:
        """The beginning of a turn, and who takes it where anybody does."""
        turn, routing = len(self._state.turns), self._state.routing
        if not self._state.failures:
            messages = len(self._state.transcript.messages)
            self._listeners.tell(TurnStarted(turn, messages, self._transcript_hash))
        if routing is not None:
            self._listeners.tell(telling.routed(turn, routing, read, latency_ms))

    async def _call(self, step: machine.Call) -> None:
        request, listeners = self._request(step), self._listeners
        client, on_text = self._setup.clients[step.slot], listeners.on_text(step)
        try:
            answer = await client.ask(request, meter=self._meter, tell=listeners.tell_and_wait, on_text=on_text)
        except ProviderError as error:
            self._last_error = error
            self._failed(step, machine.failed(self._state, f"{type(error).__name__}: {error}"))
        else:
            self._take(step, request, answer)
            self._meter.check(answer.latency_s)

    def _request(self, step: machine.Call) -> Request:
        options = self._begun.options if step.role is Role.WORKER else WorkerOptions()
        return Request(
            step.messages,
            step.role,
            step.turn,
            tools=options.tools,
            tool_choice=options.tool_choice,
            response_format=options.response_format,
            sampling=options.sampling,
        )

    def _take(self, step: machine.Call, request: Request, answer: Answer) -> None:
        """Count a reply and tell what it was: a turn, calls of tools, or a refusal."""
        reply, before = answer.reply, self._state
        after = machine.replied(before, reply.message, reply.finish)
        agent, is_turn = self._setup.pool[step.slot], len(after.turns) > len(before.turns)
        cost_usd = self._meter.count(agent, request, reply, is_turn and telling.is_revision(after.turns[-1]))
        self._turn = self._turn.plus(reply.usage, cost_usd, answer.latency_s)
        if is_turn:
            self._state = after
            self._transcript_hash = after.transcript.sha256
            record = telling.record(agent, after.turns[-1], reply, self._turn)
            self._turns, self._turn = (*self._turns, record), TurnTotals()
            self._listeners.tell(telling.turn_completed(record, after.turns[-1], reply, self._transcript_hash))
        elif len(after.exchanges) > len(before.exchanges):
            self._state = after
            self._transcript_hash = after.transcript.sha256
            self._listeners.tell(telling.tools_called(step, agent, answer, cost_usd, self._transcript_hash))
        else:
            self._listeners.tell(telling.not_taken(step, agent, answer, after))
            self._failed(step, after)

    def _failed(self, step: machine.Call, after: machine.State) -> None:
        """The agent has failed for this turn; whoever is next takes it."""
        self._state = after
        if after.routing is not None and after.end is None:
            reason = after.failures[-1].reason
            self._listeners.tell(Fallback(step.turn, step.slot, after.routing.slot, reason))

    async def _call_tools(self, step: machine.Await, tools: ToolBox) -> None:
        await self._listeners.wait()
        begun = time.monotonic()
        results = await self._within_the_wall(tools.call_all(step.calls))
        self._go_on(machine.answered(self._state, results), (time.monotonic() - begun) * 1000)

    def _go_on(self, state: machine.State, latency_ms: float) -> None:
        """The turn under way, with the results that its Worker waited for."""
        self._state = state
        self._transcript_hash = state.transcript.sha256
        self._listeners.tell(telling.tools_answered(state, self._transcript_hash, latency_ms))

    async def _review(self, ending: machine.Done, reviewer: Reviewer) -> None:
        """Ask a person, whose time does not count as the run's."""
        await self._listeners.wait()
        asked_at = self._meter.now()
        request = ReviewRequest(self._begun.part_id, ending.message, ending.verdict, self._turns)
        is_async = inspect.iscoroutinefunction(reviewer)
        answer: Any = reviewer(request) if is_async else await asyncio.to_thread(reviewer, request)
        answer = await answer if inspect.isawaitable(answer) else answer
        self._meter.leave_out(self._meter.now() - asked_at)
        decision = answer if isinstance(answer, machine.Decision) else machine.Decision(answer is True)
        self._decide(machine.reviewed(self._state, decision), decision)

    def _decide(self, state: machine.State, decision: machine.Decision) -> None:
        self._state = state
        self._listeners.tell(Reviewed(decision.approved, decision.reviewer, Content(decision.comment)))

    async def _within_the_wall(self, work: Awaitable[T]) -> T:
        """What ``work`` gives, unless the run's time is over before that.

        Raises:
            BudgetExceeded: it is.
        """
        timer = asyncio.timeout(self._meter.wall_left_s())
        try:
            async with timer:
                return await work
        except TimeoutError:
            if not timer.expired():
                raise
            raise self._meter.ran_out(None) from None

    async def _ended(self, ending: machine.Done | machine.Fail | machine.Await | machine.AwaitReview) -> RunResult:
        if isinstance(ending, machine.Fail):
            return await self._fail(self._error_of(ending))
        if isinstance(ending, machine.Await):
            return await self._pause(RunStatus.AWAITING_TOOLS, self._state.answer, ending.calls)
        if isinstance(ending, machine.AwaitReview):
            return await self._pause(RunStatus.AWAITING_REVIEW, ending.ending.message, ())
        result = self._result(RunStatus(ending.status), message=ending.message, verdict=ending.verdict)
        if ending.status is machine.FinishStatus.REFUSED:
            refusal = telling.refusal_text(ending.message) or "it gave no words"
            result = replace(result, error=RunError("Refused", f"the answer was refused: {refusal}", exit_code=5))
        answer = Content.of(ending.message)
        await self._listeners.tell_end(telling.ended(RunCompleted, result, answer=answer))
        return result

    async def _pause(self, status: RunStatus, message: Message | None, calls: tuple[ToolCall, ...]) -> RunResult:
        """The run so far, for the caller to go on with."""
        state = replace(
            self._begun,
            machine=self._state,
            totals=self._meter.totals,
            turn=self._turn,
            turns=self._turns,
            part=self._begun.part + 1,
        )
        result = self._result(status, message=message, calls=calls, state=state)
        await self._listeners.tell_end(telling.ended(RunPaused, result, calls=len(calls)))
        return result

    async def _fail(self, error: RunError) -> RunResult:
        is_budget = error.type == BudgetExceeded.__name__
        status = RunStatus.BUDGET_EXCEEDED if is_budget else RunStatus.FAILED
        state = self._state
        is_rejected = state.decision is not None and not state.decision.approved
        answer = None if is_rejected else state.answer
        result = self._result(status, message=answer, verdict=state.answer_verdict, error=error)
        with suppress(Exception):  # a sink that is broken may be why the run failed
            await self._listeners.tell_end(telling.run_failed(result, error))
        return result

    def _result(self, status: RunStatus, **fields: Any) -> RunResult:
        return RunResult(
            **{"run_id": self._begun.run_id, "status": status, "message": None, "verdict": None, **fields},
            turns=self._turns,
            usage=self._meter.usage,
            cost_usd=self._meter.cost_usd,
            wall_ms=self._meter.wall_s * 1000,
        )

    def _error_of(self, ending: machine.Fail) -> RunError:
        last = self._last_error
        if ending.cause is machine.FailKind.AGENTS_FAILED and last is not None:
            return RunError(type(last).__name__, ending.reason, last.exit_code, {"status": last.status})
        return RunError(str(ending.cause), ending.reason, exit_code=1)

    def _started(self) -> RunStarted:
        setup, begun = self._setup, self._begun
        before = replace(begun, part=begun.part - 1).part_id if begun.part else None
        return telling.started(self._state, begun.limits, setup.pool, setup.router_info, self._transcript_hash, before)

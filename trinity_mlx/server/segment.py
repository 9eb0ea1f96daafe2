"""One request, carried out: a whole run, or the part of one between two rounds of tools (docs/serving.md).

What a request needs to go on after tools is in the ids of its calls; a run that is still remembered goes on from its
own state, which knows more.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..contracts.provider import Finish, Usage
from ..contracts.routing import Role
from ..contracts.transcript import Message, Refusal, Text, ToolCall, ToolResult, Transcript
from ..rules.policy import Policy, Review
from ..runs.result import RunResult, RunStatus
from ..runs.state import TurnRecord
from .access import Account
from .asking import Ask, estimated_tokens
from .call_ids import Waiting, bare
from .forms import REPAIR, FormInvalid, formed
from .models import Mode, Target
from .narration import Narrator
from .narrowing import Narrowing, denied_slots, narrowed_policy
from .problems import Kind, Problem, RunFault, problem_of_fault
from .reports import report_of
from .service import Parked, Service
from .voices import Ending

PASSED_THROUGH = (Mode.ROUTE, Mode.DIRECT)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the name of the key, the conversation, the prefix of call ids that the interface wants.

    ``deadline_s`` is how long the client waits, where it says so.
    """

    principal: str
    session: str
    id_prefix: str
    deadline_s: float | None = None


class Segment:
    """Carries out one request; used once."""

    def __init__(
        self, service: Service, ask: Ask, target: Target, narrowing: Narrowing, caller: Caller, account: Account
    ) -> None:
        self.run_id = uuid.uuid4().hex
        self._service = service
        self._ask = ask
        self.target = target
        self._narrowing = narrowing
        self._caller = caller
        self._account = account
        self.team = service.teams[target.pool]
        self._before = Waiting(0, 0, 0)
        self._refs = {} if account.traceparent is None else {"traceparent": account.traceparent}
        account.run_id = self.run_id

    @property
    def shows_text(self) -> bool:
        """Whether text is shown as it comes: not where its form has to be checked first."""
        return self.target.mode is not Mode.HELD and self._ask.response_format is None

    async def carry_out(self, narrator: Narrator) -> Ending:
        """The whole of it, told by ``narrator``.

        Raises:
            Problem: there is no answer, or a person would have to release it: that is said before anybody is called.
        """
        if self.team.asks_review or self._policy().review is Review.ASK:
            raise _nobody_to_ask()
        result = await self._run(narrator)
        self._remember(result)
        if result.status is RunStatus.AWAITING_TOOLS:
            return self._await_tools(result, narrator)
        if result.status is RunStatus.REFUSED:
            return self._refuse(result, narrator)
        if result.status is RunStatus.AWAITING_REVIEW:
            raise _nobody_to_ask()
        return await self._answer(result, narrator)

    async def _run(self, narrator: Narrator) -> RunResult:
        """From the user's message, or from the results of the tools that a Worker waits for."""
        calls = self._waiting_calls()
        if calls is None:
            return await self._begin(narrator)
        parked = self._service.parked.pop(bare(calls[0].id))
        if parked is None or parked.history != self._history_before(calls):
            return await self._begin(narrator, self._before.slot)
        options = replace(parked.state.options, **self._worker_options())
        results = [replace(result, call_id=parked.ids[result.call_id]) for result in self._results(calls)]
        return await self.team.aresume(
            replace(parked.state, options=options),
            results,
            deadline_s=self._caller.deadline_s,
            refs=self._refs,
            sinks=[narrator],
            on_text=narrator.on_text if self.shows_text else None,
        )

    async def _begin(self, narrator: Narrator, worker_slot: int | None = None) -> RunResult:
        target, service = self.target, self._service
        slot = target.slot if target.mode is Mode.DIRECT else worker_slot
        return await self.team.arun(
            Transcript(self._ask.messages),
            run_id=self.run_id,
            last_slot=service.sessions.get(self._caller.session),
            worker_slot=slot,
            policy=self._policy(),
            limits=self._narrowing.limits,
            deny=denied_slots(self._narrowing, self.team.pool),
            roles=(Role.WORKER,) if target.mode in PASSED_THROUGH else tuple(Role),
            **self._worker_options(),
            deadline_s=self._caller.deadline_s,
            refs=self._refs,
            sinks=[narrator],
            on_text=narrator.on_text if self.shows_text else None,
        )

    def _policy(self) -> Policy:
        """The operator's, narrowed, with the turns that are left."""
        once = self.target.mode in PASSED_THROUGH
        allowed, options = self._service.settings.allowed_options, self._narrowing.options
        return narrowed_policy(self.team.policy, options, allowed, before=self._before.turn, once=once)

    def _worker_options(self) -> Mapping[str, Any]:
        ask = self._ask
        return {
            "tools": ask.tools,
            "tool_choice": ask.tool_choice,
            "response_format": ask.response_format,
            "sampling": ask.sampling,
        }

    def _waiting_calls(self) -> Sequence[ToolCall] | None:
        """The calls whose results the request brings, where one of them is ours and says where the run stood."""
        if not self._ask.ends_in_results:
            return None
        calls = last_calls(self._ask.messages)
        read = (self._service.call_ids.read(call.id, self.target.pool) for call in calls)
        waiting = next((each for each in read if each is not None), None)
        if waiting is None or waiting.slot >= len(self.team.pool):
            return None
        self._before = waiting
        return calls

    def _results(self, calls: Sequence[ToolCall]) -> list[ToolResult]:
        """The results of ``calls``; what the user says besides them belongs to the last."""
        messages = self._ask.messages
        results = [part for message in messages for part in message.parts if isinstance(part, ToolResult)]
        own = [result for result in results if result.call_id in {call.id for call in calls}]
        after = [part for message in messages[_last_result(messages) + 1 :] for part in message.parts]
        said = tuple(part for part in after if isinstance(part, Text))
        return [*own[:-1], replace(own[-1], parts=(*own[-1].parts, *said))]

    def _history_before(self, calls: Sequence[ToolCall]) -> str:
        """The hash of everything before the message that holds ``calls``."""
        ids = {call.id for call in calls}
        place = next(
            index for index, message in enumerate(self._ask.messages) if ids & {call.id for call in message.tool_calls}
        )
        return Transcript(self._ask.messages[:place]).sha256

    def _await_tools(self, result: RunResult, narrator: Narrator) -> Ending:
        """The request ends where tools are to be called: all calls at once, after what the Worker said before them."""
        assert result.state is not None
        machine = result.state.machine
        slot = self._before.slot if machine.routing is None else machine.routing.slot
        turn, revisions = self._before.turn + len(machine.turns), self._before.revisions + machine.revisions
        waiting = Waiting(slot, turn, revisions)
        write, pool = self._service.call_ids.write, self.target.pool
        calls = [replace(call, id=write(waiting, pool, self._caller.id_prefix)) for call in result.calls]
        ids = {mine.id: theirs.id for mine, theirs in zip(calls, result.calls, strict=True)}
        parked = Parked(result.state, Transcript(self._ask.messages).sha256, ids)
        for call in calls:
            self._service.parked.put(bare(call.id), parked)
        narrator.commentary(machine.exchanges[-1].message.text)
        narrator.calls(calls)
        usage = result.state.turn.usage
        return self._ending(result, Finish.TOOL_CALLS, usage or self._estimated(""), "tool_calls")

    def _refuse(self, result: RunResult, narrator: Narrator) -> Ending:
        parts = () if result.message is None else result.message.parts
        narrator.refusal("".join(part.text for part in parts if isinstance(part, Refusal | Text)))
        return self._ending(result, Finish.REFUSED, self._answer_usage(result), "refused")

    async def _answer(self, result: RunResult, narrator: Narrator) -> Ending:
        if result.answer is None:
            assert result.error is not None
            raise problem_of_fault(RunFault(result.error.type, result.error.message, result.error.details))
        outcome = self._outcome(result)
        if self._narrowing.require_verified and outcome != "verified":
            text = f"no answer was verified ({result.status}), and the request asks for one that is"
            raise Problem(Kind.SERVER, text, status=502, code="unverified")
        text = result.answer
        if self._ask.response_format is not None:
            text, result = await self._in_form(result, narrator)
        stop = narrator.answer(text)
        finish = Finish.STOP if stop is not None else self._finish(result)
        return self._ending(result, finish, self._answer_usage(result), outcome, stop)

    async def _in_form(self, result: RunResult, narrator: Narrator) -> tuple[str, RunResult]:
        """The answer in the form that was asked for, after one more turn of the same Worker where it has not."""
        wanted, text = self._ask.response_format, result.answer or ""
        assert wanted is not None
        try:
            return formed(text, wanted), result
        except FormInvalid as fault:
            repaired = await self._repair(result, REPAIR.format(fault=fault), narrator)
        try:
            return formed(repaired.answer or "", wanted), repaired
        except FormInvalid as fault:
            reason = f"the answer does not have the form that was asked for, even after one repair: {fault}"
            raise Problem(Kind.SERVER, reason, status=502, code="invalid_response_format") from None

    async def _repair(self, result: RunResult, request: str, narrator: Narrator) -> RunResult:
        answered = Message("assistant", result.answer or "")
        turn = _answer_turn(result)
        repaired = await self.team.arun(
            Transcript((*self._ask.messages, answered, Message("user", request))),
            run_id=f"{self.run_id}-repair",
            worker_slot=turn.slot if turn else None,
            policy=narrowed_policy(self.team.policy, (), frozenset(), before=0, once=True),
            limits=self._narrowing.limits,
            roles=(Role.WORKER,),
            response_format=self._ask.response_format,
            sampling=self._ask.sampling,
            deadline_s=self._caller.deadline_s,
            refs=self._refs,
            sinks=[narrator],
        )
        turns = (*result.turns, *repaired.turns)
        return replace(repaired, turns=turns, usage=result.usage + repaired.usage)

    def _outcome(self, result: RunResult) -> str:
        if result.status is RunStatus.ACCEPTED:
            return "verified"
        return "passed_through" if self.target.mode in PASSED_THROUGH else "unverified"

    def _finish(self, result: RunResult) -> Finish:
        turn = _answer_turn(result)
        return Finish(turn.finish) if turn else Finish.STOP

    def _answer_usage(self, result: RunResult) -> Usage:
        turn = _answer_turn(result)
        return (turn.usage if turn else None) or self._estimated(result.answer or "")

    def _estimated(self, answer: str) -> Usage:
        """Tokens where nobody counted: about four characters each."""
        return Usage(estimated_tokens(self._ask), len(answer) // 4 + 1)

    def _ending(self, result: RunResult, finish: Finish, usage: Usage, outcome: str, stop: str | None = None) -> Ending:
        self._account.outcome = outcome
        self._service.metrics.outcomes.labels(self.target.pool, outcome).inc()
        report = report_of(result, self.target, outcome, usage, self.team)
        self._service.reports.put((self._caller.principal, self.run_id), report)
        return Ending(finish, usage, outcome, report, stop)

    def _remember(self, result: RunResult) -> None:
        """Who spoke last, for the next request of this conversation."""
        if result.turns:
            self._service.sessions.put(self._caller.session, result.turns[-1].slot)


def _nobody_to_ask() -> Problem:
    reason = "a person has to release the answers of this pool, and over HTTP nobody can be asked: nothing was called"
    return Problem(Kind.SERVER, reason, status=501, code="review_required")


def last_calls(messages: Sequence[Message]) -> Sequence[ToolCall]:
    """The calls of the last message that made any."""
    return next((message.tool_calls for message in reversed(messages) if message.tool_calls), ())


def _last_result(messages: Sequence[Message]) -> int:
    return max(index for index, message in enumerate(messages) if message.role == "tool")


def _answer_turn(result: RunResult) -> TurnRecord | None:
    return next((turn for turn in reversed(result.turns) if turn.role is Role.WORKER), None)

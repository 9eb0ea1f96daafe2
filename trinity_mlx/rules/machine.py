"""The multi-turn loop as a pure state machine: no input or output, no clock, no randomness (docs/method.md, section 7).

The caller carries out each step and reports back, until the run ends:

    state = begin(policy, transcript, seats)
    step = next_step(state)
        Route   -> read step.read with the router   -> state = routed(state, logits)
        Call    -> call the agent of step.slot      -> state = replied(state, message, finish) or failed(state, reason)
        Await   -> have the tools of step.calls run -> state = answered(state, results)
        AwaitReview -> have a person decide         -> state = reviewed(state, decision)
        Done, Fail                                     the end

A state is frozen plain data, which ``contracts.plain`` writes and reads: a run may wait anywhere, between two requests
or in another process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar

from ..contracts.errors import PolicyInvalid, PoolInvalid, UsageError
from ..contracts.parts import ToolCall, ToolResult
from ..contracts.provider import Finish
from ..contracts.routing import Role, RouteLogits
from ..contracts.transcript import Message, Transcript
from .assignment import Adjustment, Routing, Seats, Situation, assign
from .policy import AcceptReturns, EarlyVerifier, OnRefusal, Policy, Reads, Review
from .roles import call_messages
from .suggestion import Suggestion, parse_suggestion
from .verdict import Verdict, parse_verdict


class FinishStatus(StrEnum):
    """Why a run ended with a message for the user."""

    ACCEPTED = "accepted"
    MAX_TURNS = "max_turns"
    REFUSED = "refused"
    """Whoever was asked for an answer refused; the message is the latest refusal."""


class FailKind(StrEnum):
    """Why a run ended without an answer that counts."""

    VERIFIER_BEFORE_WORKER = "verifier_before_worker"
    NO_ANSWER = "no_answer"
    AGENTS_FAILED = "agents_failed"
    TOOL_ROUNDS = "tool_rounds"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class AgentFailure:
    """The agent in ``slot`` gave no reply in this turn; ``refusal`` is what it said where it refused."""

    slot: int
    reason: str
    refusal: Message | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """Tools that a Worker had called in the middle of its turn: its message with the calls, and their results.

    Without results the calls are still waited for.
    """

    message: Message
    results: tuple[ToolResult, ...] = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        """What it adds to the transcript: the message, and one for each result."""
        return (self.message, *(Message("tool", (result,)) for result in self.results))


@dataclass(frozen=True, slots=True)
class Turn:
    """One reply: who gave it in which role, how that came about, and what was read from it.

    ``verdict`` is None but for a Verifier, ``suggestion`` but for a Thinker who made one. ``exchanges`` are the tools
    that were called before it, ``failures`` those of other agents in this turn, both in order.
    """

    index: int
    routing: Routing
    message: Message
    finish: Finish
    verdict: Verdict | None
    suggestion: Suggestion | None
    exchanges: tuple[Exchange, ...]
    failures: tuple[AgentFailure, ...]

    @property
    def text(self) -> str:
        """The text of the reply."""
        return self.message.text

    @property
    def messages(self) -> tuple[Message, ...]:
        """What the turn adds to the transcript."""
        return (*_traffic(self.exchanges), self.message)

    @property
    def slot(self) -> int:
        """The slot of the agent that spoke."""
        return self.routing.slot

    @property
    def role(self) -> Role:
        """The role in which it spoke."""
        return self.routing.role

    @property
    def raw_role(self) -> Role | None:
        """The role that the router had chosen."""
        return self.routing.raw_role

    @property
    def fallback_from(self) -> int | None:
        """The slot that was to take this turn and failed; None where the first one called spoke."""
        return self.failures[0].slot if self.failures else None


@dataclass(frozen=True, slots=True)
class Route:
    """Read ``read`` with the router, then call :func:`routed`."""

    turn: int
    read: Transcript


@dataclass(frozen=True, slots=True)
class Call:
    """Call the agent in ``slot`` with ``messages``, then call :func:`replied` or :func:`failed`."""

    turn: int
    slot: int
    role: Role
    messages: tuple[Message, ...]
    routing: Routing


@dataclass(frozen=True, slots=True)
class Await:
    """Have the tools of ``calls`` run, which the Worker in ``slot`` asks for by ``message``.

    Then call :func:`answered`.
    """

    turn: int
    slot: int
    calls: tuple[ToolCall, ...]
    message: Message


@dataclass(frozen=True, slots=True)
class Done:
    """The run ended with ``message``, whose text is ``answer``.

    ``verdict`` is the latest one on it, None where nobody checked it. ``source`` is the turn whose message is returned,
    None where it was part of the task, or is a refusal.
    """

    kind: ClassVar[str] = "done"
    status: FinishStatus
    message: Message
    verdict: Verdict | None
    source: Turn | None

    @property
    def answer(self) -> str:
        """The text of the message."""
        return self.message.text


@dataclass(frozen=True, slots=True)
class Fail:
    """The run ended without an answer that counts."""

    kind: ClassVar[str] = "fail"
    cause: FailKind
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decided about an answer; ``reviewer`` is who, ``comment`` why, each empty where nobody said."""

    approved: bool
    reviewer: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class AwaitReview:
    """Have a person decide whether ``ending`` is released; then call :func:`reviewed`."""

    ending: Done


Step = Route | Call | Await | AwaitReview | Done | Fail


@dataclass(frozen=True, slots=True)
class State:
    """A run so far. ``routing``, ``exchanges`` and ``failures`` belong to the turn that is under way.

    ``task`` is what the run was given, ``last_slot`` the agent that spoke last in this conversation before the run.
    """

    policy: Policy
    task: Transcript
    seats: Seats
    last_slot: int | None = None
    turns: tuple[Turn, ...] = ()
    routing: Routing | None = None
    exchanges: tuple[Exchange, ...] = ()
    failures: tuple[AgentFailure, ...] = ()
    end: Done | Fail | None = None
    decision: Decision | None = None

    @property
    def transcript(self) -> Transcript:
        """Everything said so far: the task, and what each turn added, the one under way included."""
        return _continued(self.task, self.turns, _traffic(self.exchanges))

    @property
    def answer_turn(self) -> Turn | None:
        """The latest turn of a Worker."""
        return next((turn for turn in reversed(self.turns) if turn.role is Role.WORKER), None)

    @property
    def answer(self) -> Message | None:
        """The latest Worker answer; before any, under ``input_answers``, the task's last assistant message."""
        if self.answer_turn is not None:
            return self.answer_turn.message
        answers = [message for message in self.task.messages if message.role == "assistant" and not message.tool_calls]
        return answers[-1] if answers and self.policy.input_answers else None

    @property
    def answer_verdict(self) -> Verdict | None:
        """The latest verdict on ``answer``; None where nobody has checked it."""
        since = 0 if self.answer_turn is None else self.answer_turn.index
        verdicts = [turn.verdict for turn in self.turns[since:] if turn.verdict is not None]
        return verdicts[-1] if verdicts else None

    @property
    def revisions(self) -> int:
        """How many Verifier replies did not accept."""
        return sum(turn.verdict is not None and not turn.verdict.accepted for turn in self.turns)


def begin(
    policy: Policy,
    transcript: Transcript,
    seats: Seats,
    last_slot: int | None = None,
    worker_slot: int | None = None,
) -> State:
    """The state before the first turn.

    Args:
        policy: the rules; one that samples carries its seed.
        transcript: the task, with whatever was said before.
        seats: by slot, the roles that the pool's agents may take.
        last_slot: the agent that spoke last in this conversation, for stickiness across runs.
        worker_slot: the agent that goes on as Worker in the first turn, without a route, as where the transcript ends
            with the results of tools that it called; routed as usual where that agent may not be a Worker.

    Raises:
        PoolInvalid: no agent may be a Worker, so there can be no answer.
        PolicyInvalid: the policy names a slot that has no agent, or one to bypass to that may not be a Worker; or it
            samples without a seed.
    """
    if not any(Role.WORKER in roles for roles in seats.values()):
        raise PoolInvalid("no agent of the pool may be a Worker, so nobody can answer: allow that role to one")
    for name, slot in (("default_slot", policy.default_slot), ("bypass_slot", policy.bypass_slot)):
        if slot is not None and slot not in seats:
            raise PolicyInvalid(f"{name} is {slot}, but the pool has agents in slots {sorted(seats)} only")
    if policy.bypass_slot is not None and Role.WORKER not in seats[policy.bypass_slot]:
        raise PolicyInvalid(f"bypass_slot is {policy.bypass_slot}, whose agent may not be a Worker: name another")
    if policy.samples and policy.seed is None:
        raise PolicyInvalid("the policy samples without a seed: set its option seed, so that the run can be repeated")
    return State(policy, transcript, dict(seats), last_slot, routing=_going_on(worker_slot, seats))


def _going_on(slot: int | None, seats: Seats) -> Routing | None:
    """The turn of a Worker that nobody has to choose; None where that agent may not be one."""
    if slot is None or Role.WORKER not in seats.get(slot, ()):
        return None
    return Routing(slot, Role.WORKER, None, None, (Adjustment.GOES_ON,), None)


def next_step(state: State) -> Step:
    """What to do now; the same state always gives the same step."""
    if state.end is not None:
        return state.end
    if state.routing is not None:
        return _waiting(state, state.routing) or _call(state, state.routing)
    ending = _ending(state)
    return Route(len(state.turns), _read(state)) if ending is None else _released(state, ending)


def routed(state: State, logits: RouteLogits) -> State:
    """After the router has read what :class:`Route` named.

    Raises:
        UsageError: no route was due.
        PoolInvalid: an agent sits in a slot that the router does not have.
    """
    if not _route_is_due(state):
        raise _not_due("logits", state)
    turn = len(state.turns)
    situation = Situation(
        seats=state.seats,
        draw_key=f"{_read(state).sha256}:{turn}" if state.policy.samples else "",
        has_answer=state.answer is not None,
        override=_override(state),
        last_slot=state.turns[-1].slot if state.turns else state.last_slot,
        last_role=state.turns[-1].role if state.turns else None,
    )
    routing = assign(state.policy, situation, logits)
    is_early = routing.role is Role.VERIFIER and not situation.has_answer
    if is_early and state.policy.early_verifier is EarlyVerifier.ERROR:
        return replace(state, end=_early_verifier(turn))
    return _seat_taken(replace(state, routing=routing)) if state.failures else replace(state, routing=routing)


def replied(state: State, message: Message, finish: Finish = Finish.STOP) -> State:
    """After the called agent's reply.

    A Worker's calls of tools are waited for, and the turn goes on with their results. A refusal ends the run or is a
    failure, as the policy says.

    Args:
        state: one whose next step is a call.
        message: the whole reply.
        finish: why it ended; a verdict is never read from one that the token limit cut.

    Raises:
        UsageError: no call was due.
    """
    routing = _under_way(state)
    if finish is Finish.REFUSED:
        return _refused(state, routing, message)
    if routing.role is Role.WORKER and message.tool_calls:
        return _calling(state, message)
    policy, role, cut = state.policy, routing.role, finish is Finish.LENGTH
    turn = Turn(
        index=len(state.turns),
        routing=routing,
        message=message,
        finish=finish,
        verdict=parse_verdict(message.text, policy.verdict_words, cut) if role is Role.VERIFIER else None,
        suggestion=parse_suggestion(message.text, policy.worker_synonym) if role is Role.THINKER else None,
        exchanges=state.exchanges,
        failures=state.failures,
    )
    return replace(state, turns=(*state.turns, turn), routing=None, exchanges=(), failures=())


def answered(state: State, results: Sequence[ToolResult]) -> State:
    """After the tools have run: the same agent goes on in the same turn.

    Raises:
        UsageError: no tools were waited for, or ``results`` are not one for each call, by its id.
    """
    step = next_step(state)
    if not isinstance(step, Await):
        raise _not_due("results", state)
    expected, given = Counter(call.id for call in step.calls), Counter(result.call_id for result in results)
    if expected != given:
        missing, odd = list(expected - given), list(given - expected)
        problem = f"none for the call {missing[0][:80]!r}" if missing else f"one for {odd[0][:80]!r}, which is no call"
        raise UsageError(
            f"results of tools came, but {problem}: give one for each of {len(step.calls)} calls, by its id"
        )
    order = {call.id: place for place, call in enumerate(step.calls)}
    exchange = Exchange(step.message, tuple(sorted(results, key=lambda result: order[result.call_id])))
    return replace(state, exchanges=(*state.exchanges[:-1], exchange))


def reviewed(state: State, decision: Decision) -> State:
    """After a person has decided about the answer.

    Raises:
        UsageError: no decision was due.
    """
    if not isinstance(next_step(state), AwaitReview):
        raise _not_due("a decision", state)
    return replace(state, decision=decision)


def failed(state: State, reason: str, refusal: Message | None = None) -> State:
    """After the called agent gave no reply: the next best agent takes the turn, each at most once, or the run fails.

    Raises:
        UsageError: no call was due.
    """
    routing = _under_way(state)
    failures = (*state.failures, AgentFailure(routing.slot, reason, refusal))
    if not state.policy.fallback:
        return _ended(state, failures)
    if routing.choice is None:
        return replace(state, routing=None, failures=failures)
    return _seat_taken(replace(state, failures=failures))


def _seat_taken(state: State) -> State:
    """The turn under way, taken by the best agent that has not failed in it; the end where there is none."""
    routing = _under_way(state)
    tried = {failure.slot for failure in state.failures}
    if routing.slot not in tried:
        return state
    left = [slot for slot in routing.ranking if slot not in tried]
    if not left:
        return _ended(state, state.failures)
    adjustments = tuple(dict.fromkeys((*routing.adjustments, Adjustment.FALLBACK)))
    return replace(state, routing=replace(routing, slot=left[0], adjustments=adjustments))


def _ended(state: State, failures: tuple[AgentFailure, ...]) -> State:
    """The end of a run in which nobody is left for a turn: the last refusal of an answer is one too."""
    refusals = [failure.refusal for failure in failures if failure.refusal is not None]
    is_worker = state.routing is not None and state.routing.role is Role.WORKER
    if refusals and is_worker:
        end: Done | Fail = Done(FinishStatus.REFUSED, refusals[-1], None, None)
    else:
        end = _agents_failed(state, failures)
    return replace(state, routing=None, failures=failures, end=end)


def _refused(state: State, routing: Routing, message: Message) -> State:
    """After a refusal: only a Worker's can be the run's own."""
    if routing.role is Role.WORKER and state.policy.on_refusal is OnRefusal.END:
        return replace(state, routing=None, end=Done(FinishStatus.REFUSED, message, None, None))
    return failed(state, "it refused to answer", message)


def _calling(state: State, message: Message) -> State:
    """After a Worker's calls of tools, of which a turn may have so many rounds."""
    rounds = len(state.exchanges)
    if rounds >= state.policy.max_tool_rounds:
        turn = len(state.turns)
        reason = f"turn {turn}: the Worker asks for tools after {rounds} rounds of them, and the policy allows no more"
        return replace(state, routing=None, end=Fail(FailKind.TOOL_ROUNDS, reason))
    return replace(state, exchanges=(*state.exchanges, Exchange(message)))


def _waiting(state: State, routing: Routing) -> Await | None:
    """The calls whose results are not there yet."""
    if not state.exchanges or state.exchanges[-1].results:
        return None
    message = state.exchanges[-1].message
    return Await(len(state.turns), routing.slot, message.tool_calls, message)


def _route_is_due(state: State) -> bool:
    return state.end is None and state.routing is None and _ending(state) is None


def _under_way(state: State) -> Routing:
    if state.routing is None or _waiting(state, state.routing):
        raise _not_due("a reply", state)
    return state.routing


def _not_due(given: str, state: State) -> UsageError:
    step = type(next_step(state)).__name__
    return UsageError(f"{given} came where the run's next step is {step}: ask next_step what is due")


def _traffic(exchanges: Sequence[Exchange]) -> tuple[Message, ...]:
    return tuple(message for exchange in exchanges for message in exchange.messages)


def _continued(task: Transcript, turns: Sequence[Turn], since: Sequence[Message] = ()) -> Transcript:
    return Transcript((*task.messages, *(message for turn in turns for message in turn.messages), *since))


def _read(state: State) -> Transcript:
    """What the router reads in this turn."""
    if state.policy.reads is Reads.TRANSCRIPT:
        return state.transcript
    return _continued(state.task, [turn for turn in state.turns if turn.role is Role.WORKER])


def _override(state: State) -> tuple[Role, Adjustment] | None:
    """The role that the last turn decided for this one: its suggestion, else the low-margin path."""
    if not state.turns:
        return None
    last = state.turns[-1]
    if last.suggestion is not None and state.policy.respect_suggestions:
        return last.suggestion.role, Adjustment.SUGGESTION
    next_role = last.routing.next_role
    return None if next_role is None else (next_role, Adjustment.LOW_MARGIN_VERIFIER)


def _call(state: State, routing: Routing) -> Call:
    policy = state.policy
    messages = call_messages(
        routing.role,
        state.task.messages,
        [*((turn.role, turn.messages) for turn in state.turns), (routing.role, _traffic(state.exchanges))],
        policy.call_form,
        policy.ask_suggestions,
    )
    return Call(len(state.turns), routing.slot, routing.role, messages, routing)


def _ending(state: State) -> Done | Fail | None:
    """What the turns so far come to; None where another one follows."""
    accepted = _accepted(state)
    is_over = len(state.turns) >= state.policy.max_turns
    return _out_of_turns(state) if accepted is None and is_over else accepted


def _released(state: State, ending: Done | Fail) -> AwaitReview | Done | Fail:
    """``ending``, once a person has let it pass where the policy asks for that."""
    if isinstance(ending, Fail) or state.policy.review is Review.NONE:
        return ending
    if state.decision is None:
        return AwaitReview(ending)
    if state.decision.approved:
        return ending
    who, why = state.decision.reviewer or "the reviewer", state.decision.comment
    return Fail(FailKind.REJECTED, f"{who} did not release the answer" + (f": {why}" if why else ""))


def _accepted(state: State) -> Done | None:
    """The end of a run whose last turn accepted; with no answer to accept, the run goes on."""
    verdict = state.turns[-1].verdict if state.turns else None
    if verdict is None or not verdict.accepted:
        return None
    if state.policy.accept_returns is AcceptReturns.VERIFIER_TEXT:
        return Done(FinishStatus.ACCEPTED, state.turns[-1].message, verdict, state.turns[-1])
    if state.answer is None:
        return None
    return Done(FinishStatus.ACCEPTED, state.answer, verdict, state.answer_turn)


def _out_of_turns(state: State) -> Done | Fail:
    if state.answer is None:
        turns = "1 turn" if len(state.turns) == 1 else f"{len(state.turns)} turns"
        return Fail(FailKind.NO_ANSWER, f"no Worker answered in {turns}: allow more turns")
    return Done(FinishStatus.MAX_TURNS, state.answer, state.answer_verdict, state.answer_turn)


def _early_verifier(turn: int) -> Fail:
    reason = (
        f"turn {turn}: a Verifier was chosen before any Worker answered; "
        "the policy option early_verifier=worker makes such a turn a Worker's"
    )
    return Fail(FailKind.VERIFIER_BEFORE_WORKER, reason)


def _agents_failed(state: State, failures: Sequence[AgentFailure]) -> Fail:
    each = "; ".join(f"slot {failure.slot}: {failure.reason}" for failure in failures)
    advice = "no other agent may take it" if state.policy.fallback else "the policy allows no fallback"
    return Fail(FailKind.AGENTS_FAILED, f"turn {len(state.turns)} got no reply, and {advice} ({each})")

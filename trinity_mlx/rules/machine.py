"""The multi-turn loop as a pure state machine: no I/O, no clock, no randomness (docs/method.md, section 7).

The caller carries out each step and reports back, until the run ends:

    state = begin(policy, transcript, seats)
    step = next_step(state)
        Route   -> read step.read with the router   -> state = routed(state, logits)
        Call    -> call the agent of step.slot      -> state = replied(state, text, cut) or failed(state, reason)
        Finish, Fail                                   the end
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ..contracts.errors import PolicyInvalid, PoolInvalid, UsageError
from ..contracts.routing import Role, RouteLogits
from ..contracts.transcript import Message, Transcript
from .assignment import Adjustment, Routing, Seats, Situation, assign
from .policy import AcceptReturns, EarlyVerifier, Policy, Reads
from .roles import call_messages
from .suggestion import Suggestion, parse_suggestion
from .verdict import Verdict, parse_verdict


class FinishStatus(StrEnum):
    """Why a run ended with an answer."""

    ACCEPTED = "accepted"
    MAX_TURNS = "max_turns"


class FailKind(StrEnum):
    """Why a run ended without an answer that counts."""

    VERIFIER_BEFORE_WORKER = "verifier_before_worker"
    NO_ANSWER = "no_answer"
    AGENTS_FAILED = "agents_failed"


@dataclass(frozen=True, slots=True)
class AgentFailure:
    """The agent in ``slot`` gave no reply in this turn."""

    slot: int
    reason: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One reply: who gave it in which role, how that came about, and what was read from it.

    ``verdict`` is None but for a Verifier, ``suggestion`` but for a Thinker who made one.
    ``failures`` are those of other agents in this turn, in order.
    """

    index: int
    routing: Routing
    text: str
    cut: bool
    verdict: Verdict | None
    suggestion: Suggestion | None
    failures: tuple[AgentFailure, ...]

    @property
    def slot(self) -> int:
        """The slot of the agent that spoke."""
        return self.routing.slot

    @property
    def role(self) -> Role:
        """The role in which it spoke."""
        return self.routing.role

    @property
    def raw_role(self) -> Role:
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
class Finish:
    """The run ended with ``answer``.

    ``verdict`` is the latest one on that answer, None where nobody checked it. ``source`` is the turn whose text is
    returned, None where that text was part of the task.
    """

    status: FinishStatus
    answer: str
    verdict: Verdict | None
    source: Turn | None


@dataclass(frozen=True, slots=True)
class Fail:
    """The run ended without an answer that counts; ``answer`` is the latest Worker's, where there is one."""

    kind: FailKind
    message: str
    answer: str | None


Step = Route | Call | Finish | Fail


@dataclass(frozen=True, slots=True)
class State:
    """A run so far. ``routing`` and ``failures`` belong to the turn that is under way.

    ``task`` is what the run was given, ``last_slot`` the agent that spoke last in this conversation before the run.
    """

    policy: Policy
    task: Transcript
    seats: Seats
    last_slot: int | None = None
    turns: tuple[Turn, ...] = ()
    routing: Routing | None = None
    failures: tuple[AgentFailure, ...] = ()
    end: Fail | None = None

    @property
    def transcript(self) -> Transcript:
        """Everything said so far: the task, and each reply as an assistant message."""
        return _continued(self.task, self.turns)

    @property
    def answer_turn(self) -> Turn | None:
        """The latest turn of a Worker."""
        return next((turn for turn in reversed(self.turns) if turn.role is Role.WORKER), None)

    @property
    def answer(self) -> str | None:
        """The latest Worker answer; before any, under ``input_answers``, the task's last assistant message."""
        if self.answer_turn is not None:
            return self.answer_turn.text
        given = [message.text for message in self.task.messages if message.role == "assistant"]
        return given[-1] if given and self.policy.input_answers else None

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


def begin(policy: Policy, transcript: Transcript, seats: Seats, last_slot: int | None = None) -> State:
    """The state before the first turn.

    Args:
        policy: the rules; one that samples carries its seed.
        transcript: the task, with whatever was said before.
        seats: by slot, the roles that the pool's agents may take.
        last_slot: the agent that spoke last in this conversation, for stickiness across runs.

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
    return State(policy, transcript, dict(seats), last_slot)


def next_step(state: State) -> Step:
    """What to do now; the same state always gives the same step."""
    if state.end is not None:
        return state.end
    if state.routing is not None:
        return _call(state, state.routing)
    accepted = _accepted(state)
    if accepted is not None:
        return accepted
    if len(state.turns) >= state.policy.max_turns:
        return _out_of_turns(state)
    return Route(len(state.turns), _read(state))


def routed(state: State, logits: RouteLogits) -> State:
    """After the router has read what :class:`Route` named.

    Raises:
        UsageError: no route was due.
        PoolInvalid: an agent sits in a slot that the router does not have.
    """
    step = next_step(state)
    if not isinstance(step, Route):
        raise UsageError(f"logits came where the run's next step is {type(step).__name__}: ask next_step what is due")
    situation = Situation(
        seats=state.seats,
        draw_key=f"{step.read.sha256}:{step.turn}",
        has_answer=state.answer is not None,
        override=_override(state),
        last_slot=state.turns[-1].slot if state.turns else state.last_slot,
    )
    routing = assign(state.policy, situation, logits)
    is_early = routing.role is Role.VERIFIER and not situation.has_answer
    if is_early and state.policy.early_verifier is EarlyVerifier.ERROR:
        return replace(state, end=_early_verifier(step.turn))
    return replace(state, routing=routing)


def replied(state: State, text: str, cut: bool = False) -> State:
    """After the called agent's reply.

    Args:
        state: one whose next step is a call.
        text: the whole reply.
        cut: whether the token limit ended it; then it is never read as a verdict.

    Raises:
        UsageError: no call was due.
    """
    routing = _under_way(state)
    policy, role = state.policy, routing.role
    turn = Turn(
        index=len(state.turns),
        routing=routing,
        text=text,
        cut=cut,
        verdict=parse_verdict(text, policy.verdict_words, cut) if role is Role.VERIFIER else None,
        suggestion=parse_suggestion(text, policy.worker_synonym) if role is Role.THINKER else None,
        failures=state.failures,
    )
    return replace(state, turns=(*state.turns, turn), routing=None, failures=())


def failed(state: State, reason: str) -> State:
    """After the called agent gave no reply: the next best agent takes the turn, each at most once, or the run fails.

    Raises:
        UsageError: no call was due.
    """
    routing = _under_way(state)
    failures = (*state.failures, AgentFailure(routing.slot, reason))
    tried = {failure.slot for failure in failures}
    left = [slot for slot in routing.ranking if slot not in tried]
    if not state.policy.fallback or not left:
        end = _agents_failed(state, failures)
        return replace(state, routing=None, failures=failures, end=end)
    adjustments = tuple(dict.fromkeys((*routing.adjustments, Adjustment.FALLBACK)))
    return replace(state, routing=replace(routing, slot=left[0], adjustments=adjustments), failures=failures)


def _under_way(state: State) -> Routing:
    if state.routing is None:
        step = type(next_step(state)).__name__
        raise UsageError(f"a reply came where the run's next step is {step}: ask next_step what is due")
    return state.routing


def _continued(task: Transcript, turns: Sequence[Turn]) -> Transcript:
    return Transcript((*task.messages, *(Message("assistant", turn.text) for turn in turns)))


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
        [(turn.role, turn.text) for turn in state.turns],
        policy.call_form,
        policy.ask_suggestions,
    )
    return Call(len(state.turns), routing.slot, routing.role, messages, routing)


def _accepted(state: State) -> Finish | None:
    """The end of a run whose last turn accepted; with no answer to accept, the run goes on."""
    verdict = state.turns[-1].verdict if state.turns else None
    if verdict is None or not verdict.accepted:
        return None
    if state.policy.accept_returns is AcceptReturns.VERIFIER_TEXT:
        return Finish(FinishStatus.ACCEPTED, state.turns[-1].text, verdict, state.turns[-1])
    if state.answer is None:
        return None
    return Finish(FinishStatus.ACCEPTED, state.answer, verdict, state.answer_turn)


def _out_of_turns(state: State) -> Finish | Fail:
    if state.answer is None:
        count = len(state.turns)
        message = f"no Worker answered in {count} {'turn' if count == 1 else 'turns'}: allow more turns"
        return Fail(FailKind.NO_ANSWER, message, None)
    return Finish(FinishStatus.MAX_TURNS, state.answer, state.answer_verdict, state.answer_turn)


def _early_verifier(turn: int) -> Fail:
    message = (
        f"turn {turn}: a Verifier was chosen before any Worker answered; "
        "the policy option early_verifier=worker makes such a turn a Worker's"
    )
    return Fail(FailKind.VERIFIER_BEFORE_WORKER, message, None)


def _agents_failed(state: State, failures: Sequence[AgentFailure]) -> Fail:
    each = "; ".join(f"slot {failure.slot}: {failure.reason}" for failure in failures)
    advice = "no other agent may take it" if state.policy.fallback else "the policy allows no fallback"
    return Fail(FailKind.AGENTS_FAILED, f"turn {len(state.turns)} got no reply, and {advice} ({each})", state.answer)

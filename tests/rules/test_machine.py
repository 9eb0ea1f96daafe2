"""The loop: its rules one by one, the published loop against a plain retelling, and its laws under random runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import PolicyInvalid, PoolInvalid, UsageError
from trinity_mlx.contracts.parts import Image, Refusal, Text, ToolCall, ToolResult
from trinity_mlx.contracts.plain import from_plain, to_plain
from trinity_mlx.contracts.provider import Finish
from trinity_mlx.contracts.routing import Margins, Role, RouteLogits
from trinity_mlx.contracts.transcript import Message, Transcript
from trinity_mlx.rules import machine
from trinity_mlx.rules.assignment import Adjustment
from trinity_mlx.rules.machine import (
    Await,
    AwaitReview,
    Call,
    Decision,
    Done,
    Fail,
    FailKind,
    FinishStatus,
    Route,
    State,
    Step,
    Turn,
)
from trinity_mlx.rules.policy import Policy
from trinity_mlx.rules.roles import instruction, request
from trinity_mlx.rules.verdict import VerdictStatus

WORKER, THINKER, VERIFIER = Role
ALL = frozenset(Role)
SEATS = dict.fromkeys(range(3), ALL)
TASK = Transcript.of("What is 6 * 7?")
PUBLISHED = Policy.named("published")
SUGGEST = "<suggestion>go on</suggestion><suggested_role>{}</suggested_role>"


def logits(role: Role, slot: int = 0, second: int = 1) -> RouteLogits:
    agent = [0.0] * 3
    agent[second], agent[slot] = 1.0, 2.0
    return RouteLogits(tuple(agent), tuple(2.0 if each is role else 0.0 for each in Role))


@dataclass(frozen=True)
class Fault:
    reason: str = "no answer in time"


@dataclass(frozen=True)
class Cut:
    text: str


Outcome = str | Cut | Fault


def rewritten(state: State) -> State:
    """As another process reads what this one wrote."""
    return from_plain(State, json.loads(json.dumps(to_plain(state))))


def said(text: str) -> Message:
    return Message("assistant", text)


def answered(state: State, outcome: Outcome) -> State:
    if isinstance(outcome, Fault):
        return machine.failed(state, outcome.reason)
    if isinstance(outcome, Cut):
        return machine.replied(state, said(outcome.text), Finish.LENGTH)
    return machine.replied(state, said(outcome))


def play(
    *script: RouteLogits | Role | Outcome,
    policy: Policy | None = None,
    task: Any = TASK,
    seats: dict[int, frozenset[Role]] = SEATS,
    last_slot: int | None = None,
) -> tuple[State, Step]:
    """Feed logits and outcomes to the machine in the order in which it wants them."""
    state = machine.begin(policy or Policy(), Transcript.of(task), seats, last_slot)
    for item in script:
        if isinstance(item, Role):
            item = logits(item)
        state = machine.routed(state, item) if isinstance(item, RouteLogits) else answered(state, item)
    return state, machine.next_step(state)


def test_an_accepted_answer_is_returned_with_its_verdict() -> None:
    state, end = play(WORKER, "42", VERIFIER, "ACCEPT: it holds")
    assert isinstance(end, Done)
    assert (end.status, end.answer, end.source) == (FinishStatus.ACCEPTED, "42", state.turns[0])
    assert end.verdict is not None
    assert end.verdict.diagnosis == "it holds"


def test_the_latest_worker_answer_counts_and_no_other_reply() -> None:
    script = (WORKER, "41", VERIFIER, "REVISE: too small", WORKER, "42", THINKER, "good", VERIFIER, "**ACCEPT**")
    state, end = play(*script)
    assert isinstance(end, Done)
    assert (end.answer, end.source) == ("42", state.turns[2])
    assert state.revisions == 1


def test_the_published_policy_returns_the_verifiers_own_text() -> None:
    state, end = play(WORKER, "42", VERIFIER, "ACCEPT: it holds", policy=PUBLISHED)
    assert isinstance(end, Done)
    assert (end.status, end.answer, end.source) == ("accepted", "ACCEPT: it holds", state.turns[1])


@pytest.mark.parametrize(
    ("reply", "status"),
    [("ACCEPT.", VerdictStatus.UNKNOWN), ("fine", VerdictStatus.UNKNOWN), ("REVISE", VerdictStatus.REVISED)],
)
def test_what_is_not_an_acceptance_sends_the_run_on(reply: str, status: VerdictStatus) -> None:
    state, step = play(WORKER, "42", VERIFIER, reply, policy=PUBLISHED)
    assert step == Route(2, state.transcript)
    assert state.turns[1].verdict is not None
    assert state.turns[1].verdict.status is status
    assert state.revisions == 1


@pytest.mark.parametrize("name", ["default", "published"])
def test_a_cut_acceptance_is_none(name: str) -> None:
    state, step = play(WORKER, "42", VERIFIER, Cut("ACCEPT: it"), policy=Policy.named(name))
    assert isinstance(step, Route)
    assert state.turns[1].verdict is not None
    assert state.turns[1].verdict.status is VerdictStatus.CUT
    assert [turn.finish for turn in state.turns] == [Finish.STOP, Finish.LENGTH]


def test_words_of_other_roles_are_no_verdicts() -> None:
    state, step = play(WORKER, "ACCEPT", THINKER, "ACCEPT")
    assert isinstance(step, Route)
    assert [turn.verdict for turn in state.turns] == [None, None]


def test_at_the_turn_limit_the_latest_worker_answer_is_the_result() -> None:
    script = (WORKER, "41", VERIFIER, "REVISE: small", WORKER, "42", THINKER, "good")
    state, end = play(*script, policy=Policy(max_turns=4))
    assert end == Done(FinishStatus.MAX_TURNS, said("42"), None, state.turns[2])


def test_its_latest_verdict_comes_along() -> None:
    script = (WORKER, "41", VERIFIER, "REVISE: small", VERIFIER, "eh", THINKER, "hm")
    state, end = play(*script, policy=Policy(max_turns=4))
    assert end == Done(FinishStatus.MAX_TURNS, said("41"), state.turns[2].verdict, state.turns[0])


@pytest.mark.parametrize(("turns", "words"), [(1, "1 turn:"), (2, "2 turns:")])
def test_without_a_worker_answer_the_turn_limit_is_a_failure(turns: int, words: str) -> None:
    state, end = play(*(THINKER, "plan") * turns, policy=Policy(max_turns=turns))
    assert isinstance(end, Fail)
    assert (end.cause, state.answer) == (FailKind.NO_ANSWER, None)
    assert words in end.reason


def test_a_first_turn_verifier_is_a_worker_by_default() -> None:
    state, call = play(VERIFIER)
    assert isinstance(call, Call)
    assert (call.role, call.routing.raw_role) == (WORKER, VERIFIER)
    assert call.routing.adjustments == (Adjustment.EARLY_VERIFIER,)
    assert machine.replied(state, said("42")).answer == said("42")


@pytest.mark.parametrize("script", [(VERIFIER,), (THINKER, SUGGEST.format("verifier"), WORKER)])
def test_it_ends_the_published_run_before_any_call(script: tuple[Any, ...]) -> None:
    state, end = play(*script, policy=PUBLISHED)
    assert isinstance(end, Fail)
    assert (end.cause, state.answer) == (FailKind.VERIFIER_BEFORE_WORKER, None)
    assert "early_verifier=worker" in end.reason
    with pytest.raises(UsageError, match="next step is Fail"):
        machine.replied(state, said("42"))


def test_an_acceptance_of_nothing_ends_no_run() -> None:
    allow = Policy(name="bold").with_options(early_verifier="allow")
    state, step = play(VERIFIER, "ACCEPT", policy=allow)
    assert isinstance(step, Route)
    _, end = play(VERIFIER, "ACCEPT", policy=allow.with_options(accept_returns="verifier-text"))
    assert isinstance(end, Done)
    assert state.answer is None


EARLIER = [("user", "What is 6 * 7?"), ("assistant", "41"), ("assistant", "42"), ("user", "Sure?")]
CONVERSATION = [{"role": role, "content": content} for role, content in EARLIER]


def test_an_assistant_message_of_the_task_counts_where_the_policy_says_so() -> None:
    state, call = play(VERIFIER, policy=PUBLISHED, task=CONVERSATION)
    assert isinstance(call, Call)
    assert (call.role, state.answer, state.answer_turn) == (VERIFIER, said("42"), None)
    state, call = play(VERIFIER, task=CONVERSATION)
    assert isinstance(call, Call)
    assert (call.role, state.answer) == (WORKER, None)


def test_an_answer_of_the_task_is_returned_where_nobody_gave_another() -> None:
    policy = PUBLISHED.with_options(max_turns=1, accept_returns="worker-answer")
    state, end = play(VERIFIER, "REVISE", policy=policy, task=CONVERSATION)
    assert end == Done(FinishStatus.MAX_TURNS, said("42"), state.turns[0].verdict, None)
    state, end = play(VERIFIER, "ACCEPT", policy=policy, task=CONVERSATION)
    assert end == Done(FinishStatus.ACCEPTED, said("42"), state.turns[0].verdict, None)
    _, end = play(WORKER, "43", policy=policy, task=CONVERSATION)
    assert isinstance(end, Done)
    assert end.answer == "43"


def test_a_suggestion_changes_exactly_the_next_turn() -> None:
    script = (WORKER, "42", THINKER, SUGGEST.format("verifier"), WORKER, "REVISE", WORKER)
    state, call = play(*script)
    assert [(turn.raw_role, turn.role) for turn in state.turns] == [
        (WORKER, WORKER),
        (THINKER, THINKER),
        (WORKER, VERIFIER),
    ]
    assert state.turns[2].routing.adjustments == (Adjustment.SUGGESTION,)
    assert isinstance(call, Call)
    assert (call.role, call.routing.adjustments) == (WORKER, ())


def test_a_suggestion_of_another_thinker_follows_a_thinker() -> None:
    state, call = play(THINKER, SUGGEST.format("solver"), THINKER)
    assert isinstance(call, Call)
    assert call.role is WORKER
    assert state.turns[0].suggestion is not None
    assert state.turns[0].suggestion.text == "go on"


@pytest.mark.parametrize(
    ("policy", "role"),
    [(Policy(), WORKER), (Policy().with_options(worker_synonym=False), THINKER), (PUBLISHED, THINKER)],
)
def test_worker_is_a_word_for_solver_in_the_default_policy_alone(policy: Policy, role: Role) -> None:
    _, call = play(THINKER, SUGGEST.format("worker"), THINKER, policy=policy)
    assert isinstance(call, Call)
    assert call.role is role


def test_a_suggestion_is_recorded_but_not_followed_where_the_policy_does_not_respect_it() -> None:
    state, call = play(THINKER, SUGGEST.format("solver"), THINKER, policy=Policy(respect_suggestions=False))
    assert isinstance(call, Call)
    assert (call.role, call.routing.adjustments) == (THINKER, ())
    assert state.turns[0].suggestion is not None


def test_only_a_thinker_suggests() -> None:
    state, call = play(WORKER, SUGGEST.format("verifier"), WORKER)
    assert isinstance(call, Call)
    assert call.role is WORKER
    assert state.turns[0].suggestion is None


def test_the_low_margin_path_over_several_turns() -> None:
    bands = Policy().with_options(low_agent_margin=1.5, high_agent_margin=1.5)
    state, call = play(WORKER, "plan", WORKER, "42", THINKER, "hm", WORKER, "ACCEPT", policy=bands)
    assert [turn.role for turn in state.turns] == [THINKER, WORKER, THINKER, VERIFIER]
    assert [turn.raw_role for turn in state.turns] == [WORKER, WORKER, THINKER, WORKER]
    assert isinstance(call, Done)
    forced = state.turns[1].routing.adjustments
    assert forced == (Adjustment.LOW_MARGIN_VERIFIER, Adjustment.EARLY_VERIFIER)


def test_a_suggestion_goes_before_the_low_margin_path() -> None:
    bands = Policy().with_options(low_agent_margin=1.5, high_agent_margin=1.5)
    state, call = play(THINKER, SUGGEST.format("solver"), THINKER, "42", THINKER, policy=bands)
    assert [turn.role for turn in state.turns] == [THINKER, WORKER]
    assert isinstance(call, Call)
    assert call.role is THINKER


def test_a_call_shows_the_conversation_behind_the_roles_instruction() -> None:
    state, call = play(THINKER, "multiply", WORKER)
    assert isinstance(call, Call)
    assert call.messages == (
        Message("system", instruction(WORKER)),
        *TASK.messages,
        Message("assistant", "multiply"),
        Message("user", request(WORKER)),
    )
    assert state.transcript.messages == (*TASK.messages, Message("assistant", "multiply"))


def test_the_published_call_ends_with_the_last_reply() -> None:
    _, call = play(THINKER, "multiply", THINKER, policy=PUBLISHED)
    assert isinstance(call, Call)
    told = Message("system", instruction(THINKER, ask_suggestions=False))
    assert call.messages == (told, *TASK.messages, Message("assistant", "multiply"))


def test_the_router_reads_everything_or_the_workers_alone() -> None:
    script = (THINKER, "plan", WORKER, "41", VERIFIER, "REVISE", WORKER, "42")
    _, whole = play(*script)
    _, answers = play(*script, policy=Policy().with_options(reads="worker-answers"))
    assert isinstance(whole, Route)
    assert isinstance(answers, Route)
    assert [message.content for message in whole.read.messages[1:]] == ["plan", "41", "REVISE", "42"]
    assert [message.content for message in answers.read.messages[1:]] == ["41", "42"]
    assert whole.read.messages[0] == answers.read.messages[0] == TASK.messages[0]
    assert whole.turn == answers.turn == 4


def test_the_next_best_agent_takes_a_failed_turn() -> None:
    state, call = play(logits(WORKER, 2, 0), Fault("down"))
    assert isinstance(call, Call)
    assert (call.turn, call.slot, call.role, call.routing.raw_slot) == (0, 0, WORKER, 2)
    assert call.routing.adjustments == (Adjustment.FALLBACK,)
    state = answered(answered(state, Fault("slow")), "42")
    turn = state.turns[0]
    assert (turn.slot, turn.fallback_from) == (1, 2)
    assert [(failure.slot, failure.reason) for failure in turn.failures] == [(2, "down"), (0, "slow")]
    assert turn.routing.adjustments == (Adjustment.FALLBACK,)
    later = machine.next_step(machine.routed(state, logits(WORKER, 2)))
    assert isinstance(later, Call)
    assert (later.slot, later.routing.adjustments) == (2, ())


def test_without_failure_there_is_no_fallback() -> None:
    state, _ = play(WORKER, "42")
    assert state.turns[0].fallback_from is None
    assert state.turns[0].failures == ()


def test_a_fallback_keeps_to_the_seats() -> None:
    seats = {0: ALL, 1: frozenset({VERIFIER}), 2: frozenset({WORKER})}
    _, call = play(logits(WORKER, 0, 1), Fault(), seats=seats)
    assert isinstance(call, Call)
    assert call.slot == 2


def test_a_bypassed_agent_that_fails_is_replaced_by_the_routers_best() -> None:
    _, call = play(logits(WORKER, 2, 1), Fault(), policy=Policy(bypass_slot=0))
    assert isinstance(call, Call)
    assert (call.slot, call.routing.adjustments) == (2, (Adjustment.BYPASS, Adjustment.FALLBACK))


def test_when_every_agent_has_failed_the_run_fails_with_what_it_has() -> None:
    state, end = play(WORKER, "42", THINKER, Fault("a"), Fault("b"), Fault("c"))
    assert isinstance(end, Fail)
    assert (end.cause, state.answer) == (FailKind.AGENTS_FAILED, said("42"))
    assert "turn 1" in end.reason
    assert "slot 0: a; slot 1: b; slot 2: c" in end.reason


@pytest.mark.parametrize("policy", [PUBLISHED, Policy(fallback=False)])
def test_a_strict_run_fails_with_its_agent(policy: Policy) -> None:
    state, end = play(WORKER, Fault("down"), policy=policy)
    assert isinstance(end, Fail)
    assert end.cause is FailKind.AGENTS_FAILED
    assert "no fallback (slot 0: down)" in end.reason
    assert [failure.slot for failure in state.failures] == [0]


def test_the_agent_of_the_conversation_stays() -> None:
    policy = Policy(sticky_margin=1.5)
    _, call = play(logits(WORKER, 0, 2), policy=policy, last_slot=2)
    assert isinstance(call, Call)
    assert call.slot == 2
    _, call = play(logits(WORKER, 0, 1), Fault(), "42", logits(WORKER, 0, 1), policy=policy)
    assert isinstance(call, Call)
    assert call.slot == 1


FLAT = RouteLogits((0.0,) * 3, (0.0,) * 3)
SAMPLE = {"agent_selection": "sample", "role_selection": "sample", "max_turns": 200, "respect_suggestions": False}


@pytest.mark.parametrize("reads", ["transcript", "worker-answers"])
def test_draws_differ_between_turns_and_repeat_with_the_seed(reads: str) -> None:
    def drawn(seed: int) -> list[tuple[int | None, Role]]:
        policy = Policy().with_options(**SAMPLE, seed=seed, reads=reads)
        state, _ = play(*[FLAT, "same"] * 60, policy=policy)
        return [(turn.routing.raw_slot, turn.raw_role) for turn in state.turns]

    assert len(set(drawn(0))) == 9
    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def test_draws_differ_even_where_the_router_reads_the_same() -> None:
    policy = Policy().with_options(**SAMPLE, seed=0, reads="worker-answers", input_answers=True)
    seats = {0: frozenset({WORKER}), **dict.fromkeys((1, 2), frozenset({THINKER}))}
    state, step = play(*[RouteLogits((0.0,) * 3, (0.0, 99.0, 0.0)), "plan"] * 40, policy=policy, seats=seats)
    assert isinstance(step, Route)
    assert step.read == TASK
    assert {turn.slot for turn in state.turns} == {1, 2}


@pytest.mark.parametrize(
    ("options", "seats", "error", "message"),
    [
        ({}, {}, PoolInvalid, "no agent of the pool may be a Worker"),
        ({}, {0: frozenset({VERIFIER, THINKER})}, PoolInvalid, "no agent of the pool may be a Worker"),
        ({"bypass_slot": 3}, SEATS, PolicyInvalid, r"bypass_slot is 3, but the pool has agents in slots \[0, 1, 2\]"),
        ({"default_slot": 3, "floor_margin": 1}, SEATS, PolicyInvalid, "default_slot is 3"),
        ({"bypass_slot": 1}, {0: ALL, 1: frozenset({VERIFIER})}, PolicyInvalid, "may not be a Worker: name another"),
        ({"role_selection": "sample"}, SEATS, PolicyInvalid, "samples without a seed"),
    ],
)
def test_what_cannot_run_is_refused_at_the_start(
    options: dict[str, Any], seats: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        machine.begin(Policy().with_options(**options), TASK, seats)


def test_a_step_that_is_not_due_is_refused() -> None:
    state = machine.begin(Policy(), TASK, SEATS)
    for wrong in (lambda: machine.replied(state, said("42")), lambda: machine.failed(state, "down")):
        with pytest.raises(UsageError, match="next step is Route"):
            wrong()
    with pytest.raises(UsageError, match="next step is Call"):
        machine.routed(machine.routed(state, logits(WORKER)), logits(WORKER))


def test_seats_that_change_later_do_not_change_the_run() -> None:
    seats = dict(SEATS)
    state = machine.begin(Policy(), TASK, seats)
    seats.clear()
    assert isinstance(machine.next_step(machine.routed(state, logits(WORKER))), Call)


# The published loop, told again in one piece, as an oracle.

TEXTS = st.sampled_from(
    ["ACCEPT", "accept: ok", "ACCEPT.", "**ACCEPT**", "ACCEPTABLE", "REVISE: no", "REJECT", "42", "plan"]
    + [SUGGEST.format(name) for name in ("solver", "verifier", "worker", "Verifier")]
)
FLOATS = st.floats(-3, 3) | st.integers(-1, 1).map(float)
LOGITS = st.builds(
    RouteLogits, st.tuples(*[FLOATS] * 3), st.sampled_from(Role).flatmap(lambda role: st.just(logits(role).role))
) | st.builds(RouteLogits, st.tuples(*[FLOATS] * 3), st.tuples(*[FLOATS] * 3))
TASKS = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.sampled_from(["a", "b", ""])),
    min_size=1,
    max_size=4,
).map(Transcript.of)
TURNS = st.lists(st.tuples(LOGITS, TEXTS), min_size=6, max_size=6)


def published_loop(task: Transcript, turns: Iterable[tuple[RouteLogits, str]], max_turns: int) -> tuple[str, Any, Any]:
    """(how it ended, what was returned, slots and roles that were called)."""
    answer = next((m.content for m in reversed(task.messages) if m.role == "assistant"), None)
    suggested = None
    called: list[tuple[int, int]] = []
    for turn, (read, text) in enumerate(turns):
        if turn >= max_turns:
            break
        slot, role = read.agent.index(max(read.agent)), read.role.index(max(read.role))
        if suggested is not None:
            role, suggested = suggested, None
        if role == 2 and answer is None:
            return "verifier_before_worker", None, called
        called.append((slot, role))
        if role == 2 and text in ("ACCEPT", "accept: ok"):
            return "accepted", text, called
        if role == 0:
            answer = text
        if role == 1 and text.startswith("<") and "worker" not in text:
            suggested = 0 if "solver" in text else 2
    return ("max_turns" if answer is not None else "no_answer"), answer, called


@given(TASKS, TURNS, st.integers(1, 5))
def test_the_published_policy_is_the_published_loop(
    task: Transcript, turns: list[tuple[RouteLogits, str]], max_turns: int
) -> None:
    state = machine.begin(PUBLISHED.with_options(max_turns=max_turns), task, SEATS)
    called = []
    for read, text in turns:
        if not isinstance(machine.next_step(state), Route):
            break
        state = machine.routed(state, read)
        step = machine.next_step(state)
        if isinstance(step, Call):
            called.append((step.slot, int(step.role)))
            state = machine.replied(state, said(text))
    end = machine.next_step(state)
    ended, answer, expected = published_loop(task, turns, max_turns)
    assert called == expected
    assert isinstance(end, Done | Fail)
    assert (end.status if isinstance(end, Done) else end.cause) == ended
    answered_with = end.answer if isinstance(end, Done) else state.answer and state.answer.text
    assert answered_with == answer


# Laws under random logits, replies, failures, seats and options.

OUTCOMES = TEXTS | TEXTS.map(Cut) | st.just(Fault())
POLICIES = st.fixed_dictionaries(
    {
        "max_turns": st.integers(1, 6),
        "reads": st.sampled_from(["transcript", "worker-answers"]),
        "agent_selection": st.sampled_from(["argmax", "sample"]),
        "role_selection": st.sampled_from(["argmax", "sample"]),
        "seed": st.integers(0, 3),
        "early_verifier": st.sampled_from(["worker", "worker", "error", "allow"]),
        "accept_returns": st.sampled_from(["worker-answer", "worker-answer", "verifier-text"]),
        "verdict_words": st.sampled_from(["strict", "tolerant"]),
        "respect_suggestions": st.booleans(),
        "worker_synonym": st.booleans(),
        "input_answers": st.booleans(),
        "call_form": st.sampled_from(["dialogue", "plain"]),
        "fallback": st.booleans(),
        "sticky_margin": st.sampled_from([None, 1.0]),
        "bypass_slot": st.sampled_from([None, None, 0]),
        "high_agent_margin": st.just(2.0),
        "low_agent_margin": st.sampled_from([0.0, 1.0]),
    }
).map(lambda options: Policy().with_options(**options))
SEATINGS = st.dictionaries(st.integers(0, 2), st.frozensets(st.sampled_from(Role), min_size=1)).map(
    lambda seats: seats | {0: seats.get(0, ALL) | {WORKER}}
)


def drive(state: State, next_logits: Callable[[], RouteLogits], next_outcome: Callable[[], Outcome]) -> list[State]:
    """Every state of one run, the last being its end."""
    states = [state]
    while True:
        step = machine.next_step(states[-1])
        if isinstance(step, Route):
            states.append(machine.routed(states[-1], next_logits()))
        elif isinstance(step, Call):
            states.append(answered(states[-1], next_outcome()))
        else:
            return states


@st.composite
def runs(draw: st.DrawFn) -> list[State]:
    policy, task, seats = draw(POLICIES), draw(TASKS), draw(SEATINGS)
    state = machine.begin(policy, task, seats, draw(st.none() | st.integers(0, 2)))
    return drive(state, lambda: draw(LOGITS), lambda: draw(OUTCOMES))


@given(runs())
def test_every_run_ends_within_its_turns(states: list[State]) -> None:
    policy, last = states[-1].policy, states[-1]
    assert isinstance(machine.next_step(last), Done | Fail)
    assert len(last.turns) <= policy.max_turns
    assert len(states) <= 1 + (policy.max_turns + 1) * (1 + len(last.seats))


def worker_texts(turns: Sequence[Turn]) -> list[str]:
    return [turn.text for turn in turns if turn.role is WORKER]


@given(runs())
def test_the_result_is_the_accepted_or_the_latest_worker_answer(states: list[State]) -> None:
    last = states[-1]
    end, policy = machine.next_step(last), last.policy
    assert isinstance(end, Done | Fail)
    given = [m.content for m in last.task.messages if m.role == "assistant"] if policy.input_answers else []
    answers = given + worker_texts(last.turns)
    accepts = [turn.verdict is not None and turn.verdict.accepted for turn in last.turns]
    if isinstance(end, Done) and end.status is FinishStatus.ACCEPTED:
        assert accepts[-1]
        wanted = last.turns[-1].text if policy.accept_returns == "verifier-text" else answers[-1]
        assert end.answer == wanted
        assert end.verdict == last.turns[-1].verdict
    elif isinstance(end, Done):
        assert (end.answer, len(last.turns)) == (answers[-1], policy.max_turns)
        assert end.verdict is None or not end.verdict.accepted
    else:
        assert (last.answer.text if last.answer else None) == (answers[-1] if answers else None)
        assert (end.cause is FailKind.NO_ANSWER) == (len(last.turns) == policy.max_turns)
    assert end == machine.next_step(last)


@given(runs())
def test_an_acceptance_ends_the_run_at_once(states: list[State]) -> None:
    last = states[-1]
    for turn in last.turns[:-1]:
        assert turn.verdict is None or not turn.verdict.accepted or last.policy.early_verifier == "allow"


@given(runs())
def test_no_verifier_speaks_before_an_answer_unless_allowed(states: list[State]) -> None:
    last = states[-1]
    if last.policy.early_verifier == "allow":
        return
    has_answer = last.policy.input_answers and any(m.role == "assistant" for m in last.task.messages)
    for turn in last.turns:
        assert turn.role is not VERIFIER or has_answer
        has_answer = has_answer or turn.role is WORKER


@given(runs())
def test_no_agent_acts_outside_its_seat_or_twice_in_a_turn(states: list[State]) -> None:
    for state in states:
        step = machine.next_step(state)
        if isinstance(step, Call):
            assert step.role in state.seats[step.slot]
            assert step.slot not in {failure.slot for failure in state.failures}
        assert len({failure.slot for failure in state.failures}) == len(state.failures)
        assert state.policy.fallback or len(state.failures) <= 1


@given(runs())
def test_an_override_touches_the_turn_after_it_and_no_other(states: list[State]) -> None:
    last = states[-1]
    for before, turn in zip((None, *last.turns), last.turns, strict=False):
        by_suggestion = Adjustment.SUGGESTION in turn.routing.adjustments
        assert not by_suggestion or (before is not None and before.suggestion is not None)
        assert not by_suggestion or last.policy.respect_suggestions
        forced = Adjustment.LOW_MARGIN_VERIFIER in turn.routing.adjustments
        assert not forced or (before is not None and before.routing.next_role is VERIFIER)
        if not turn.routing.adjustments:
            assert (turn.role, turn.slot) == (turn.raw_role, turn.routing.raw_slot)


@given(POLICIES, st.sampled_from(["solver", "verifier"]), LOGITS)
def test_a_suggestion_does_nothing_to_the_turn_after_the_next(policy: Policy, name: str, read: RouteLogits) -> None:
    assume(len(set(read.role)) > 1)  # roles taken in turn do depend on the turn before
    policy = policy.with_options(agent_selection="argmax", role_selection="argmax", max_turns=9)
    routings = []
    for thought in ("plan", SUGGEST.format(name)):
        state, _ = play(WORKER, "42", THINKER, thought, WORKER, "REVISE", read, policy=policy)
        routings.append(state.routing)
    assert routings[0] == routings[1]
    assert routings[0] is not None


@given(runs())
def test_every_call_shows_the_whole_transcript_and_stores_nothing_of_its_own(states: list[State]) -> None:
    for state in states:
        step = machine.next_step(state)
        replies = [Message("assistant", turn.text) for turn in state.turns]
        assert state.transcript.messages == (*state.task.messages, *replies)
        if isinstance(step, Call):
            assert [message for message in step.messages if message.role == "assistant"] == [
                message for message in state.transcript.messages if message.role == "assistant"
            ]


# Tools, refusals, and a Worker that goes on


def calling(*names: str, text: str = "") -> Message:
    parts = [*([Text(text)] if text else []), *(ToolCall(f"id-{name}", name, "{}") for name in names)]
    return Message("assistant", tuple(parts))


def result_of(name: str, text: str = "done", is_error: bool = False) -> ToolResult:
    return ToolResult.of_text(f"id-{name}", text, is_error)


def waiting(*names: str, policy: Policy | None = None) -> State:
    """A run whose first Worker has called tools."""
    state, _ = play(logits(WORKER, 2), policy=policy)
    return machine.replied(state, calling(*names, text="let me see"), Finish.TOOL_CALLS)


def test_a_workers_calls_are_awaited_and_its_turn_goes_on_with_the_results() -> None:
    state = waiting("add", "mul")
    step = machine.next_step(state)
    assert isinstance(step, Await)
    assert (step.turn, step.slot, [call.name for call in step.calls]) == (0, 2, ["add", "mul"])
    state = machine.answered(state, [result_of("mul"), result_of("add", "3")])
    step = machine.next_step(state)
    assert isinstance(step, Call)
    assert (step.turn, step.slot, step.role) == (0, 2, WORKER)
    assert [message.role for message in step.messages] == ["system", "user", "assistant", "tool", "tool"]
    assert [part.text for message in step.messages[-2:] for part in message.parts] == ["3", "done"]  # type: ignore[union-attr]
    state = machine.replied(state, said("42"))
    assert [message.role for message in state.transcript.messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert state.turns[0].messages == state.transcript.messages[1:]
    assert (state.exchanges, state.turns[0].exchanges[0].message.text) == ((), "let me see")
    assert state.answer == said("42")


def test_others_are_told_of_tools_as_text_by_its_beginning_and_its_end() -> None:
    state = waiting("read")
    state = machine.answered(state, [result_of("read", "a" * 2000 + "b" * 2000, is_error=True)])
    state = machine.routed(machine.replied(state, said("42")), logits(VERIFIER))
    step = machine.next_step(state)
    assert isinstance(step, Call)
    assert [message.role for message in step.messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert all(isinstance(message.content, str) for message in step.messages)
    assert step.messages[2].text == "let me see\n\n[calls the tool read with {}]"
    told = step.messages[3].text
    assert told.startswith("[the tool read failed with]\naaa")
    assert told.endswith("b" * 500)
    assert "[2000 characters left out]" in told


def test_an_image_in_a_result_is_told_as_one() -> None:
    picture = Image.of_data(b"png", "image/png")
    task = Transcript((*TASK.messages, calling("look"), Message("tool", (ToolResult("id-look", (picture,)),))))
    _, call = play(THINKER, task=task)
    assert isinstance(call, Call)
    assert call.messages[3].text == "[the tool look gave and 1 image]\n"


@pytest.mark.parametrize(
    ("results", "fragment"),
    [
        ([], "none for the call 'id-add'"),
        ([result_of("add"), result_of("add")], "one for 'id-add', which is no call"),
        ([result_of("mul")], "none for the call 'id-add'"),
    ],
)
def test_results_are_one_for_each_call(results: list[ToolResult], fragment: str) -> None:
    with pytest.raises(UsageError, match=fragment):
        machine.answered(waiting("add"), results)


def test_nothing_else_is_taken_while_tools_run() -> None:
    state = waiting("add")
    for wrong in (
        lambda: machine.replied(state, said("42")),
        lambda: machine.failed(state, "down"),
        lambda: machine.routed(state, logits(WORKER)),
    ):
        with pytest.raises(UsageError, match="next step is Await"):
            wrong()
    with pytest.raises(UsageError, match="next step is Call"):
        machine.answered(machine.answered(state, [result_of("add")]), [])


def test_rounds_of_tools_have_an_end() -> None:
    state = machine.answered(waiting("add", policy=Policy(max_tool_rounds=1)), [result_of("add")])
    end = machine.next_step(machine.replied(state, calling("add"), Finish.TOOL_CALLS))
    assert isinstance(end, Fail)
    assert end.cause is FailKind.TOOL_ROUNDS
    assert "turn 0: the Worker asks for tools after 1 rounds" in end.reason


def test_a_fallback_goes_on_with_the_tools_that_have_run() -> None:
    state = machine.failed(machine.answered(waiting("add"), [result_of("add")]), "down")
    step = machine.next_step(state)
    assert isinstance(step, Call)
    assert (step.slot, step.messages[-1].role) == (1, "tool")


def refusing(text: str = "I will not") -> Message:
    return Message("assistant", (Refusal(text),))


def test_a_refusal_leaves_the_turn_to_the_next_and_ends_the_run_with_the_last_one() -> None:
    state, _ = play(logits(WORKER, 2, 0))
    state = machine.replied(state, refusing("not me"), Finish.REFUSED)
    step = machine.next_step(state)
    assert isinstance(step, Call)
    assert step.slot == 0
    state = machine.replied(state, refusing("nor me"), Finish.REFUSED)
    end = machine.next_step(machine.failed(state, "down"))
    assert isinstance(end, Done)
    assert (end.status, end.message, end.answer) == (FinishStatus.REFUSED, refusing("nor me"), "")


def test_the_published_policy_ends_with_a_refusal_and_a_verifiers_is_none_of_the_runs() -> None:
    state, _ = play(WORKER, policy=PUBLISHED)
    end = machine.next_step(machine.replied(state, refusing(), Finish.REFUSED))
    assert isinstance(end, Done)
    assert end.status is FinishStatus.REFUSED
    state, _ = play(WORKER, "42", VERIFIER, policy=PUBLISHED)
    end = machine.next_step(machine.replied(state, refusing(), Finish.REFUSED))
    assert isinstance(end, Fail)
    assert end.cause is FailKind.AGENTS_FAILED


def test_a_worker_goes_on_without_a_route() -> None:
    task = Transcript((*TASK.messages, calling("add"), Message("tool", (result_of("add"),))))
    state = machine.begin(Policy(), task, SEATS, worker_slot=1)
    step = machine.next_step(state)
    assert isinstance(step, Call)
    assert (step.slot, step.role, step.routing.adjustments) == (1, WORKER, (Adjustment.GOES_ON,))
    assert (step.routing.raw_role, step.routing.margins, step.messages[-1].role) == (None, Margins(None, None), "tool")
    state = machine.failed(state, "down")
    assert isinstance(machine.next_step(state), Route)
    state = machine.routed(state, logits(WORKER, 1, 2))
    step = machine.next_step(state)
    assert isinstance(step, Call)
    assert (step.slot, step.routing.adjustments) == (2, (Adjustment.FALLBACK,))
    state = machine.routed(machine.failed(machine.begin(Policy(), task, SEATS, worker_slot=1), "a"), logits(WORKER, 0))
    assert state.routing is not None
    assert (state.routing.slot, state.routing.adjustments) == (0, ())
    strict = machine.begin(Policy(fallback=False), task, SEATS, worker_slot=1)
    assert isinstance(machine.next_step(machine.failed(strict, "down")), Fail)


@pytest.mark.parametrize("seats", [{0: ALL}, {0: ALL, 1: frozenset({THINKER})}])
def test_one_that_may_not_go_on_is_routed(seats: dict[int, frozenset[Role]]) -> None:
    assert isinstance(machine.next_step(machine.begin(Policy(), TASK, seats, worker_slot=1)), Route)


def test_nobody_is_left_after_the_one_that_went_on() -> None:
    state = machine.failed(machine.begin(Policy(), TASK, {0: ALL}, worker_slot=0), "down")
    end = machine.next_step(machine.routed(state, logits(WORKER)))
    assert isinstance(end, Fail)
    assert "slot 0: down" in end.reason


MESSAGES_OF_AGENTS = st.sampled_from(
    [
        (said("42"), Finish.STOP),
        (said("ACCEPT: fine"), Finish.STOP),
        (said("REVISE"), Finish.LENGTH),
        (said(SUGGEST.format("verifier")), Finish.STOP),
        (calling("add"), Finish.TOOL_CALLS),
        (calling("add", "mul", text="both"), Finish.TOOL_CALLS),
        (refusing(), Finish.REFUSED),
        None,
    ]
)


@given(
    st.sampled_from(
        [Policy(), PUBLISHED, Policy(max_tool_rounds=1), Policy(agent_selection="sample", seed=2**60, max_turns=3)]
    ),
    st.lists(st.tuples(LOGITS, MESSAGES_OF_AGENTS), min_size=1, max_size=12),
    st.none() | st.integers(0, 2),
)
def test_a_state_that_was_written_goes_on_as_the_run_would_have(
    policy: Policy, script: list[tuple[RouteLogits, tuple[Message, Finish] | None]], worker_slot: int | None
) -> None:
    """Written and read back at every step; the run is the same, step by step."""
    state = machine.begin(policy, TASK, SEATS, worker_slot=worker_slot)
    for read, outcome in script:
        restored = rewritten(state)
        assert restored == state
        assert machine.next_step(restored) == machine.next_step(state)
        match machine.next_step(restored):
            case Route():
                state = machine.routed(restored, read)
            case Call():
                state = machine.replied(restored, *outcome) if outcome else machine.failed(restored, "down")
            case Await() as step:
                state = machine.answered(restored, [ToolResult.of_text(call.id, "done") for call in step.calls])
            case _:
                break
    assert rewritten(state) == state


# Answers that a person releases


ASKING = Policy(review="ask", max_turns=2)


@pytest.mark.parametrize("verdict", ["ACCEPT", "REVISE"])
def test_an_answer_waits_for_a_decision(verdict: str) -> None:
    state, step = play(WORKER, "42", VERIFIER, verdict, policy=ASKING)
    _, ending = play(WORKER, "42", VERIFIER, verdict, policy=Policy(max_turns=2))
    assert isinstance(step, AwaitReview)
    assert step.ending == ending
    assert machine.next_step(machine.reviewed(state, Decision(True, "Ada"))) == ending
    end = machine.next_step(machine.reviewed(state, Decision(False, "Ada", "too short")))
    assert end == Fail(FailKind.REJECTED, "Ada did not release the answer: too short")
    end = machine.next_step(machine.reviewed(state, Decision(False)))
    assert end == Fail(FailKind.REJECTED, "the reviewer did not release the answer")
    written = machine.reviewed(state, Decision(False, "Ada"))
    assert rewritten(written) == written


def test_nothing_but_an_answer_is_asked_about() -> None:
    state, end = play(*(THINKER, "plan") * 2, policy=ASKING)
    assert isinstance(end, Fail)
    with pytest.raises(UsageError, match="next step is Fail"):
        machine.reviewed(state, Decision(True))
    state, _ = play(WORKER, "42", VERIFIER, "ACCEPT", policy=ASKING)
    with pytest.raises(UsageError, match="next step is AwaitReview"):
        machine.routed(state, logits(WORKER))

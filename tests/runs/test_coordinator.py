"""Runs of a coordinator: how they end, what they tell, and what they keep apart."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trinity_mlx
from trinity_mlx.contracts.canonical import canonical_sha256
from trinity_mlx.contracts.errors import (
    ContextLengthError,
    FolderUnavailable,
    LiveCallRefused,
    PolicyInvalid,
    PoolInvalid,
    SecretUnavailable,
    TranscriptError,
    UsageError,
)
from trinity_mlx.contracts.events import (
    Event,
    Fallback,
    ProviderCalled,
    ProviderFailed,
    Routed,
    RunCompleted,
    RunFailed,
    RunStarted,
    TurnCompleted,
)
from trinity_mlx.contracts.pool import Agent, Pool, Price
from trinity_mlx.contracts.provider import Finish, OnText, Reply, Request, Usage
from trinity_mlx.contracts.routing import Guard, Role, RouteLogits, Window
from trinity_mlx.contracts.transcript import Message, Transcript
from trinity_mlx.routing.router import Router
from trinity_mlx.rules.choice import choose
from trinity_mlx.rules.policy import Policy
from trinity_mlx.rules.verdict import VerdictStatus
from trinity_mlx.runs.coordinator import Coordinator, TraceFile
from trinity_mlx.runs.result import RunStatus
from trinity_mlx.tracing.reader import Run, read_trace
from trinity_mlx.tracing.verify import verify_run

from ..run_cases import (
    TEAM,
    FixedRouter,
    Listener,
    T,
    V,
    W,
    carry_out,
    coordinator_of,
    install_odd_providers,
    odd,
    pool_of,
    scripted,
    toward,
)

SAMPLE = "First think about how to solve it: what is the sum of all multiples of 3 below 100?"
SOLVER = scripted(0, {"text": "42", "usage": {"input_tokens": 100, "output_tokens": 10}}, price=Price(3.0, 15.0))
CHECKER = scripted(1, {"text": "ACCEPT: six sevens", "usage": {"input_tokens": 200, "output_tokens": 20}})
BROKEN = {"error": "unavailable", "text": "overloaded"}


@pytest.fixture(scope="module")
def nano() -> Iterator[Router]:
    with trinity_mlx.load_router("nano", profile="cpu") as router:
        yield router


@pytest.fixture
def odd_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_odd_providers(tmp_path, monkeypatch)


def only_run(path: Path) -> Run:
    """The one run in a trace, which must hold up."""
    (run,) = read_trace(path).runs
    assert verify_run(run).problems == ()
    return run


# How a run ends


def test_the_demonstration_is_solved_in_three_turns(nano: Router) -> None:
    with Coordinator(nano) as coordinator:
        result = coordinator.run(SAMPLE)
    assert result.status is RunStatus.ACCEPTED
    assert [turn.role for turn in result.turns] == [T, W, V]
    assert result.answer == "The answer is 1683: 1 + 2 + ... + 33 = 561, and three times that is 1683."
    assert "1683" in result.answer
    assert sum(range(3, 100, 3)) == 1683
    assert (result.exit_code, result.error, result.cost_usd) == (0, None, 0.0)


def test_an_accepted_answer_comes_with_its_verdict_usage_and_cost() -> None:
    result = carry_out(SOLVER, CHECKER)
    assert (result.status, result.answer, result.exit_code) == (RunStatus.ACCEPTED, "42", 0)
    assert result.verdict is not None
    assert (result.verdict.status, result.verdict.diagnosis) == (VerdictStatus.ACCEPTED, "six sevens")
    assert result.usage == Usage(300, 30)
    assert result.cost_usd == pytest.approx((100 * 3 + 10 * 15) / 1e6)
    assert [turn.cost_usd for turn in result.turns] == [pytest.approx(0.00045), 0.0]


def test_turns_that_run_out_leave_the_latest_answer_unaccepted() -> None:
    checker = scripted(1, "REVISE: show your work")
    result = carry_out(SOLVER, checker, policy=Policy(max_turns=4))
    assert (result.status, result.answer, len(result.turns)) == (RunStatus.MAX_TURNS, "42", 4)
    assert result.exit_code == 0
    assert result.verdict is not None
    assert result.verdict.diagnosis == "show your work"


def test_a_run_without_any_worker_says_so() -> None:
    result = carry_out(scripted(0, "a plan"), router=FixedRouter(toward(0, T)), policy=Policy(max_turns=1))
    assert (result.status, result.answer, result.exit_code) == (RunStatus.FAILED, None, 1)
    assert result.error is not None
    assert result.error.type == "no_answer"


def test_the_published_policy_fails_on_a_verifier_first_before_anybody_is_called() -> None:
    heard = Listener()
    result = carry_out(SOLVER, router=FixedRouter(toward(0, V)), policy="published", run={"sinks": [heard]})
    assert (result.status, result.exit_code, result.turns) == (RunStatus.FAILED, 1, ())
    assert result.error is not None
    assert result.error.type == "verifier_before_worker"
    assert heard.kinds == ["run_started", "turn_started", "run_failed"]


def test_a_provider_that_fails_in_the_end_gives_exit_code_5_and_the_best_answer_so_far() -> None:
    result = carry_out(scripted(0, {"turn": 0, "text": "42"}, BROKEN), router=FixedRouter(toward(0, W)))
    assert (result.status, result.exit_code, result.answer) == (RunStatus.FAILED, 5, "42")
    assert result.error is not None
    assert result.error.type == "ProviderUnavailable"
    assert "overloaded" in result.error.message


def test_a_transcript_that_outgrows_the_router_keeps_the_best_answer() -> None:
    router = FixedRouter(toward(0, W), ContextLengthError("the transcript has 9 tokens"))
    result = carry_out(SOLVER, router=router)
    assert (result.status, result.exit_code, result.answer) == (RunStatus.FAILED, 2, "42")
    assert result.error is not None
    assert (result.error.type, result.error.message) == ("ContextLengthError", "the transcript has 9 tokens")


def test_an_answer_may_stand_in_the_task() -> None:
    task = [
        {"role": "user", "content": "6 * 7?"},
        {"role": "assistant", "content": "41"},
        {"role": "user", "content": "Sure?"},
    ]
    router = FixedRouter(toward(1, V))
    result = carry_out(SOLVER, CHECKER, router=router, policy="published", task=task)
    assert (result.status, result.answer) == (RunStatus.ACCEPTED, "ACCEPT: six sevens")


# Who takes a turn


def test_fallback_is_recorded_everywhere() -> None:
    heard = Listener()
    broken = scripted(0, BROKEN)
    others = [scripted(slot, {"role": "Verifier", "text": "ACCEPT"}, "42") for slot in (1, 2)]
    result = carry_out(broken, *others, run={"sinks": [heard]})
    first = result.turns[0]
    assert (first.slot, first.fallback_from, first.agent) == (1, 0, "agent-1")
    assert "fallback" in first.adjustments
    assert [(event.from_slot, event.to_slot) for event in heard.of(Fallback)] == [(0, 1)]
    assert [event.retry_in_s is None for event in heard.of(ProviderFailed)] == [False, False, True]
    assert [event.attempt for event in heard.of(ProviderCalled)] == [1, 2, 3, 1, 1]


def test_every_agent_is_tried_at_most_once_in_a_turn() -> None:
    result = carry_out(*(scripted(slot, {"error": "refused", "text": f"no {slot}"}) for slot in range(3)))
    assert result.error is not None
    assert result.error.type == "ProviderRefused"
    for slot in range(3):
        assert result.error.message.count(f"no {slot}") == 1


def test_strict_fails_instead_of_asking_another() -> None:
    result = carry_out(scripted(0, BROKEN), CHECKER, policy=Policy(fallback=False))
    assert (result.status, result.exit_code, result.turns) == (RunStatus.FAILED, 5, ())


def test_an_agent_that_keeps_failing_is_left_in_peace_and_the_trace_holds_up(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    agents = scripted(0, BROKEN), scripted(1, {"role": "Verifier", "text": "ACCEPT"}, "42")
    with coordinator_of(*agents, trace=TraceFile(path)) as coordinator:
        results = [coordinator.run("6 * 7?") for _ in range(4)]
    assert {result.status for result in results} == {RunStatus.ACCEPTED}
    runs = read_trace(path).runs
    assert [verify_run(run).problems for run in runs] == [()] * 4
    failures = [sum(line.event == "provider_failed" for line in run.lines) for run in runs]
    assert failures == [3, 2, 0, 0]  # the fifth failure in a row opens the breaker


def test_a_conversation_keeps_its_agent_across_runs() -> None:
    router = FixedRouter(toward(1, W, lead=1.0), toward(1, V))
    agents = [scripted(slot, {"role": "Verifier", "text": "ACCEPT"}, f"from {slot}") for slot in range(2)]
    sticky = Policy(sticky_margin=2.0)

    def first_slot(policy: Policy, last_slot: int | None) -> int:
        return carry_out(*agents, router=router, policy=policy, run={"last_slot": last_slot}).turns[0].slot

    assert first_slot(sticky, 0) == 0
    assert first_slot(sticky, None) == 1
    assert first_slot(sticky, 5) == 1
    assert first_slot(Policy(), 0) == 1
    assert first_slot(Policy(sticky_margin=0.5), 0) == 1


def test_a_bypass_gives_every_turn_to_one_agent_and_the_role_to_the_router() -> None:
    heard = Listener()
    agents = [scripted(slot, {"role": "Verifier", "text": "ACCEPT"}, "42") for slot in range(3)]
    result = carry_out(*agents, policy=Policy(bypass_slot=2), run={"sinks": [heard]})
    assert [(turn.slot, turn.role) for turn in result.turns] == [(2, W), (2, V)]
    assert {event.raw_slot for event in heard.of(Routed)} == {None}


def test_the_margin_floor_hands_unclear_turns_to_the_default() -> None:
    agents = [scripted(slot, {"role": "Verifier", "text": "ACCEPT"}, "42") for slot in range(3)]
    router = FixedRouter(toward(0, W, lead=0.05), toward(1, V))
    result = carry_out(*agents, router=router, policy=Policy(floor_margin=1.0, default_slot=2))
    assert [turn.slot for turn in result.turns] == [2, 1]
    assert result.turns[0].adjustments == ("margin_floor",)


def far(slot: int, role: Role) -> RouteLogits:
    return replace(toward(slot, role), distance=4.0)


@pytest.mark.parametrize(
    ("policy", "slots", "adjustments"),
    [
        (Policy(), [2, 1], ("distance_floor",)),
        (Policy(own_guard=False), [0, 1], ()),
        (Policy(default_slot=1, floor_margin=0.1), [0, 1], ()),
        (Policy(default_slot=1, floor_distance=3.9), [1, 1], ("distance_floor",)),
    ],
)
def test_the_routers_own_guard_stands_where_the_policy_has_none(
    policy: Policy, slots: list[int], adjustments: tuple[str, ...]
) -> None:
    heard = Listener()
    agents = [scripted(slot, {"role": "Verifier", "text": "ACCEPT"}, "42") for slot in range(3)]
    router = FixedRouter(far(0, W), toward(1, V), guard=Guard(2, distance=3.0))
    result = carry_out(*agents, router=router, policy=policy, run={"sinks": [heard]})
    assert [turn.slot for turn in result.turns] == slots
    assert result.turns[0].adjustments == adjustments
    assert heard.of(Routed)[0].logits == far(0, W), "a trace holds what the guard judged by"
    assert heard.of(RunStarted)[0].policy["default_slot"] == (2 if policy == Policy() else policy.default_slot)


def test_a_guard_whose_slot_has_no_agent_is_not_heard() -> None:
    agents = [scripted(slot, {"role": "Verifier", "text": "ACCEPT"}, "42") for slot in range(2)]
    router = FixedRouter(far(0, W), toward(1, V), guard=Guard(6, distance=3.0))
    assert [turn.slot for turn in carry_out(*agents, router=router).turns] == [0, 1]


def test_roles_are_kept() -> None:
    worker = scripted(0, "42", roles=frozenset({W}))
    checker = scripted(1, "ACCEPT", roles=frozenset({V}))
    router = FixedRouter(toward(1, W), toward(0, V))
    result = carry_out(worker, checker, router=router)
    assert [(turn.slot, turn.role) for turn in result.turns] == [(0, W), (1, V)]
    assert [turn.adjustments for turn in result.turns] == [("slot_without_role",)] * 2


FLOATS = st.floats(-50, 50, width=32)


@given(st.lists(FLOATS, min_size=7, max_size=7), st.lists(FLOATS, min_size=3, max_size=3), st.integers(1, 7))
def test_a_smaller_pool_masks_the_missing_slots_and_never_wraps(
    agent: list[float], role: list[float], size: int
) -> None:
    logits = RouteLogits(tuple(agent), tuple(role))
    agents = [scripted(slot, f"from {slot}") for slot in range(size)]
    result = carry_out(*agents, router=FixedRouter(logits), policy=Policy(max_turns=1, early_verifier="allow"))
    best = max(range(size), key=lambda slot: agent[slot])
    heard = result.turns[0].slot if result.turns else None
    assert heard == best
    raw = max(range(7), key=lambda slot: agent[slot])
    assert ("slot_without_agent" in result.turns[0].adjustments) == (raw >= size)


def test_nano_with_two_agents_never_calls_a_third(nano: Router) -> None:
    agents = [scripted(slot, {"role": "Verifier", "text": "ACCEPT"}, "42") for slot in range(2)]
    tasks = ["Write a haiku about rain.", "Plan a holiday.", "Plot this table.", "Who was Ada Lovelace?"]
    with Coordinator(nano, pool_of(*agents)) as coordinator:
        results = [coordinator.run(task) for task in tasks]
    assert {turn.slot for result in results for turn in result.turns} <= {0, 1}
    assert any("slot_without_agent" in turn.adjustments for result in results for turn in result.turns)


class Counts:
    """How often functions are called while it is entered."""

    def __init__(self, *functions: Any) -> None:
        self._names = {function.__code__: function.__name__ for function in functions}
        self.calls: Counter[str] = Counter()

    def __enter__(self) -> Counts:
        sys.setprofile(self._seen)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.setprofile(None)

    def _seen(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code in self._names:
            self.calls[self._names[frame.f_code]] += 1


def test_a_turn_is_decided_once_and_read_once() -> None:
    reads = FixedRouter.read
    with coordinator_of(SOLVER, CHECKER) as coordinator, Counts(choose, reads, canonical_sha256) as counts:
        result = coordinator.run("6 * 7?")
    turns = len(result.turns)
    assert (counts.calls["choose"], counts.calls["read"]) == (turns, turns)
    # a hash of the task, one after each turn, one by the router in each turn, and one for each route
    assert counts.calls["canonical_sha256"] <= 1 + 3 * turns


# What is refused before anything begins


def test_a_larger_pool_than_the_head_is_refused() -> None:
    with pytest.raises(PoolInvalid, match="has 3 agents, and fixed chooses among 2 slots"):
        coordinator_of(*(scripted(slot, "42") for slot in range(3)), router=FixedRouter(toward(0, W), slots=2))


@pytest.mark.parametrize(
    "agents",
    [
        (),
        (scripted(1, "42"),),
        (scripted(1, "42"), scripted(0, "42")),
        (scripted(0, "42", name="a"), scripted(1, "42", name="a")),
        (scripted(0, "42", roles=frozenset({V, T})),),
    ],
)
def test_a_pool_made_by_hand_is_held_to_the_same_rules(agents: tuple[Agent, ...]) -> None:
    with pytest.raises(PoolInvalid, match="pool 'team'"):
        Coordinator(TEAM, Pool("team", agents))  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["bypass_slot", "default_slot"])
def test_a_policy_cannot_name_a_slot_without_an_agent(option: str) -> None:
    options: dict[str, Any] = {option: 5} | ({"floor_margin": 1.0} if option == "default_slot" else {})
    with pytest.raises(PolicyInvalid, match=f"{option} is 5"):
        carry_out(SOLVER, policy=Policy(**options))


def test_a_live_provider_of_another_package_needs_permission_and_an_offline_one_does_not(odd_installed: None) -> None:
    with pytest.raises(LiveCallRefused, match=r"agent-0 \(odd\).*live=True"):
        carry_out(odd(0, "uncounted"))
    result = carry_out(odd(0, "uncounted", extra={"live": False}))
    assert result.answer is not None
    assert result.answer.startswith("ACCEPT: ")


def test_a_missing_key_is_named_by_its_reference() -> None:
    with pytest.raises(SecretUnavailable, match="agent 'agent-0' of pool 'team': the environment has no NO_SUCH_KEY"):
        coordinator_of(odd(0, "streams", api_key="env:NO_SUCH_KEY"), live=True)


@pytest.mark.parametrize("task", [[], [{"role": "wizard", "content": "x"}], 5, "\ud800"])
def test_a_task_that_is_no_transcript_is_refused(task: Any) -> None:
    with pytest.raises(TranscriptError):
        carry_out(SOLVER, task=task)


def test_an_unwritable_trace_is_refused_before_anybody_is_called(tmp_path: Path) -> None:
    heard = Listener()
    with pytest.raises(FolderUnavailable, match="no-such-folder"):
        carry_out(SOLVER, trace=TraceFile(tmp_path / "no-such-folder" / "t.jsonl"), run={"sinks": [heard]})
    assert heard.events == []


# What is told


def test_the_trace_tells_what_the_result_holds(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    agents = scripted(0, {"turn": 0, **BROKEN}, "42"), scripted(1, {"turn": 1, "text": "REVISE: why?"}, "ACCEPT: ok")
    router = FixedRouter(toward(0, W), toward(1, V), toward(0, W), toward(1, V))
    result = carry_out(*agents, router=router, trace=TraceFile(path, content=True), run={"run_id": "mine"})
    run = only_run(path)
    assert run.run_id == result.run_id == "mine"
    routed = [line.record for line in run.lines if line.event == "routed"]
    told = [line.record for line in run.lines if line.event == "turn_completed"]
    held = [turn.to_dict() for turn in result.turns]
    for name in ("turn", "slot", "agent", "model", "role", "usage", "cost_usd", "finish", "fallback_from"):
        assert [line[name] for line in told] == [turn[name] for turn in held], name
    assert [line["reply"]["text"] for line in told] == [turn["text"] for turn in held]
    assert [line["raw_role"] for line in routed] == [turn["raw_role"] for turn in held]
    assert [line["margins"] for line in routed] == [turn["margins"] for turn in held]
    assert [line["verdict"] for line in told] == [turn["verdict"] and turn["verdict"]["status"] for turn in held]
    end = run.lines[-1].record
    assert (end["status"], end["answer"]["text"], end["turns"]) == (result.status, result.answer, len(held))
    assert end["usage"] == result.to_dict()["usage"]


def test_without_content_a_trace_holds_no_text(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    carry_out(SOLVER, scripted(1, "ACCEPT: unmistakable"), task="an unmistakable task", trace=TraceFile(path))
    assert "unmistakable" not in path.read_text()
    only_run(path)


def test_a_sampling_policy_gets_a_seed_that_repeats_the_run(tmp_path: Path) -> None:
    agents = [scripted(slot, {"role": "Verifier", "text": "ACCEPT"}, f"from {slot}") for slot in range(7)]
    router = FixedRouter(RouteLogits((0.0,) * 7, (0.0,) * 3))
    policy = Policy(agent_selection="sample", role_selection="sample", max_turns=5)
    heard = Listener()
    first = carry_out(*agents, router=router, policy=policy, run={"sinks": [heard]})
    (started,) = heard.of(RunStarted)
    again = carry_out(*agents, router=router, policy=policy.with_options(seed=started.policy["seed"]))
    assert isinstance(started.policy["seed"], int)
    assert [(turn.slot, turn.role) for turn in again.turns] == [(turn.slot, turn.role) for turn in first.turns]


def test_text_streams_with_its_turn() -> None:
    pieces: list[tuple[int, str]] = []
    carry_out(scripted(0, "forty two it is"), CHECKER, run={"on_text": lambda turn, text: pieces.append((turn, text))})
    for turn, whole in enumerate(["forty two it is", "ACCEPT: six sevens"]):
        assert "".join(text for number, text in pieces if number == turn) == whole
    assert len(pieces) > 4


class Raises:
    """A sink that cannot take one kind of event."""

    def __init__(self, kind: str, error: Exception) -> None:
        self.kind, self.error = kind, error

    def emit(self, event: Event) -> None:
        if event.kind == self.kind:
            raise self.error

    def close(self) -> None:
        """Nothing to close."""


KINDS = ["run_started", "turn_started", "routed", "provider_called", "turn_completed", "run_completed"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [True, False])
def test_what_a_sink_raises_ends_the_run_and_the_others_are_told_once(kind: str, first: bool, tmp_path: Path) -> None:
    path, heard = tmp_path / "trace.jsonl", Listener()
    broken = Raises(kind, ZeroDivisionError("odd"))
    sinks = [broken, heard] if first else [heard, broken]
    with pytest.raises(ZeroDivisionError, match="odd"):
        carry_out(SOLVER, CHECKER, trace=TraceFile(path), run={"sinks": sinks})
    ends = [name for name in heard.kinds if name in ("run_completed", "run_failed")]
    assert ends == ["run_completed" if kind == "run_completed" else "run_failed"]
    end = only_run(path).end
    assert end is not None
    assert end.event == ends[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sink_that_fails_as_ours_do_fails_the_run_with_its_code(kind: str) -> None:
    heard = Listener()
    result = carry_out(SOLVER, CHECKER, run={"sinks": [Raises(kind, FolderUnavailable("disk full")), heard]})
    assert (result.status, result.exit_code) == (RunStatus.FAILED, 3)
    assert result.error is not None
    assert result.error.message == "disk full"
    assert result.answer == ("42" if kind in ("turn_completed", "run_completed") else None)


class Unhurried(Listener):
    """A sink that takes each event some turns of the loop after it was told, and may refuse one."""

    def __init__(self, refused: str = "") -> None:
        super().__init__()
        self.taken: list[str] = []
        self.refused = refused

    async def _take(self, event: Event) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        if event.kind == self.refused:
            raise FolderUnavailable("disk full")
        self.taken.append(event.kind)

    def emit(self, event: Event) -> Any:
        super().emit(event)
        return self._take(event)


def test_nobody_outside_is_asked_before_every_sink_has_what_led_to_it() -> None:
    sink = Unhurried()
    asked: list[bool] = []

    class Looks:
        is_live = False

        async def reply(self, request: Request, on_text: OnText | None = None) -> Reply:
            asked.append(sink.taken == sink.kinds)
            text = "ACCEPT: it is" if request.role is V else "42"
            return Reply(Message("assistant", text), Finish.STOP, "m", Usage(1, 1))

        async def close(self) -> None:
            """Nothing is held."""

    result = carry_out(SOLVER, CHECKER, providers=lambda agent, key: Looks(), run={"sinks": [sink]})
    assert (result.status, asked) == (RunStatus.ACCEPTED, [True, True])
    assert sink.taken == sink.kinds


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_that_a_sink_refuses_later_fails_the_run_and_each_other_one_is_taken(kind: str) -> None:
    sink = Unhurried(refused=kind)
    result = carry_out(SOLVER, CHECKER, run={"sinks": [sink]})
    assert (result.status, result.error.message if result.error else None) == (RunStatus.FAILED, "disk full")
    assert sink.taken == [each for each in sink.kinds if each != kind]
    is_early = kind in ("run_started", "turn_started", "routed", "provider_called")
    assert sink.kinds.count("provider_called") == (1 if is_early else 2)


def test_what_a_listener_to_the_text_raises_ends_the_run(tmp_path: Path) -> None:
    def on_text(turn: int, text: str) -> None:
        raise ZeroDivisionError("odd")

    path = tmp_path / "trace.jsonl"
    with pytest.raises(ZeroDivisionError, match="odd"):
        carry_out(SOLVER, trace=TraceFile(path), run={"on_text": on_text})
    end = only_run(path).end
    assert end is not None
    assert (end.event, end["error"]) == ("run_failed", "ZeroDivisionError")


# Providers that misbehave


@pytest.mark.usefixtures("odd_installed")
@pytest.mark.parametrize(
    ("behaviour", "error", "fragment"),
    [
        ("times_out", "ProviderTimeout", "its provider raised TimeoutError: the socket is slow"),
        ("loses_the_line", "ProviderUnreachable", "its provider raised ConnectionResetError: reset by peer"),
        ("leaks_key", "ReplyInvalid", "its provider raised ValueError"),
        ("echoes_key", "ProviderRefused", "Incorrect API key provided"),
        ("returns_nothing", "ReplyInvalid", "returned no reply"),
        ("returns_blanks", "ReplyInvalid", "returned no reply"),
        ("returns_half_a_character", "ReplyInvalid", "lone surrogate at character 5"),
        ("no_such_method", "ReplyInvalid", "its provider raised AttributeError"),
    ],
)
def test_a_provider_of_any_make_fails_as_a_provider_and_without_its_key(
    behaviour: str, error: str, fragment: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, secret, heard = tmp_path / "trace.jsonl", "odd-key-3141592653", Listener()
    result = carry_out(
        odd(0, behaviour, api_key="env:ODD_KEY"),
        environment={"ODD_KEY": f" {secret}\n"},
        live=True,
        trace=TraceFile(path, content=True),
        run={"sinks": [heard]},
    )
    assert (result.status, result.exit_code) == (RunStatus.FAILED, 5)
    assert result.error is not None
    assert result.error.type == error
    assert fragment in result.error.message
    assert heard.of(ProviderFailed)[-1].error == error
    for place in (str(result), str(result.to_dict()), str(heard.events), path.read_text(), *capfd.readouterr()):
        assert secret not in place
    only_run(path)


@pytest.mark.usefixtures("odd_installed")
def test_one_that_misbehaves_leaves_its_turn_to_the_next() -> None:
    result = carry_out(odd(0, "leaks_key"), scripted(1, {"role": "Verifier", "text": "ACCEPT"}, "42"), live=True)
    assert (result.status, result.turns[0].fallback_from) == (RunStatus.ACCEPTED, 0)


@pytest.mark.usefixtures("odd_installed")
def test_one_that_does_not_close_harms_nobody() -> None:
    result = carry_out(scripted(0, "42"), odd(1, "closes_badly"), live=True)
    assert result.status is RunStatus.ACCEPTED
    assert (result.cost_usd, result.turns[1].usage) == (None, None)


# Loops and threads


def test_run_may_be_called_again_also_after_close() -> None:
    coordinator = coordinator_of(SOLVER, CHECKER)
    ids = {coordinator.run("6 * 7?").run_id for _ in range(2)}
    coordinator.close()
    coordinator.close()
    ids.add(coordinator.run("6 * 7?").run_id)
    coordinator.close()
    assert len(ids) == 3


def test_run_inside_an_event_loop_says_what_to_do() -> None:
    async def main() -> None:
        async with coordinator_of(SOLVER, CHECKER) as coordinator:
            with pytest.raises(UsageError, match=r"await arun\(...\)"):
                coordinator.run("6 * 7?")
            assert (await coordinator.arun("6 * 7?")).answer == "42"

    asyncio.run(main())


def answering(slot: int) -> Agent:
    """Answers with what was asked, and accepts the answer alone that belongs to it."""
    numbers = range(40)
    work = [{"contains": f"number {n}!", "role": "Worker", "text": f"answer {n}.", "delay_s": 0.01} for n in numbers]
    checks = [{"contains": f"answer {n}.", "role": "Verifier", "text": f"ACCEPT: {n}"} for n in numbers]
    return scripted(slot, *work, *checks)


def test_runs_at_once_are_not_mixed_up(tmp_path: Path) -> None:
    path, numbers = tmp_path / "trace.jsonl", list(range(40))

    async def main() -> list[tuple[str | None, str | None, str]]:
        async with coordinator_of(answering(0), answering(1), trace=TraceFile(path)) as coordinator:
            results = await asyncio.gather(*(coordinator.arun(f"number {n}!", run_id=f"run-{n}") for n in numbers))
        return [(result.answer, result.verdict and result.verdict.diagnosis, result.run_id) for result in results]

    assert asyncio.run(main()) == [(f"answer {n}.", str(n), f"run-{n}") for n in numbers]
    runs = read_trace(path).runs
    assert {run.run_id for run in runs} == {f"run-{n}" for n in numbers}
    assert all(run.end and not verify_run(run).problems for run in runs)


def test_threads_take_turns() -> None:
    answers: dict[int, str | None] = {}
    with coordinator_of(answering(0), answering(1)) as coordinator:

        def ask(number: int) -> None:
            answers[number] = coordinator.run(f"number {number}!").answer

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert answers == {number: f"answer {number}." for number in range(12)}


def test_closing_waits_for_the_run_under_way() -> None:
    coordinator = coordinator_of(scripted(0, {"text": "42", "delay_s": 0.3}), CHECKER)
    begun, results = threading.Event(), []

    class Begins(Listener):
        def emit(self, event: Event) -> None:
            begun.set()

    thread = threading.Thread(target=lambda: results.append(coordinator.run("6 * 7?", sinks=[Begins()])))
    thread.start()
    assert begun.wait(60)
    coordinator.close()
    thread.join(120)
    assert [result.status for result in results] == [RunStatus.ACCEPTED]


def test_one_coordinator_serves_several_loops() -> None:
    coordinator = coordinator_of(SOLVER, CHECKER)

    async def main() -> str | None:
        async with coordinator:
            return (await coordinator.arun("6 * 7?")).answer

    assert [asyncio.run(main()) for _ in range(3)] == ["42"] * 3


def test_an_agents_failures_are_remembered_from_loop_to_loop() -> None:
    coordinator = coordinator_of(scripted(0, BROKEN))

    async def attempts() -> int:
        heard = Listener()
        async with coordinator:
            await coordinator.arun("6 * 7?", sinks=[heard])
        return len(heard.of(ProviderCalled))

    assert [asyncio.run(attempts()) for _ in range(3)] == [3, 2, 0]


def test_a_run_that_is_cancelled_twice_has_told_every_sink_its_end() -> None:
    class Stuck(Listener):
        def emit(self, event: Event) -> Any:
            super().emit(event)
            return asyncio.get_running_loop().create_future()

    sinks = [Stuck(), Stuck()]

    async def main() -> None:
        with coordinator_of(SOLVER, CHECKER) as coordinator:
            run = asyncio.create_task(coordinator.arun("What is 6 * 7?", sinks=sinks))
            for _ in range(2):
                while not sinks[0].kinds:
                    await asyncio.sleep(0)
                run.cancel()
                for _ in range(5):
                    await asyncio.sleep(0)
            while not run.done():
                run.cancel()
                await asyncio.sleep(0)
            assert run.cancelled()

    asyncio.run(main())
    assert [sink.kinds.count("run_failed") for sink in sinks] == [1, 1]
    assert all(sink.kinds[-1] == "run_failed" for sink in sinks)


def test_cancelling_ends_the_trace_and_is_raised(tmp_path: Path) -> None:
    path, heard = tmp_path / "trace.jsonl", Listener()

    async def main() -> None:
        agents = SOLVER, scripted(1, {"text": "ACCEPT", "delay_s": 3600})
        async with coordinator_of(*agents, trace=TraceFile(path)) as coordinator:
            task = asyncio.create_task(coordinator.arun("6 * 7?", sinks=[heard]))
            while len(heard.of(ProviderCalled)) < 2:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert heard.kinds[-2:] == ["provider_failed", "run_failed"]
    end = only_run(path).end
    assert end is not None
    assert (end["status"], end["error"], end["turns"]) == ("failed", "Cancelled", 1)
    (failure,) = heard.of(RunFailed)
    assert failure.answer.text == "42"


# What is given back


def test_a_result_in_json_has_every_documented_field() -> None:
    document = carry_out(SOLVER, CHECKER).to_dict()
    assert {"run_id", "status", "answer", "verdict", "turns", "usage", "cost_usd", "error"} <= set(document)
    turn = {"turn", "slot", "agent", "model", "role", "raw_role", "margins", "text", "usage", "latency_ms"}
    assert turn | {"fallback_from"} <= set(document["turns"][0])
    assert document["verdict"] == {"status": "accepted", "diagnosis": "six sevens"}
    assert document["usage"] == {"input_tokens": 300, "output_tokens": 30}
    assert (document["status"], document["error"]) == ("accepted", None)


def test_the_library_offers_what_a_run_needs() -> None:
    names = {"Coordinator", "Limits", "Policy", "RunResult", "RunStatus", "TraceFile", "find_pool", "read_authority"}
    assert names | {"Agent", "Pool", "Price", "Authority", "RetryPolicy"} <= set(trinity_mlx.__all__)
    assert trinity_mlx.Coordinator is Coordinator


def test_completed_turns_carry_the_hash_of_what_was_said() -> None:
    heard = Listener()
    result = carry_out(SOLVER, CHECKER, run={"sinks": [heard]})
    said = [Message("user", "What is 6 * 7?"), *(Message("assistant", turn.text) for turn in result.turns)]
    hashes = [event.transcript_hash for event in heard.of(TurnCompleted)]
    assert hashes == [Transcript(tuple(said[: count + 2])).sha256 for count in range(2)]
    (completed,) = heard.of(RunCompleted)
    assert completed.answer.text == result.answer
    assert {Role.WORKER, Role.VERIFIER} == {event.role for event in heard.of(TurnCompleted)}


def test_a_pools_window_is_what_its_router_reads_through(nano: Router) -> None:
    pool = Pool("windowed", (SOLVER, CHECKER), Window(head=8, tail=24, step=8))
    with Coordinator(nano, pool) as coordinator:
        result = coordinator.run("Go on, and on, and on. " * 2000)
    assert result.turns
    with pytest.raises(PoolInvalid, match="reading window, which FixedRouter does not have"):
        Coordinator(TEAM, pool)

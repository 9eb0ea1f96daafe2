"""Tools in whole runs: called by the run, or by whoever asked for it; and who may be asked to call them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from trinity_mlx.contracts.errors import PoolInvalid, UsageError
from trinity_mlx.contracts.events import Routed, RunPaused, RunStarted, TextDelta, ToolsAnswered, ToolsCalled
from trinity_mlx.contracts.parts import Image, Refusal, Text, ToolCall, ToolResult
from trinity_mlx.contracts.pool import Agent, Price
from trinity_mlx.contracts.provider import Finish, OnText, Reply, Request, ResponseFormat, Sampling, Tool, Usage
from trinity_mlx.contracts.routing import Role
from trinity_mlx.contracts.transcript import Message, Transcript
from trinity_mlx.rules.budgets import Limits
from trinity_mlx.rules.policy import Policy
from trinity_mlx.runs.coordinator import Coordinator, TraceFile
from trinity_mlx.runs.result import RunResult, RunStatus
from trinity_mlx.runs.state import RunState
from trinity_mlx.runs.tools import ToolBox
from trinity_mlx.tracing.reader import read_trace
from trinity_mlx.tracing.timeline import timeline
from trinity_mlx.tracing.verify import verify

from ..run_cases import AT_ONCE, Listener, pool_of
from ..virtual_time import run_in_virtual_time

TASK = "What is 6 * 7?"
ADD = Tool("add", "Adds.", {"type": "object"})
USAGE = Usage(10, 2)


def calls(*pairs: tuple[str, str], text: str = "") -> Message:
    named = (ToolCall(f"call-{index}", name, arguments) for index, (name, arguments) in enumerate(pairs))
    return Message("assistant", (*([Text(text)] if text else []), *named))


class Team:
    """Providers whose Workers follow a script of messages, and whose Verifiers accept; and a router for them."""

    is_live = False

    def __init__(self, *script: Message | str) -> None:
        self.script = [Message("assistant", each) if isinstance(each, str) else each for each in script]
        self.requests: list[Request] = []
        self.reads: list[Transcript] = []
        self.identity = None

    def make(self, agent: Agent, key: str | None) -> Team:
        return self

    async def reply(self, request: Request, on_text: OnText | None = None) -> Reply:
        self.requests.append(request)
        if request.role is not Role.WORKER:
            return Reply(Message("assistant", "ACCEPT: fine"), Finish.STOP, "model", USAGE)
        message = self.script.pop(0)
        if on_text:
            on_text(message.text)
        refused = any(isinstance(part, Refusal) for part in message.parts)
        finish = Finish.REFUSED if refused else Finish.TOOL_CALLS if message.tool_calls else Finish.STOP
        return Reply(message, finish, "model", USAGE)

    async def close(self) -> None:
        """Nothing is held."""

    async def read(self, transcript: Transcript) -> Any:
        self.reads.append(transcript)
        last = transcript.messages[-1]
        role = Role.VERIFIER if last.role == "assistant" else Role.WORKER
        from ..run_cases import FixedRead, toward

        return FixedRead(toward(0, role), 1, transcript.sha256)


def agents(count: int = 1, accepts: tuple[str, ...] = ("tools",), **fields: Any) -> list[Agent]:
    return [
        Agent(slot, f"agent-{slot}", "team", accepts=accepts, price=Price(1.0, 1.0), **fields) for slot in range(count)
    ]


def coordinator_of(team: Team, pool: Sequence[Agent] | None = None, **options: Any) -> Coordinator:
    return Coordinator(team, pool_of(*(pool or agents())), retry=AT_ONCE, providers=team.make, **options)


def carry_out(team: Team, *, task: Any = TASK, pool: Sequence[Agent] | None = None, **options: Any) -> RunResult:
    at_once = {name: options.pop(name) for name in ("trace",) if name in options}
    with coordinator_of(team, pool, **at_once) as coordinator:
        return coordinator.run(task, **options)


def add(a: int, b: int = 40) -> int:
    """Adds two numbers."""
    return a + b


async def shout(text: str) -> str:
    """Says it loudly."""
    await asyncio.sleep(0)
    return text.upper()


def results_in(request: Request) -> list[ToolResult]:
    return [part for message in request.messages for part in message.parts if isinstance(part, ToolResult)]


# Called by the run


def test_a_run_calls_its_tools_and_goes_on_with_what_they_give(tmp_path: Path) -> None:
    path, heard = tmp_path / "trace.jsonl", Listener()
    team = Team(calls(("add", '{"a": 2}'), ("shout", '{"text": "hey"}'), text="let me see"), "42 it is")
    trace = TraceFile(path, content=True)
    result = carry_out(team, tools={"add": add, "shout": shout}, trace=trace, sinks=[heard])
    assert (result.status, result.answer, result.turns[0].tools) == (RunStatus.ACCEPTED, "42 it is", ("add", "shout"))
    assert [each.text for each in results_in(team.requests[1])] == ["42", "HEY"]
    assert (result.usage, result.turns[0].usage, result.turns[0].cost_usd) == (Usage(30, 6), Usage(20, 4), 24e-6)
    (called,), (answered,) = heard.of(ToolsCalled), heard.of(ToolsAnswered)
    assert (called.calls, called.usage, answered.errors, len(answered.results)) == (2, USAGE, 0, 2)
    (report,) = verify(read_trace(path))
    assert (report.problems, report.transcripts) == ((), 7)
    texts = [entry.text for entry in timeline(read_trace(path).runs[0])]
    assert any("agent-0 (model) asks for 2 tools" in text for text in texts)


def test_only_a_worker_is_given_tools_and_forms() -> None:
    team = Team("42")
    form, sampling = ResponseFormat({"type": "object"}), Sampling(temperature=0.5)
    carry_out(team, tools=[ADD], response_format=form, sampling=sampling)
    worker, verifier = team.requests
    assert (worker.tools, worker.response_format, worker.sampling) == ((ADD,), form, sampling)
    assert (verifier.role, verifier.tools, verifier.response_format, verifier.sampling) == (
        Role.VERIFIER,
        (),
        None,
        Sampling(),
    )


def test_a_tool_is_told_by_its_signature_and_its_docstring() -> None:
    definition, _ = ToolBox({"add": add, "shout": shout}).definitions
    assert (definition.name, definition.description) == ("add", "Adds two numbers.")
    assert definition.parameters["required"] == ["a"]
    assert set(definition.parameters["properties"]) == {"a", "b"}


def fails() -> None:
    raise ZeroDivisionError("by hand")


async def never() -> None:
    await asyncio.sleep(3600)


ODD_CALLS = [
    ("nothing", "{}", "there is no such tool: the tools are add, fails, never, long, odd, parts, data"),
    ("add", "{", "ValueError: the arguments are not JSON"),
    ("add", "[1]", "ValueError: the arguments are JSON, but not an object"),
    ("add", '{"a": "many"}', "ValidationError"),
    ("add", '{"a": 1, "c": 2}', "ValidationError"),
    ("add", "[" * 100_000, "ValueError: the arguments are not JSON"),
    ("fails", "", "ZeroDivisionError: by hand"),
    ("never", "{}", "TimeoutError: the tool gave no result within 0.05 s"),
]


def box(time_s: float = 60.0) -> ToolBox:
    tools: dict[str, Any] = {
        "add": add,
        "fails": fails,
        "never": never,
        "long": lambda: "a" * 500 + "b" * 500,
        "odd": lambda: "half \ud800",
        "parts": lambda: [Text("seen"), Image.of_data(b"png", "image/png")],
        "data": lambda: {"answer": [42, None]},
    }
    return ToolBox(tools, time_s=time_s, longest_result=100)


@pytest.mark.parametrize(("name", "arguments", "fragment"), ODD_CALLS)
def test_what_goes_wrong_in_a_tool_is_its_result(name: str, arguments: str, fragment: str) -> None:
    result = asyncio.run(box(0.05 if name == "never" else 60.0).call(ToolCall("id", name, arguments)))
    assert (result.call_id, result.is_error) == ("id", True)
    assert fragment[:50] in result.text
    assert len(result.text) <= 160


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("long", "a" * 50 + "\n[900 characters left out]\n" + "b" * 50),
        ("odd", "half \\ud800"),
        ("parts", "seen"),
        ("data", '{"answer": [42, null]}'),
    ],
)
def test_a_result_is_what_a_model_can_read(name: str, text: str) -> None:
    result = asyncio.run(box().call(ToolCall("id", name, "{}")))
    assert (result.text, result.is_error) == (text, False)
    assert len(result.parts) == (2 if name == "parts" else 1)


def test_a_signature_that_cannot_be_told_is_named() -> None:
    def odd(thing: Agent.__init__) -> None:  # type: ignore[valid-type]
        """No schema."""

    with pytest.raises(UsageError, match="tool 'odd': its signature cannot be told to a model"):
        ToolBox({"odd": odd})


def test_a_limit_of_the_run_ends_its_tools_too() -> None:
    async def carried_out(team: Team, **options: Any) -> RunResult:
        async with coordinator_of(team) as coordinator:
            return await coordinator.arun(TASK, tools={"never": never}, **options)

    for options in ({"limits": Limits(wall_time_s=0.2)}, {"deadline_s": 0.2}):
        team = Team(calls(("never", "{}")))
        result = run_in_virtual_time(carried_out(team, **options))
        assert (result.status, len(team.requests)) == (RunStatus.BUDGET_EXCEEDED, 1)


def test_rounds_of_tools_end_with_a_word(tmp_path: Path) -> None:
    team = Team(*[calls(("add", '{"a": 1}'))] * 3)
    trace = TraceFile(tmp_path / "trace.jsonl")
    result = carry_out(team, tools={"add": add}, policy=Policy(max_tool_rounds=2), trace=trace)
    assert result.error is not None
    assert (result.status, result.error.type) == (RunStatus.FAILED, "tool_rounds")
    assert [report.problems for report in verify(read_trace(tmp_path / "trace.jsonl"))] == [()]


# Called by somebody else


def test_a_run_without_callables_waits_and_goes_on_in_another_process(tmp_path: Path) -> None:
    path, heard = tmp_path / "trace.jsonl", Listener()
    team = Team(calls(("add", '{"a": 2}'), text="let me see"), calls(("add", "{}")), "42")
    trace = TraceFile(path, content=True)
    with coordinator_of(team, trace=trace) as coordinator:
        paused = coordinator.run(TASK, tools=[ADD], run_id="mine", sinks=[heard])
    assert (paused.status, paused.exit_code, paused.answer) == (RunStatus.AWAITING_TOOLS, 0, None)
    assert [call.name for call in paused.calls] == ["add"]
    assert [event.calls for event in heard.of(RunPaused)] == [1]
    assert paused.state is not None

    async def go_on(state: RunState, **options: Any) -> RunResult:
        async with coordinator_of(team, trace=trace) as other:
            result = ToolResult.of_text("call-0", "42")
            return await other.aresume(RunState.from_json(json.loads(json.dumps(state.to_json()))), [result], **options)

    again = asyncio.run(go_on(paused.state, sinks=[heard]))
    assert (again.status, again.run_id) == (RunStatus.AWAITING_TOOLS, "mine")
    assert again.state is not None
    result = asyncio.run(go_on(again.state, deadline_s=60.0))
    assert (result.status, result.answer, result.turns[0].tools) == (RunStatus.ACCEPTED, "42", ("add", "add"))
    assert (result.usage, result.turns[0].usage) == (Usage(40, 8), Usage(30, 6))
    assert len(team.reads) == 2  # the Worker's turn once, and the Verifier's
    runs = read_trace(path).runs
    assert [(run.run_id, run.lines[0]["resumes"]) for run in runs] == [
        ("mine", None),
        ("mine.1", "mine"),
        ("mine.2", "mine.1"),
    ]
    reports = verify(read_trace(path))
    assert [(report.problems, report.finished) for report in reports] == [((), True)] * 3


def test_a_state_and_its_results_have_to_fit() -> None:
    team = Team(calls(("add", "{}")))
    paused = carry_out(team, tools=[ADD], pool=agents(2))
    assert paused.state is not None
    state = paused.state

    async def go_on(results: list[ToolResult], count: int) -> RunResult:
        async with coordinator_of(team, agents(count)) as other:
            return await other.aresume(state, results)

    with pytest.raises(UsageError, match="none for the call 'call-0'"):
        asyncio.run(go_on([], 2))
    with pytest.raises(UsageError, match="has an agent in slot 1, and pool 'team' has none there"):
        asyncio.run(go_on([ToolResult.of_text("call-0", "")], 1))


@pytest.mark.parametrize("data", [{}, {"run_id": "mine"}, {"run_id": "mine", "machine": 5}, [], None])
def test_what_is_no_state_of_a_run_is_refused(data: Any) -> None:
    with pytest.raises(UsageError, match="this is not the state of a run"):
        RunState.from_json(data)


def test_limits_count_on_where_the_run_waited() -> None:
    team = Team(calls(("add", "{}")), "42")
    paused = carry_out(team, tools=[ADD], limits=Limits(tokens=20))
    assert paused.state is not None
    state = paused.state

    async def go_on() -> RunResult:
        async with coordinator_of(team) as other:
            return await other.aresume(state, [ToolResult.of_text("call-0", "42")])

    result = asyncio.run(go_on())
    assert (result.status, result.answer) == (RunStatus.BUDGET_EXCEEDED, "42")
    assert result.error is not None
    assert result.error.details == {"kind": "tokens", "limit": 20, "observed": 24}


def test_a_request_that_ends_in_results_is_not_routed() -> None:
    team, heard = Team("42"), Listener()
    task = [
        Message("user", TASK),
        calls(("add", "{}")),
        Message("tool", (ToolResult.of_text("call-0", "42"),)),
    ]
    result = carry_out(team, task=task, tools=[ADD], worker_slot=1, pool=agents(2), sinks=[heard])
    assert (result.status, [turn.slot for turn in result.turns]) == (RunStatus.ACCEPTED, [1, 0])
    assert len(team.reads) == 1
    first = heard.of(Routed)[0]
    assert (first.slot, first.logits, first.raw_role, first.adjustments) == (1, None, None, ("goes_on",))


# Who may be asked


def test_seats_are_masked_by_what_agents_accept() -> None:
    plain, able = agents(1, accepts=())[0], agents(2, accepts=("tools", "images"))[1]
    team = Team("42")
    result = carry_out(team, tools=[ADD], pool=[plain, able])
    assert [(turn.slot, turn.role) for turn in result.turns] == [(1, Role.WORKER), (0, Role.VERIFIER)]
    picture = Message("user", (Text("what is it?"), Image.of_data(b"png", "image/png")))
    result = carry_out(Team("42"), task=[picture], pool=[plain, able])
    assert {turn.slot for turn in result.turns} == {1}


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"tools": [ADD]}, "this run needs tools: say so in accepts"),
        ({"task": [Message("user", (Image.of_data(b"png", "image/png"),))]}, "needs images"),
        ({"deny": ["agent-0"]}, "deny fewer"),
        ({"deny": [0]}, "deny fewer"),
    ],
)
def test_where_nobody_is_left_that_is_said(options: dict[str, Any], advice: str) -> None:
    with pytest.raises(PoolInvalid, match=advice):
        carry_out(Team("42"), pool=agents(1, accepts=()), **options)


def test_agents_are_denied_by_name_or_slot() -> None:
    result = carry_out(Team("42"), pool=agents(3), deny=["agent-0", 1])
    assert {turn.slot for turn in result.turns} == {2}
    with pytest.raises(UsageError, match="has no agent 'agent-9' to deny"):
        carry_out(Team("42"), deny=["agent-9"])


def test_policy_and_limits_may_be_given_for_one_run() -> None:
    heard = Listener()
    result = carry_out(Team("42"), policy="published", limits=Limits(provider_calls=1), sinks=[heard])
    assert result.status is RunStatus.BUDGET_EXCEEDED
    (started,) = heard.of(RunStarted)
    assert (started.policy["name"], started.limits) == ("published", {"provider_calls": 1})
    with pytest.raises(PoolInvalid, match="states no price"):
        carry_out(Team("42"), pool=[Agent(0, "free", "team")], limits=Limits(cost_usd=1.0))


# What is refused, and what is heard


def test_a_refusal_is_not_asked_for_again_and_ends_the_run_where_nobody_else_answers(tmp_path: Path) -> None:
    refusal = Message("assistant", (Refusal("I will not do that"),))
    team, trace = Team(refusal, refusal), TraceFile(tmp_path / "trace.jsonl")
    result = carry_out(team, pool=agents(2), trace=trace)
    assert (result.status, result.exit_code, result.message) == (RunStatus.REFUSED, 5, refusal)
    assert result.error is not None
    assert "I will not do that" in result.error.message
    assert len(team.requests) == 2
    assert (result.usage, result.turns) == (Usage(20, 4), ())
    (report,) = verify(read_trace(trace.path))
    assert (report.problems, report.finished) == ((), True)


def test_an_agent_that_refuses_is_not_put_to_rest() -> None:
    refusal = Message("assistant", (Refusal("no"),))
    team = Team(*[refusal] * 20, "42")
    with coordinator_of(team) as coordinator:
        results = [coordinator.run(TASK) for _ in range(21)]
    assert [result.status for result in results] == [RunStatus.REFUSED] * 20 + [RunStatus.ACCEPTED]


def test_sinks_hear_text_in_order_with_turn_and_role() -> None:
    class Hears(Listener):
        def delta(self, delta: TextDelta) -> None:
            self.events.append(delta)  # type: ignore[arg-type]

    heard = Hears()
    carry_out(Team("forty two"), sinks=[heard])
    kinds = [type(event).__name__ for event in heard.events]
    assert kinds.index("ProviderCalled") < kinds.index("TextDelta") < kinds.index("TurnCompleted")
    (delta,) = heard.of(TextDelta)
    assert (delta.turn, delta.slot, delta.role, delta.text) == (0, 0, Role.WORKER, "forty two")

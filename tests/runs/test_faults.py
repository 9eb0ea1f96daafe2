"""Whole runs against an endpoint that fails in every way: what the run does, what its trace says, what is kept."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from trinity_mlx.cli import main
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.contracts.provider import Usage
from trinity_mlx.contracts.routing import Role
from trinity_mlx.routing.router import Router
from trinity_mlx.rules.policy import Policy
from trinity_mlx.rules.roles import instruction
from trinity_mlx.runs.breaker import BreakerPolicy
from trinity_mlx.runs.coordinator import Coordinator, TraceFile
from trinity_mlx.runs.result import RunResult, RunStatus
from trinity_mlx.runs.retry import RetryPolicy
from trinity_mlx.tracing.reader import Line, read_trace
from trinity_mlx.tracing.verify import verify

from .. import fault_table
from ..fault_table import COMMAND, ELSEWHERE, ROWS, SHORT_WAIT_S, TAKEN, TOTAL_S, Row, Taken
from ..provider_server import FAULTS, Behaviour, Exchange, ProviderServer, Received, closed_port, reply, status
from ..run_cases import TEAM, V, W, pool_of

DOCS = Path(__file__).parents[2] / "docs" / "faults.md"
KEY = 'a quite "odd" key/%41+of-nobody'
ENVIRONMENT = {"FAULT_KEY": KEY}
IMPATIENT = RetryPolicy(total_s=TOTAL_S, wait_initial_s=0.005, jitter_s=0.0)
ENOUGH = 1000.0
"""Seconds that every attempt has: where no answer will come, the clock of the asking loop is put on by them."""
SHORTER = {
    "429-retry-after": status(429, retry_after=SHORT_WAIT_S),
    "503-retry-after": status(503, retry_after=SHORT_WAIT_S),
    "cut-verdict": reply("ACCEPT, and", "length"),
}


class PutOnLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be put on."""

    def __init__(self) -> None:
        super().__init__()
        self._ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self._ahead_s

    def put_on(self, seconds: float) -> None:
        self._ahead_s += seconds


@dataclass
class Late:
    """A behaviour that gives no whole answer; whoever asks from ``asking`` has waited long enough once it is asked."""

    behaviour: Behaviour
    asking: PutOnLoop | None = None

    async def __call__(self, exchange: Exchange) -> None:
        if self.asking is not None:
            asyncio.get_running_loop().call_later(0.02, self._let_pass)  # in the middle of what is sent
        await self.behaviour(exchange)

    def _let_pass(self) -> None:
        if self.asking is not None:
            self.asking.call_soon_threadsafe(self.asking.put_on, ENOUGH)


def is_late(row: Row) -> bool:
    """Whether the fault is an answer that does not come."""
    return row.error == "ProviderTimeout" and row.status is None


def team_answer(received: Received) -> str:
    """What a healthy agent says in its role."""
    told = received.body["messages"][0]["content"]
    return "ACCEPT: six sevens" if told == instruction(Role.VERIFIER) else "42"


@pytest.fixture(scope="module")
def server() -> Iterator[ProviderServer]:
    late = {row.fault: Late(FAULTS[row.fault]) for row in ROWS if is_late(row)}
    with ProviderServer(answer=team_answer, faults={**FAULTS, **SHORTER, **late}) as running:
        yield running


@pytest.fixture(scope="module")
def addresses(server: ProviderServer) -> Iterator[dict[str, str]]:
    """Where each fault without an answering server is found."""
    with ProviderServer(tls=True) as secured:
        yield {
            "refused": f"http://127.0.0.1:{closed_port()}/v1",
            "no-such-name": "http://no-such-host.invalid/v1",
            "tls": secured.url,
        }
        assert secured.requests == []


@dataclass
class Scene:
    """One run: its agents, and what came of it."""

    agents: tuple[Agent, ...]
    policy: Policy
    form: str
    path: Path
    retry: RetryPolicy = IMPATIENT
    result: RunResult | None = None

    @property
    def ended(self) -> RunResult:
        assert self.result is not None
        return self.result

    @property
    def lines(self) -> tuple[Line, ...]:
        """The events of the trace, which must hold up."""
        trace = read_trace(self.path)
        (report,) = verify(trace)
        assert (report.problems, report.finished, trace.torn) == ((), True, ())
        return trace.runs[0].lines

    def of(self, kind: str) -> list[Line]:
        return [line for line in self.lines if line.event == kind]

    async def play(self) -> None:
        router = cast(Router, TEAM)
        trace = TraceFile(self.path, content=True)
        options: dict[str, Any] = {"environment": ENVIRONMENT, "live": True, "trace": trace, "retry": self.retry}
        on_text = (lambda turn, text: None) if self.form == "streamed" else None
        async with Coordinator(router, pool_of(*self.agents), self.policy, **options) as coordinator:
            self.result = await coordinator.arun("What is 6 * 7?", on_text=on_text)


class Stage:
    """Makes the scenes of one fault; each has a model name of its own, by which its requests are counted."""

    def __init__(self, server: ProviderServer, row: Row, url: str, folder: Path) -> None:
        self.server, self.row, self.folder = server, row, folder
        self._url = url

    def faulty(self, slot: int, scene: str, times: str = "", **fields: Any) -> Agent:
        return self._agent(slot, f"fault:{self.row.fault}{times}/{scene}-{slot}", self._url, **fields)

    def healthy(self, slot: int, scene: str, **fields: Any) -> Agent:
        return self._agent(slot, f"healthy-{self.row.fault}-{scene}", self.server.url, **fields)

    def scenes(self) -> dict[str, Scene]:
        """One of two agents fails; the only one that may fail; all that may take the turn; and one that recovers."""
        strict, checks = Policy(fallback=False), frozenset({V})
        casts: dict[str, tuple[tuple[Agent, ...], Policy]] = {
            **{form: ((self.faulty(0, form), self.healthy(1, form)), Policy()) for form in self.row.forms},
            "strict": ((self.healthy(0, "strict"), self.faulty(1, "strict")), strict),
            "all": (
                (
                    self.healthy(0, "all", roles=frozenset({W})),
                    self.faulty(1, "all", roles=checks),
                    self.faulty(2, "all", roles=checks),
                ),
                Policy(),
            ),
        }
        if self.row.attempts > 1 and self.row not in ELSEWHERE:
            casts["recovering"] = (self.faulty(0, "recovering", "*2"), self.healthy(1, "recovering")), strict
        retry = replace(IMPATIENT, total_s=10 * ENOUGH) if is_late(self.row) else IMPATIENT
        return {
            name: Scene(
                agents, policy, name if name in self.row.forms else self.row.forms[-1], self.folder / name, retry
            )
            for name, (agents, policy) in casts.items()
        }

    def _agent(self, slot: int, model: str, url: str, **fields: Any) -> Agent:
        return Agent(
            slot, f"agent-{slot}", "openai-compatible", model, url, "env:FAULT_KEY", timeout_s=ENOUGH, **fields
        )

    def requests(self, agent: Agent) -> int:
        """How many the server has seen of ``agent``."""
        return sum(received.model == agent.model for received in self.server.requests)


async def play_all(scenes: Iterable[Scene], server: ProviderServer) -> None:
    """All at once; no task and no connection may be left behind."""
    await asyncio.gather(*(scene.play() for scene in scenes))
    await nobody_left(server)


async def nobody_left(server: ProviderServer) -> None:
    """SDKs leave the end of some streams to the event loop."""
    async with asyncio.timeout(300):
        while len(asyncio.all_tasks()) > 1 or server.connections:
            await asyncio.sleep(0.005)


def play_one_by_one(scenes: Iterable[Scene], server: ProviderServer, late: Late) -> None:
    """One after another, since the clock is put on for all who ask."""

    async def main() -> None:
        for scene in scenes:
            await scene.play()
        await nobody_left(server)

    with asyncio.Runner(loop_factory=PutOnLoop) as runner:
        late.asking = cast(PutOnLoop, runner.get_loop())
        try:
            runner.run(main())
        finally:
            late.asking = None


def routed(*attempts: str) -> list[str]:
    return ["turn_started", "routed", *attempts]


SAID = ["provider_called", "turn_completed"]


def expected_events(scene: str, attempts: int) -> list[str]:
    """The kinds of events of each scene, in order."""
    failing = ["provider_called", "provider_failed"] * attempts
    if scene == "strict":
        middle = [*routed(*SAID), *routed(*failing), "run_failed"]
    elif scene == "all":
        middle = [*routed(*SAID), *routed(*failing, "fallback", *failing), "run_failed"]
    elif scene == "recovering":
        middle = [*routed(*["provider_called", "provider_failed"] * 2, *SAID), *routed(*SAID), "run_completed"]
    else:
        middle = [*routed(*failing, "fallback", *SAID), *routed(*SAID), "run_completed"]
    return ["run_started", *middle]


def check_failures(stage: Stage, scene: Scene, agent: Agent, attempts: int) -> None:
    """What the trace says of one agent's failures, and that the server saw as many requests as there were attempts."""
    row, failures = stage.row, [line for line in scene.of("provider_failed") if line["slot"] == agent.slot]
    assert [line["attempt"] for line in failures] == list(range(1, attempts + 1))
    assert {line["error"] for line in failures} == {row.error}
    assert {line["status"] for line in failures} == {row.status}
    assert all(row.says in line["message"] for line in failures), failures[0]["message"]
    assert {line["request_id"] for line in failures} == {"req-1"} or not row.status
    is_given_up = attempts == row.attempts
    waits = [line["retry_in_s"] for line in failures]
    assert all(wait >= row.waits_s for wait in waits[: len(waits) - is_given_up])
    assert waits[-1] is None or not is_given_up
    answered = 0 if row in ELSEWHERE else attempts + (not is_given_up)
    assert stage.requests(agent) == answered


def check_accepted(row: Row, scene: Scene, is_fallback: bool) -> None:
    result = scene.ended
    assert (result.status, result.answer, result.error, result.exit_code) == (RunStatus.ACCEPTED, "42", None, 0)
    assert [turn.fallback_from for turn in result.turns] == [0 if is_fallback else None, None]
    assert [turn.slot for turn in result.turns] == [1 if is_fallback else 0, 1]
    assert [turn.text for turn in result.turns] == ["42", "ACCEPT: six sevens"]
    assert [line["fallback_from"] for line in scene.of("turn_completed")] == [0 if is_fallback else None, None]
    if is_fallback:
        (fallback,) = scene.of("fallback")
        assert (fallback["from_slot"], fallback["to_slot"]) == (0, 1)
        assert fallback["reason"].startswith(f"{row.error}: ")


def check_failed(row: Row, scene: Scene) -> None:
    result, end = scene.ended, scene.lines[-1]
    assert (result.status, result.exit_code, result.answer) == (RunStatus.FAILED, 5, "42")
    assert [turn.text for turn in result.turns] == ["42"]
    assert result.error is not None
    assert (result.error.type, result.error.details) == (row.error, {"status": row.status})
    assert row.says in result.error.message
    assert (end["status"], end["error"], end["answer"]["text"]) == ("failed", row.error, "42")
    assert end["usage"] == result.to_dict()["usage"]
    assert result.usage == result.turns[0].usage != Usage(0, 0)


def check_no_key(texts: list[str]) -> None:
    spellings = {KEY, quote(KEY, safe=""), quote(KEY), json.dumps(KEY)[1:-1], repr(KEY)[1:-1]}
    for text in texts:
        assert not [spelling for spelling in spellings if spelling in text]


def shown(scene: Scene) -> list[str]:
    result = scene.ended
    return [repr(result), json.dumps(result.to_dict()), scene.path.read_bytes().decode("utf-8")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.fault)
def test_a_fault_in_a_whole_run(
    server: ProviderServer,
    addresses: dict[str, str],
    row: Row,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(server, row, addresses.get(row.fault, server.url), tmp_path)
    scenes = stage.scenes()
    with caplog.at_level(logging.DEBUG):
        if is_late(row):
            play_one_by_one(scenes.values(), server, cast(Late, server.faults[row.fault]))
        else:
            asyncio.run(play_all(scenes.values(), server))
    for name, scene in scenes.items():
        assert [line.event for line in scene.lines] == expected_events(name, row.attempts), name
        for agent in scene.agents:
            if agent.model.startswith("fault:"):
                check_failures(stage, scene, agent, 2 if name == "recovering" else row.attempts)
        if name in ("strict", "all"):
            check_failed(row, scene)
        else:
            check_accepted(row, scene, is_fallback=name != "recovering")
        check_no_key(shown(scene))
    check_no_key([caplog.text, *(str(vars(record)) for record in caplog.records), *capfd.readouterr()])


# Answers that are odd and taken


def odd_scene(taken: Taken, server: ProviderServer, path: Path) -> Scene:
    """A Worker and a Verifier, one of whom answers oddly in every turn."""
    is_worker = taken.role == Role.WORKER.label
    fault = "cut-verdict" if taken.verdict == "cut" else taken.fault
    models = (f"fault:{fault}/taken", "healthy") if is_worker else ("healthy", f"fault:{fault}/taken")
    agents = tuple(
        Agent(slot, f"agent-{slot}", "openai-compatible", model, server.url, "env:FAULT_KEY")
        for slot, model in enumerate(models)
    )
    return Scene(agents, Policy(max_turns=4), "whole", path)


@pytest.mark.parametrize("taken", TAKEN, ids=lambda taken: f"{taken.fault} of a {taken.role}")
def test_an_odd_answer_that_is_taken(server: ProviderServer, taken: Taken, tmp_path: Path) -> None:
    scene = odd_scene(taken, server, tmp_path / "trace.jsonl")
    asyncio.run(play_all([scene], server))
    result = scene.ended
    is_open = taken.verdict == "cut"
    assert (result.status, result.exit_code) == (RunStatus.MAX_TURNS if is_open else RunStatus.ACCEPTED, 0)
    assert len(result.turns) == (4 if is_open else 2)
    (odd, *_) = [turn for turn in result.turns if turn.role.label == taken.role]
    told = next(line for line in scene.of("turn_completed") if line["role"] == taken.role)
    assert (odd.finish, told["finish"]) == (taken.finish, taken.finish)
    assert told["verdict"] == (taken.verdict if taken.role == Role.VERIFIER.label else None)
    assert result.answer == result.turns[0].text
    assert not scene.of("provider_failed")


# An agent at rest


async def rest(server: ProviderServer, policy: Policy, path: Path, runs: int) -> list[RunResult]:
    """Several runs, one after another, whose first agent always fails."""
    router = cast(Router, TEAM)
    stage = Stage(server, next(row for row in ROWS if row.fault == "500"), server.url, path.parent)
    agents = stage.faulty(0, path.name), stage.healthy(1, path.name)
    options: dict[str, Any] = {"environment": ENVIRONMENT, "live": True, "trace": TraceFile(path), "retry": IMPATIENT}
    async with Coordinator(router, pool_of(*agents), policy, **options) as coordinator:
        results = [await coordinator.arun("What is 6 * 7?") for _ in range(runs)]
    assert stage.requests(agents[0]) == BreakerPolicy().failures
    return results


def test_an_agent_at_rest_is_not_asked_and_the_others_go_on(server: ProviderServer, tmp_path: Path) -> None:
    path = tmp_path / "at-rest.jsonl"
    results = asyncio.run(rest(server, Policy(), path, 4))
    assert {(result.status, result.turns[0].fallback_from) for result in results} == {(RunStatus.ACCEPTED, 0)}
    trace = read_trace(path)
    assert [report.problems for report in verify(trace)] == [()] * 4
    reasons = [line["reason"].partition(":")[0] for run in trace.runs for line in run.lines if line.event == "fallback"]
    assert reasons == ["ProviderUnavailable", "ProviderUnavailable", "CircuitOpen", "CircuitOpen"]


def test_a_strict_run_says_when_an_agent_at_rest_is_tried_again(server: ProviderServer, tmp_path: Path) -> None:
    path = tmp_path / "strict-rest.jsonl"
    *_, last = asyncio.run(rest(server, Policy(fallback=False), path, 3))
    assert last.error is not None
    assert (last.error.type, last.exit_code) == ("CircuitOpen", 5)
    assert "failed 5 times in a row and is tried again in " in last.error.message
    (*_, run) = read_trace(path).runs
    assert [line.event for line in run.lines] == ["run_started", *routed(), "run_failed"]
    assert [report.problems for report in verify(read_trace(path))] == [()] * 3


def test_a_key_that_comes_back_in_an_answer_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with ProviderServer(answer=lambda received: f"ACCEPT: your key is {received.key}") as server:
        agents = tuple(
            Agent(slot, f"agent-{slot}", "openai-compatible", "talkative", server.url, "env:FAULT_KEY")
            for slot in range(2)
        )
        scene = Scene(agents, Policy(), "whole", path)
        asyncio.run(play_all([scene], server))
    assert scene.ended.status is RunStatus.ACCEPTED
    assert [line["reply"]["text"] for line in scene.of("turn_completed")] == ["ACCEPT: your key is [redacted]"] * 2
    check_no_key([path.read_text()])


# On the command line


POOL = """
name = "faulty"
[[agents]]
slot = 0
name = "refusing"
provider = "openai-compatible"
model = "fault:401/shell"
base_url = "{url}"
api_key = "env:FAULT_KEY"
"""
SECOND = """
[[agents]]
slot = 1
name = "healthy"
provider = "openai-compatible"
model = "healthy"
base_url = "{url}"
"""


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "JSON"])
@pytest.mark.parametrize(("agents", "code"), [(POOL, 5), (POOL + SECOND, 0)], ids=["alone", "with another"])
def test_the_command_line_shows_a_fault_and_no_key(
    server: ProviderServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    agents: str,
    code: int,
    as_json: bool,
) -> None:
    monkeypatch.setenv("FAULT_KEY", KEY)
    monkeypatch.setenv("TRINITY_MLX_CONFIG", str(tmp_path))
    pool, trace = tmp_path / "pool.toml", tmp_path / "trace.jsonl"
    pool.write_text(agents.format(url=server.url))
    options = ["--pool", str(pool), "--live", "--trace-out", str(trace), "--trace-content"]
    result = CliRunner().invoke(main, ["run", "What is 6 * 7?", *options, *(["--json"] if as_json else [])])
    assert result.exit_code == code, result.output
    assert "check what its api_key refers to" in (result.output if code else trace.read_text())
    if as_json:
        assert json.loads(result.stdout)["status"] == ("failed" if code else "accepted")
    check_no_key([result.output, result.stderr, trace.read_text(), *capfd.readouterr()])


# The document


def test_every_fault_of_the_server_has_a_row() -> None:
    assert {row.fault for row in (*ROWS, *TAKEN)} - {row.fault for row in ELSEWHERE} == set(FAULTS)


@pytest.mark.skipif(not DOCS.is_file(), reason="the documents lie in the checkout")
def test_the_document_is_written_from_these_rows() -> None:
    assert DOCS.read_text(encoding="utf-8") == fault_table.document(), f"run: {COMMAND}"


def test_the_tests_wait_less_than_people_and_ask_as_often() -> None:
    usual = RetryPolicy()
    assert IMPATIENT.attempts == usual.attempts
    assert IMPATIENT.total_s < usual.total_s < 3600

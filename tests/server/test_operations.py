"""What keeps a server up: who may ask, how much, what a client that leaves costs, and how it goes down."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from trinity_mlx.contracts.errors import ContextLengthError, UsageError
from trinity_mlx.contracts.pool import Pool
from trinity_mlx.contracts.provider import Request
from trinity_mlx.contracts.transcript import Transcript
from trinity_mlx.routing.loading import load_router
from trinity_mlx.rules.budgets import Limits
from trinity_mlx.runs.coordinator import Coordinator
from trinity_mlx.server.app import create_router
from trinity_mlx.server.auth import Keys, accepted_hosts, check_exposure, host_name
from trinity_mlx.server.capacity import Room
from trinity_mlx.server.drain import Drain
from trinity_mlx.server.limits import RequestLimits
from trinity_mlx.server.narrowing import ALLOWED_OPTIONS
from trinity_mlx.server.problems import Problem
from trinity_mlx.server.routers import ServedRouter
from trinity_mlx.server.service import Service, Settings

from ..run_cases import V, W, toward
from ..virtual_time import run_in_virtual_time
from .serving import Answered, Direct, Talker, Team, agent, by_role, running, team
from .serving import client as http

ASK = {"messages": [{"role": "user", "content": "What is 6 * 7?"}], "max_tokens": 50}
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
BODIES = {"chat": ASK, "responses": {"input": "What is 6 * 7?"}, "messages": ASK}
INTERFACES = pytest.mark.parametrize("interface", list(PATHS))


def routes() -> list[tuple[str, str]]:
    """Every path of the application with a method, as the application lists them."""
    listed = []
    for route in create_router(team().service).routes:
        for method in getattr(route, "methods", ()):
            listed.append((re.sub(r"\{[^}]*\}", "x", getattr(route, "path", "")), method))
    return listed


OPEN = {"/", "/health"}


def test_every_route_but_health_and_the_page_wants_a_key() -> None:
    async def statuses() -> dict[tuple[str, str], int]:
        direct = Direct(team(keys=("right",)))
        seen = {}
        for path, method in routes():
            for key in (
                {},
                {"authorization": "Bearer wrong"},
                {"x_api_key": "wrong"},
                {"authorization": "Basic right"},
            ):
                seen[path, method] = (
                    await direct(path, b"{}" if method == "POST" else None, method=method, **key)
                ).status
                if path not in OPEN:
                    assert seen[path, method] == 401, (path, method, key)
        return seen

    seen = asyncio.run(statuses())
    assert {path for (path, _), status in seen.items() if status == 200} == OPEN
    assert len(seen) > 30


def test_a_path_that_does_not_exist_wants_a_key_too() -> None:
    assert asyncio.run(Direct(team(keys=("right",)))("/v1/secret")).status == 401


@pytest.mark.parametrize(
    "key", [{"authorization": "Bearer right"}, {"authorization": "bearer right"}, {"x_api_key": "right"}]
)
def test_a_key_is_taken_from_either_header(key: dict[str, str]) -> None:
    assert asyncio.run(Direct(team(keys=("other", "right")), **key)("/v1/models")).status == 200


def test_a_key_that_no_header_can_hold_is_refused_like_any_other() -> None:
    assert Keys(["right"]).who("r\udcffght") is None
    assert Keys(["right"]).who("") is None
    assert Keys(["right"]).who(None) is None


def test_nobody_listens_beyond_this_machine_without_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.7", "example.org"):
        with pytest.raises(UsageError, match="set a key"):
            check_exposure(host, Keys())
        check_exposure(host, Keys(["right"]))
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.2"):
        check_exposure(host, Keys())


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "", "localhost.evil.example"])
def test_a_page_that_was_pointed_here_by_another_name_is_not_answered(host: str) -> None:
    served = team()
    answered = asyncio.run(Direct(served)("/v1/chat/completions", ASK, host=host))
    assert answered.status == 421
    assert served.calls == 0


def test_names_of_this_server() -> None:
    assert host_name("[::1]:8080") == "::1"
    assert host_name("LocalHost:80") == "localhost"
    assert "*" in accepted_hosts("0.0.0.0")
    assert "*" not in accepted_hosts("0.0.0.0", ["models.example"])
    assert "*" not in accepted_hosts("127.0.0.1")


def test_web_pages_of_other_origins_may_not_call_unless_they_are_named() -> None:
    preflight = {"origin": "https://app.example", "access_control_request_method": "POST"}

    def ask(served: Team, **options: Any) -> Answered:
        return asyncio.run(Direct(served, **preflight)("/v1/chat/completions", **options))

    closed, opened = team(keys=("k",)), team(keys=("k",), settings=Settings(origins=frozenset({"https://app.example"})))
    assert ask(closed, method="OPTIONS").status == 401
    assert ask(opened, method="OPTIONS").headers["access-control-allow-origin"] == "https://app.example"
    assert ask(opened, body=ASK).status == 401
    answered = ask(opened, body=ASK, authorization="Bearer k")
    assert answered.headers["access-control-allow-origin"] == "https://app.example"


@INTERFACES
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"\xff\xfe", 400),
        (b'{"a": NaN}', 400),
        (b'{"a": "\\ud800"}', 400),
        (b'{"a": ' + b"[" * 65 + b"]" * 65 + b"}", 400),
        (b'{"a": ' + b"[" * 100_000, 400),
        (b'{"a": ' + b"1" * 5000 + b"}", 400),
        (b'{"a": "' + b"x" * 2_000_000 + b'"}', 413),
    ],
    ids=["empty", "cut", "list", "bytes", "nan", "surrogate", "deep", "very deep", "huge number", "large"],
)
def test_bodies_that_are_none(interface: str, body: bytes, status: int) -> None:
    served = team(settings=Settings(limits=RequestLimits(body_bytes=1_000_000)))
    answered = asyncio.run(Direct(served)(PATHS[interface], body))
    assert answered.status == status
    assert answered.json["error"]["message"]
    assert served.calls == 0


def test_a_body_is_refused_by_its_stated_length_before_it_is_read() -> None:
    answered = asyncio.run(Direct(team())("/v1/responses", b"{}", content_length=str(33 * 1024 * 1024)))
    assert answered.status == 413


def test_brackets_in_strings_are_not_depth_and_the_check_is_linear() -> None:
    text = json.dumps({"input": "[{" * 100_000 + '"' + "\\" * 9})
    assert asyncio.run(Direct(team())("/v1/responses", text.encode())).status == 200
    hostile = b'{"input": "' + b'\\"' * 2_000_000
    assert asyncio.run(Direct(team())("/v1/responses", hostile)).status == 400


def test_so_many_messages_and_no_more() -> None:
    served = team(settings=Settings(limits=RequestLimits(messages=3)))
    body = {"messages": [{"role": "user", "content": "x"}] * 4}
    assert asyncio.run(Direct(served)("/v1/chat/completions", body)).status == 400


class Gate:
    """Agents that wait until they are let go on."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.waiting = 0

    async def pause(self) -> None:
        self.waiting += 1
        await self.open.wait()


def gated(**options: Any) -> tuple[Team, Gate]:
    """A team whose agents stop after the first word, streamed, until the gate opens."""
    gate = Gate()
    return team(**options, between=gate.pause), gate


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


STREAM = {**ASK, "stream": True, "model": "trinity-route"}


@INTERFACES
def test_what_finds_no_place_is_told_to_wait_and_what_waits_gets_its_turn(interface: str) -> None:
    async def scenario() -> list[int]:
        served, gate = gated(settings=Settings(room=Room(at_once=1, waiting=1)))
        direct, body = Direct(served), {**BODIES[interface], "stream": True, "model": "trinity-route"}
        first = asyncio.create_task(direct(PATHS[interface], body))
        await until(lambda: gate.waiting)
        second = asyncio.create_task(direct(PATHS[interface], body))
        await until(lambda: served.service.capacity.queued)
        third = await direct(PATHS[interface], body)
        assert int(third.headers["retry-after"]) >= 1
        gate.open.set()
        assert served.service.capacity.in_flight == 1
        return [third.status, (await first).status, (await second).status, served.service.capacity.in_flight]

    assert asyncio.run(scenario()) == [429, 200, 200, 0]


def test_one_key_cannot_take_all_places() -> None:
    async def scenario() -> tuple[int, int]:
        served, gate = gated(keys=("a", "b"), settings=Settings(room=Room(at_once=9, waiting=9, per_key=1)))
        direct = Direct(served)
        first = asyncio.create_task(direct("/v1/chat/completions", STREAM, x_api_key="a"))
        await until(lambda: gate.waiting)
        second = await direct("/v1/chat/completions", STREAM, x_api_key="a")
        other = asyncio.create_task(direct("/v1/chat/completions", STREAM, x_api_key="b"))
        await until(lambda: gate.waiting == 2)
        gate.open.set()
        await first
        return second.status, (await other).status

    assert asyncio.run(scenario()) == (429, 200)


def test_a_client_that_leaves_the_queue_leaves_its_place() -> None:
    async def scenario() -> tuple[int, int, int]:
        served, gate = gated(settings=Settings(room=Room(at_once=1, waiting=1)))
        direct = Direct(served)
        first = asyncio.create_task(direct("/v1/chat/completions", STREAM))
        await until(lambda: gate.waiting)
        await direct("/v1/chat/completions", STREAM, leave_after=0)
        assert served.service.capacity.queued == 0
        gate.open.set()
        await first
        return served.calls, served.service.capacity.in_flight, served.service.drain.open

    assert asyncio.run(scenario()) == (1, 0, 0)


REVISING = [toward(0, W), toward(1, V)] * 4


def _revising(served: list[Team]) -> Any:
    def says(request: Request) -> str:
        return "REVISE: again." if request.role is V else f"It is {len(served)}, I say so."

    return says


@INTERFACES
@pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("call", range(1, 6))
def test_a_client_that_leaves_during_any_call_costs_no_further_one(
    interface: str, is_streamed: bool, call: int
) -> None:
    """The client goes in the middle of the given call of the run."""

    async def scenario() -> tuple[int, int]:
        left = asyncio.Event()
        body = json.dumps({**BODIES[interface], "stream": is_streamed, "model": "trinity-live"}).encode()
        pending = [{"type": "http.request", "body": body}]

        async def receive() -> dict[str, Any]:
            if pending:
                return pending.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def hold() -> None:
            if served.calls == call:
                left.set()
                await asyncio.sleep(3600)

        async def send(event: Any) -> None:
            if not is_streamed and served.calls == call:
                left.set()

        served = team(_revising([]), plan=REVISING, after=hold)
        direct = Direct(served)
        scope = _scope(PATHS[interface])
        if is_streamed:
            await direct.app(scope, receive, send)
        else:
            asyncio.get_running_loop().create_task(_leave(served, call, left))
            await direct.app(scope, receive, send)
        await asyncio.sleep(0.01)  # until nobody has anything left to do
        return served.calls, len(asyncio.all_tasks()) - 1

    calls, left_over = run_in_virtual_time(scenario())
    assert calls == call
    assert left_over == 0


async def _leave(served: Team, call: int, left: asyncio.Event) -> None:
    await until(lambda: served.calls == call)
    left.set()


def _scope(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }


@INTERFACES
def test_nothing_to_say_is_said_in_the_interfaces_own_event(interface: str) -> None:
    async def scenario() -> Answered:
        served, gate = gated(settings=Settings(heartbeat_s=0.02))
        body = {**BODIES[interface], "stream": True, "model": "trinity-live"}
        asked = asyncio.create_task(Direct(served)(PATHS[interface], body))
        await until(lambda: gate.waiting)
        await asyncio.sleep(0.1)
        gate.open.set()
        return await asked

    def beats(answered: Answered) -> int:
        text = answered.body.decode()
        return text.count(
            {"chat": ": at work", "responses": "event: response.in_progress", "messages": "event: ping"}[interface]
        )

    body = {**BODIES[interface], "stream": True, "model": "trinity-live"}
    quiet = asyncio.run(Direct(team())(PATHS[interface], body))
    assert beats(run_in_virtual_time(scenario())) >= beats(quiet) + 4


def test_ready_once_a_route_has_passed_and_not_while_going_down() -> None:
    async def scenario() -> list[int]:
        served = team()
        direct = Direct(served)
        seen = [(await direct("/ready")).status]
        await served.service.router.warm()
        seen.append((await direct("/ready")).status)
        await served.service.drain.finish(0)
        seen += [(await direct("/ready")).status, (await direct("/health")).status]
        refused = await direct("/v1/responses", {"input": "Go."})
        assert "retry-after" in refused.headers
        return [*seen, refused.status]

    assert asyncio.run(scenario()) == [503, 200, 503, 200, 503]


def test_fifty_streams_end_in_order_when_the_server_goes_down() -> None:
    async def scenario() -> list[Answered]:
        served, gate = gated()
        direct = Direct(served)
        asked = [asyncio.create_task(direct("/v1/responses", {**STREAM, "input": "Go."})) for _ in range(50)]
        await until(lambda: gate.waiting == 50)
        draining = asyncio.create_task(served.service.drain.finish(30))
        await asyncio.sleep(0)
        gate.open.set()
        assert await draining == 0
        return await asyncio.gather(*asked)

    for answered in asyncio.run(scenario()):
        assert answered.events[-1][0] == "response.completed"


@INTERFACES
def test_a_stream_that_cannot_end_in_time_is_told_so(interface: str) -> None:
    async def scenario() -> tuple[Answered, int]:
        served, gate = gated()
        body = {**BODIES[interface], "stream": True, "model": "trinity-route"}
        asked = asyncio.create_task(Direct(served)(PATHS[interface], body))
        await until(lambda: gate.waiting)
        return await _after(served.service.drain.finish(0), asked)

    answered, early = asyncio.run(scenario())
    assert early == 1
    text = answered.body.decode()
    assert "going down" in text
    last = {"chat": "[DONE]", "responses": "response.failed", "messages": "event: error"}[interface]
    assert last in text.strip().rsplit("\n\n", 1)[-1]


@INTERFACES
def test_a_stream_that_has_said_nothing_when_time_is_up_has_a_status(interface: str) -> None:
    """As one that still waits for its route: a client tries again then, where it cannot in the middle of a stream."""

    async def scenario() -> tuple[Answered, int]:
        served = team()
        served.router.hold = asyncio.Event()
        asked = asyncio.create_task(Direct(served)(PATHS[interface], {**BODIES[interface], "stream": True}))
        await until(lambda: served.service.drain.open)
        return await _after(served.service.drain.finish(0), asked)

    answered, early = asyncio.run(scenario())
    assert (answered.status, early) == (503, 1)
    assert "going down" in answered.json["error"]["message"]
    assert "retry-after" in answered.headers


async def _after(finishing: Any, asked: asyncio.Task[Answered]) -> tuple[Answered, int]:
    early = await finishing
    return await asked, early


def test_a_late_route_is_taken_by_the_default_slot() -> None:
    async def scenario() -> Answered:
        served = team(router={"timeout_s": 0.01, "default_slot": 1})
        served.router.hold = asyncio.Event()
        return await Direct(served)("/v1/chat/completions", ASK)

    turns = asyncio.run(scenario()).json["trinity"]["turns"]
    assert [(turn["agent"], turn["role"]) for turn in turns] == [("agent-1", "Worker"), ("agent-1", "Verifier")]


def test_a_failed_route_is_taken_by_the_default_slot_and_an_error_without_one() -> None:
    failing = [ContextLengthError("too long")]
    answered = asyncio.run(Direct(team(plan=failing, router={"default_slot": 0}))("/v1/chat/completions", ASK))
    assert answered.json["trinity"]["outcome"] == "verified"
    refused = asyncio.run(Direct(team(plan=failing))("/v1/chat/completions", ASK))
    assert (refused.status, refused.json["error"]["code"]) == (400, "context_length_exceeded")


def test_a_request_narrows_its_run_and_never_widens_it() -> None:
    def ask(served: Team, **headers: str) -> Answered:
        return asyncio.run(Direct(served, **headers)("/v1/chat/completions", ASK))

    denied = ask(team(agents=3), x_trinity_deny="agent-0").json["trinity"]["turns"]
    assert "agent-0" not in {turn["agent"] for turn in denied}
    assert ask(team(), x_trinity_deny="nobody").status == 400
    few = team(_revising([]), plan=REVISING)
    assert len(ask(few, x_trinity_max_turns="1").json["trinity"]["turns"]) == 1
    assert ask(team(), x_trinity_sticky_margin="0.5").status == 400
    assert ask(team(), x_trinity_max_cost="much").status == 400
    tight = team(_revising([]), plan=REVISING, coordinator={"limits": Limits(provider_calls=1)})
    assert len(ask(tight, x_trinity_max_calls="100").json["trinity"]["turns"]) == 1
    by_metadata = {**ASK, "metadata": {"trinity_max_turns": "1"}}
    answered = asyncio.run(Direct(team(_revising([]), plan=REVISING))("/v1/chat/completions", by_metadata))
    assert len(answered.json["trinity"]["turns"]) == 1


def test_limits_that_are_reached_give_the_best_answer_as_unverified() -> None:
    served = team(_revising([]), plan=REVISING, coordinator={"limits": Limits(provider_calls=3)})
    answered = asyncio.run(Direct(served)("/v1/responses", {"input": "Go.", "stream": True}))
    last = answered.events[-1][1]
    assert last["type"] == "response.completed"
    assert last["response"]["status"] == "completed"
    assert last["response"]["trinity"]["outcome"] == "unverified"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("by_request", [False, True])
@pytest.mark.parametrize("model", ["trinity", "trinity-route", "agent-0"])
def test_an_answer_that_a_person_has_to_release_is_neither_asked_for_nor_shown(
    stream: bool, by_request: bool, model: str
) -> None:
    """Nobody can be asked over HTTP: so nothing is spent, and no text is streamed that nobody has released."""
    from trinity_mlx.rules.policy import Policy

    told: list[Request] = []

    def says(request: Request) -> str:
        told.append(request)
        return "The answer is 42."

    policy = Policy() if by_request else Policy().with_options(review="ask")
    open_to_all = Settings(allowed_options=ALLOWED_OPTIONS | {"review"})
    served = team(says, coordinator={"policy": policy}, settings=open_to_all)
    asked = Direct(served, **({"x_trinity_review": "ask"} if by_request else {"x_trinity_review": "none"}))
    answered = asyncio.run(asked("/v1/chat/completions", {**ASK, "model": model, "stream": stream}))
    assert b"42" not in answered.body
    assert b"review_required" in answered.body
    assert answered.status == 501
    assert told == []


def test_a_conversation_keeps_its_agent_where_the_policy_says_so() -> None:
    from trinity_mlx.rules.policy import Policy

    served = team(
        plan=[toward(0, W, lead=0.1), toward(1, V)], coordinator={"policy": Policy(sticky_margin=1.0, max_turns=1)}
    )

    async def scenario() -> list[str]:
        direct = Direct(served, x_trinity_session="one")
        await direct("/v1/chat/completions", {**ASK, "model": "agent-1"})
        here = await direct("/v1/chat/completions", ASK)
        elsewhere = await direct("/v1/chat/completions", ASK, x_trinity_session="two")
        return [answered.json["trinity"]["turns"][0]["agent"] for answered in (here, elsewhere)]

    assert asyncio.run(scenario()) == ["agent-1", "agent-0"]


def test_several_pools_and_aliases_are_models() -> None:
    served = team(pools=("coding", "home"), aliases={"gpt-*": "trinity-home-route"})

    async def scenario() -> tuple[list[str], str, int]:
        direct = Direct(served)
        names = [each["id"] for each in (await direct("/v1/models")).json["data"]]
        answered = await direct("/v1/chat/completions", {**ASK, "model": "gpt-9-mini"})
        anthropic = await direct("/v1/models", anthropic_version="2023-06-01")
        assert {each["type"] for each in anthropic.json["data"]} == {"model"}
        return names, answered.json["trinity"]["pool"], (await direct("/v1/models/trinity-home")).status

    names, pool, status = asyncio.run(scenario())
    assert {"trinity", "trinity-live", "trinity-route", "trinity-coding", "trinity-home-live", "claude-trinity"} <= set(
        names
    )
    assert (pool, status) == ("home", 200)
    with pytest.raises(UsageError, match="nowhere"):
        team(aliases={"x": "nowhere"})


def test_a_decision_alone_calls_nobody() -> None:
    served = team()
    answered = asyncio.run(Direct(served)("/v1/route", {"input": "What is 6 * 7?"})).json
    assert answered["agent"]["slot"] == 0
    assert "agent-0 is chosen, to be the Worker." in answered["explanation"]
    assert served.calls == 0


def test_a_recent_run_can_be_looked_at_by_who_asked_for_it_and_holds_no_text() -> None:
    async def scenario() -> tuple[Answered, Answered, Answered]:
        direct = Direct(team(keys=("a", "b")), x_api_key="a")
        run_id = (await direct("/v1/chat/completions", ASK)).headers["x-trinity-run-id"]
        other = await direct(f"/runs/{run_id}", x_api_key="b")
        return await direct(f"/runs/{run_id}"), await direct("/runs"), other

    one, listed, other = asyncio.run(scenario())
    assert [turn["role"] for turn in one.json["turns"]] == ["Worker", "Verifier"]
    assert listed.json["data"] == [one.json]
    assert other.status == 404
    assert b"answer is" not in one.body


def test_a_request_that_gets_its_place_when_streams_say_goodbye_is_refused() -> None:
    async def scenario() -> int:
        drain = Drain()
        with drain.work():
            finishing = asyncio.create_task(drain.finish(0.0))
            said = asyncio.Event()
            with drain.farewell(said.set):
                await said.wait()
            with pytest.raises(Problem, match="going down"), drain.farewell(said.set):
                pass
        return await finishing

    assert asyncio.run(scenario()) == 1


def test_metrics_count_what_happened_and_name_nobody() -> None:
    async def scenario() -> str:
        direct = Direct(team(keys=("a-secret-key",)), x_api_key="a-secret-key", x_trinity_session="my-session")
        await direct("/v1/chat/completions?secret=1", ASK)
        await direct("/v1/nowhere")
        return (await direct("/metrics")).body.decode()

    text = asyncio.run(scenario())
    assert 'trinity_turns_total{agent="agent-0",pool="home",role="Worker"} 1.0' in text
    assert 'trinity_requests_total{method="POST",route="/v1/chat/completions",status="200"} 1.0' in text
    assert 'trinity_requests_total{method="GET",route="other",status="404"} 1.0' in text
    assert 'gen_ai_client_token_usage_total{agent="agent-0",direction="input",pool="home"} 11.0' in text
    for hidden in ("a-secret-key", "my-session", "6 * 7", "secret=1"):
        assert hidden not in text


def test_metrics_tell_how_many_transcripts_a_pass_read_together() -> None:
    async def scenario() -> str:
        with load_router("nano", profile="cpu") as router:
            served = ServedRouter(router)
            pool = Pool("home", tuple(agent(slot) for slot in range(2)))
            coordinator = Coordinator(served, pool, providers=lambda each, key: Talker(each, by_role("It is 42.")))
            service = Service({"home": coordinator}, served)
            await asyncio.gather(*(served.read(Transcript.of(f"What is 6 * {number}?")) for number in range(5)))
            text = service.metrics.text().decode()
            await service.close()
            await served.read(Transcript.of("And now?"))
            assert service.metrics.text().decode() == text
        return text

    text = asyncio.run(scenario())
    assert "trinity_route_batch_size_sum 5.0" in text
    assert 'trinity_route_batch_size_bucket{le="256.0"} ' in text


def test_every_metric_stands_in_the_documentation() -> None:
    text = team().service.metrics.text().decode()
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    documented = Path(__file__).parents[2] / "docs" / "serving.md"
    missing = [name for name in names if not name.endswith("_created") and name not in documented.read_text()]
    assert names
    assert missing == []


def test_the_log_tells_no_text_no_query_and_no_key(caplog: pytest.LogCaptureFixture) -> None:
    direct = Direct(team(keys=("a-secret-key",)), x_api_key="a-secret-key")
    with caplog.at_level("INFO", "trinity_mlx.server"):
        asyncio.run(direct("/v1/chat/completions?q=secret", ASK))
    (line,) = [record.getMessage() for record in caplog.records]
    assert re.search(r"POST /v1/chat/completions 200 [\d.]+ ms run=[0-9a-f]{32} outcome=verified", line)
    assert "secret" not in line


def test_an_unforeseen_error_is_a_500_without_a_word_of_it(caplog: pytest.LogCaptureFixture) -> None:
    served = team()
    served.service.metrics.outcomes = None  # type: ignore[assignment]
    answered = asyncio.run(Direct(served)("/v1/chat/completions", ASK))
    assert answered.status == 500
    assert "NoneType" not in answered.body.decode()
    assert any(record.exc_info for record in caplog.records)


def test_the_page_is_a_file_with_a_policy_of_its_own() -> None:
    one, two = (asyncio.run(Direct(team(keys=("k",)))("/")) for _ in range(2))
    assert "text/html" in one.headers["content-type"]
    nonces = [re.search(r"'nonce-([^']+)'", each.headers["content-security-policy"]) for each in (one, two)]
    assert nonces[0]
    assert nonces[1]
    assert nonces[0][1] != nonces[1][1]
    assert b"innerHTML" not in one.body


def test_through_a_socket() -> None:
    with running(team()) as address, http(address) as client:
        assert client.get("/health").json() == {"status": "ok"}
        answered = client.post("/v1/responses", json={"input": "What is 6 * 7?"})
        assert answered.json()["output"][0]["content"][0]["text"] == "The answer is 42."
        with client.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as stream:
            lines = [line for line in stream.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        assert client.get("/nowhere").status_code == 404
        assert client.put("/v1/responses").status_code == 405

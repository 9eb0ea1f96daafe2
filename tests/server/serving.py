"""A server for tests: a service on agents that answer by a function, in a thread of its own or without a socket."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from trinity_mlx.contracts.pool import Agent, Pool, Price
from trinity_mlx.contracts.provider import Finish, OnText, Reply, Request, Usage
from trinity_mlx.contracts.routing import Read, Role, RouteDecision, Timings
from trinity_mlx.contracts.transcript import Message, Refusal, Text, ToolCall, Transcript
from trinity_mlx.rules.choice import choose
from trinity_mlx.runs.coordinator import Coordinator
from trinity_mlx.runs.retry import RetryPolicy
from trinity_mlx.server.app import create_app
from trinity_mlx.server.auth import Keys
from trinity_mlx.server.process import Server, listen, serve
from trinity_mlx.server.routers import ServedRouter
from trinity_mlx.server.service import Service, Settings

from ..run_cases import AT_ONCE, FixedRouter, toward
from .published_types import check_answer

Says = Callable[[Request], "Reply | str | Exception"]
ACCEPT = "ACCEPT: it is right."
W, T, V = Role.WORKER, Role.THINKER, Role.VERIFIER


class AsyncRouter(FixedRouter):
    """The fixed plan, read as a server reads: by how many replies came since the last user's message."""

    hold: asyncio.Event | None = None

    async def read(self, transcript: Transcript) -> Read:
        if self.hold is not None:
            await self.hold.wait()
        await asyncio.sleep(0)
        last = max((i for i, message in enumerate(transcript.messages) if message.role == "user"), default=-1)
        replies = sum(each.role == "assistant" and not each.tool_calls for each in transcript.messages[last + 1 :])
        entry = self.plan[min(replies, len(self.plan) - 1)]
        if isinstance(entry, Exception):
            raise entry
        return Read(entry, 7, 0, transcript.sha256, None)

    def route(self, transcript: Transcript) -> RouteDecision:
        entry = self.plan[0]
        assert not isinstance(entry, Exception)
        timings = Timings(1.0, 1.0)
        labels, identity = self.identity.labels, self.identity.artifact
        return RouteDecision(choose(entry), labels[0], entry, 7, 0, transcript.sha256, identity, "cpu", timings)


ONCE = {"retry": RetryPolicy(attempts=1)}
TEAM = (toward(0, W), toward(1, V))


@dataclass
class Talker:
    """A provider that answers by a function and remembers what it was asked; text is streamed word by word.

    ``between`` is awaited after each streamed word, ``after`` once before the reply is handed over.
    """

    agent: Agent
    says: Says
    requests: list[Request] = field(default_factory=list)
    between: Callable[[], Any] | None = None
    after: Callable[[], Any] | None = None
    is_live = False

    async def reply(self, request: Request, on_text: OnText | None = None) -> Reply:
        self.requests.append(request)
        said = self.says(request)
        if isinstance(said, Exception):
            raise said
        reply = said if isinstance(said, Reply) else text_reply(said)
        if on_text is not None:
            for word in re.findall(r"\s*\S+\s*", reply.text):
                on_text(word)
                await (asyncio.sleep(0) if self.between is None else self.between())
        if self.after is not None:
            await self.after()
        return reply

    async def close(self) -> None:
        """Nothing is held."""


def text_reply(text: str, finish: Finish = Finish.STOP) -> Reply:
    return Reply(Message("assistant", text), finish, "a-model", Usage(11, 7))


def calls_reply(*calls: tuple[str, Mapping[str, Any]], text: str = "") -> Reply:
    parts = [ToolCall(f"theirs-{index}", name, json.dumps(arguments)) for index, (name, arguments) in enumerate(calls)]
    content = (*([Text(text)] if text else []), *parts)
    return Reply(Message("assistant", content), Finish.TOOL_CALLS, "a-model", Usage(13, 5))


def refusal_reply(text: str) -> Reply:
    return Reply(Message("assistant", (Refusal(text),)), Finish.REFUSED, "a-model", Usage(11, 3))


def agent(slot: int, **fields: Any) -> Agent:
    values = {"name": f"agent-{slot}", "provider": "talker", "model": f"m-{slot}", "price": Price(1.0, 2.0)}
    return Agent(slot=slot, accepts=("tools", "images"), **{**values, **fields})


@dataclass
class Team:
    """Everything behind a server under test."""

    service: Service
    router: AsyncRouter
    talkers: dict[str, Talker]

    @property
    def calls(self) -> int:
        return sum(len(talker.requests) for talker in self.talkers.values())


def by_role(answer: Says | Reply | str | Exception, verdict: str = ACCEPT, plan: str = "A plan.") -> Says:
    """What a team says: ``answer`` as Worker, ``verdict`` as Verifier, ``plan`` as Thinker."""

    def says(request: Request) -> Reply | str | Exception:
        if request.role is Role.VERIFIER:
            return verdict
        if request.role is Role.THINKER:
            return plan
        return answer(request) if callable(answer) else answer

    return says


def team(
    says: Says | Reply | str | Exception = "The answer is 42.",
    *,
    plan: Sequence[Any] = TEAM,
    agents: int = 2,
    settings: Settings | None = None,
    keys: Sequence[str] = (),
    router: Mapping[str, Any] | None = None,
    coordinator: Mapping[str, Any] | None = None,
    aliases: Mapping[str, str] | None = None,
    secret: bytes = b"test",
    pools: Sequence[str] = ("home",),
    between: Callable[[], Any] | None = None,
    after: Callable[[], Any] | None = None,
) -> Team:
    """A service whose agents all say ``says``, and wait as ``Talker`` says for ``between`` and ``after``."""
    speak = says if callable(says) else by_role(says)
    talkers: dict[str, Talker] = {}

    def make(each: Agent, key: str | None) -> Talker:
        return talkers.setdefault(each.name, Talker(each, speak, between=between, after=after))

    fixed = AsyncRouter(*plan)
    served = ServedRouter(fixed, **(router or {}))
    teams = {
        name: Coordinator(
            served,
            Pool(name, tuple(agent(slot) for slot in range(agents))),
            providers=make,
            **{"retry": AT_ONCE, **(coordinator or {})},
        )
        for name in pools
    }
    return Team(Service(teams, served, settings, Keys(keys), aliases, secret), fixed, talkers)


@contextmanager
def running(served: Team, grace_s: float = 5.0) -> Iterator[str]:
    """The address of a server in a thread, which is stopped in order at the end."""
    place = listen("127.0.0.1", 0)
    port = place.getsockname()[1]
    started, loops = threading.Event(), []

    async def main() -> None:
        server = _Threaded(create_app(served.service), served.service, grace_s, lambda _: None)
        loops.append((asyncio.get_running_loop(), server))
        started.set()
        await serve(server, served.service, place)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop, server = loops[0]
        loop.call_soon_threadsafe(server.stop)
        thread.join(120)
        place.close()
    assert not thread.is_alive()


class _Threaded(Server):
    """Signals belong to the main thread, which is pytest's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Direct:
    """Requests to an application in this event loop, without a socket."""

    def __init__(self, served: Team, **headers: str) -> None:
        self.app = create_app(served.service)
        self.headers = {"host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}

    async def __call__(
        self, path: str, body: Any = None, *, method: str | None = None, leave_after: int | None = None, **headers: str
    ) -> Answered:
        """Send one request; ``leave_after`` closes the connection once so many pieces of the answer have come."""
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        given = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        answered = Answered()
        left = asyncio.Event()
        pending = [{"type": "http.request", "body": content, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if pending:
                return pending.pop(0)
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(event: Any) -> None:
            if event["type"] == "http.response.start":
                answered.status = event["status"]
                answered.headers = {key.decode(): value.decode("latin-1") for key, value in event["headers"]}
            elif event.get("body"):
                answered.pieces.append(event["body"])
            if not event.get("more_body", True) or len(answered.pieces) == leave_after:
                left.set()
            await asyncio.sleep(0)

        if leave_after == 0:
            asyncio.get_running_loop().call_later(0.01, left.set)
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method or ("GET" if body is None else "POST"),
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
        }
        await self.app(scope, receive, send)
        is_whole = leave_after is None and scope["method"] in ("GET", "POST")
        if is_whole:
            check_answer(path, answered.status, answered.headers.get("content-type", ""), answered.body)
        return answered


@dataclass
class Answered:
    """What came back."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[tuple[str, Any]]:
        """Each event: its name (empty where it has none) and its data; comments are left out."""
        return parse_events(self.body.decode())


def parse_events(text: str) -> list[tuple[str, Any]]:
    """The events of a stream."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            data = fields["data"]
            events.append((fields.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return events


def client(address: str, **headers: str) -> httpx2.Client:
    return httpx2.Client(base_url=address, headers=headers, timeout=120)

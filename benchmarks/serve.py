"""What the server costs: `python benchmarks/serve.py` prints each figure beside its floor.

Overhead: 50 streams at once, each answered by a provider that gives ten words over half a second and writes into its
first and last word when it was called and when it ended. Overhead is the time from the request's last byte to the
provider's call, and from the provider's end to the answer's last byte; nothing is routed. The floor is a bare
starlette application that reads the JSON, calls the same provider and passes its words on. Both run in processes of
their own, by turns; their processor time is told besides, which other programs do not disturb.

Soak: so many streams of five seconds at once for so long, each with an answer of its own, held against what was asked;
then files, tasks and memory of the server. First event: from the request to the first word of progress, router
included, and the route's share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

WORDS, PAUSE_S, SLOW = 10, 0.05, 10
TARGET = {"p50": 2.0, "p99": 5.0}


async def words_of(prompt: str) -> AsyncIterator[str]:
    """The provider: when it was called, the prompt's last word again and again, and when it ended."""
    yield f"called={time.monotonic_ns()} "
    for _ in range(WORDS):
        await asyncio.sleep(SLOW * PAUSE_S if "slowly" in prompt else PAUSE_S)
        yield prompt.rsplit(" ", 1)[-1] + " "
    yield f"ended={time.monotonic_ns()}"


def floor_app() -> Any:
    """A bare pass-through: JSON in, the provider's words out."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def passed_through(request: Request) -> StreamingResponse:
        prompt = (await request.json())["messages"][-1]["content"]

        async def frames() -> AsyncIterator[bytes]:
            async for word in words_of(prompt):
                yield b"data: " + json.dumps({"choices": [{"delta": {"content": word}}]}).encode() + b"\n\n"
            yield b"data: [DONE]\n\n"

        return StreamingResponse(frames(), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", passed_through, methods=["POST"])])


def served_app() -> Any:
    """The server, on nano and a pool whose one agent answers by ``words_of``."""
    from trinity_mlx.contracts.pool import Agent, Pool
    from trinity_mlx.contracts.provider import Finish, OnText, Reply, Request, Usage
    from trinity_mlx.contracts.transcript import Message
    from trinity_mlx.routing.loading import load_router
    from trinity_mlx.runs.coordinator import Coordinator
    from trinity_mlx.server.app import create_app
    from trinity_mlx.server.capacity import Room
    from trinity_mlx.server.routers import ServedRouter
    from trinity_mlx.server.service import Service, Settings

    class Words:
        is_live = False

        async def reply(self, request: Request, on_text: OnText | None = None) -> Reply:
            words = []
            async for word in words_of(request.messages[-1].text):
                words.append(word)
                if on_text is not None:
                    on_text(word)
            return Reply(Message("assistant", "".join(words)), Finish.STOP, "words", Usage(1, WORDS))

        async def close(self) -> None:
            """Nothing is held."""

    router = ServedRouter(load_router("nano"))
    pool = Pool("words", tuple(Agent(slot, f"agent-{slot}", "words") for slot in range(7)))
    team = Coordinator(router, pool, providers=lambda agent, key: Words())
    settings = Settings(room=Room(at_once=2_000, waiting=100, per_key=4_000))
    return create_app(Service({"words": team}, router, settings))


def serve(kind: str) -> None:
    """Serve one of the two until the process ends; ``/tasks`` tells how many tasks there are."""
    import uvicorn

    from trinity_mlx.server.asgi import send_json

    app = floor_app() if kind == "floor" else served_app()

    async def with_tasks(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") == "/tasks":
            await send_json(send, 200, {"tasks": len(asyncio.all_tasks())})
        else:
            await app(scope, receive, send)

    from trinity_mlx.server.process import listen, settle

    settle()
    place = listen("127.0.0.1", 0)
    print(place.getsockname()[1], flush=True)
    config = uvicorn.Config(with_tasks, log_config=None, access_log=False, lifespan="off", proxy_headers=False)
    asyncio.run(uvicorn.Server(config).serve(sockets=[place]))


@dataclass(frozen=True)
class Served:
    """A server in a process of its own."""

    port: int
    pid: int

    @property
    def files(self) -> int:
        """Open files and sockets; -1 where the system does not tell."""
        folder = Path(f"/proc/{self.pid}/fd")
        return len(list(folder.iterdir())) if folder.is_dir() else -1

    @property
    def memory_mib(self) -> float:
        """Resident memory; -1 where the system does not tell."""
        status = Path(f"/proc/{self.pid}/status")
        found = re.search(r"VmRSS:\s+(\d+)", status.read_text()) if status.is_file() else None
        return int(found[1]) / 1024 if found else -1.0

    @property
    def cpu_s(self) -> float:
        """Seconds of processor time so far; 0 where the system does not tell."""
        place = Path(f"/proc/{self.pid}/stat")
        if not place.is_file():
            return 0.0
        user, system = place.read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    async def tasks(self) -> int:
        """Tasks in its event loop."""
        answer = await ask(self.port, b"GET /tasks HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        return int(json.loads(answer.text)["tasks"])


@contextmanager
def running(kind: str) -> Iterator[Served]:
    """A server for the time of the block."""
    process = subprocess.Popen([sys.executable, __file__, "--serve", kind], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Served(int(process.stdout.readline()), process.pid)
    finally:
        process.terminate()
        process.wait()


@dataclass
class Answer:
    """One answer, and when its parts came (nanoseconds of the monotonic clock)."""

    sent: int = 0
    first: int = 0
    ended: int = 0
    body: bytearray = field(default_factory=bytearray)

    @property
    def text(self) -> str:
        """The body, without the head and the lengths of its chunks."""
        return self.body.decode().partition("\r\n\r\n")[2]

    @property
    def content(self) -> str:
        """The words that were streamed."""
        found = re.findall(r"^data: (\{.*\})$", self.text, re.MULTILINE)
        deltas = [json.loads(each)["choices"] for each in found]
        return "".join(choices[0]["delta"].get("content") or "" for choices in deltas if choices)


async def ask(port: int, request: bytes, until: bytes | None = None) -> Answer:
    """Send bytes and read to the end of the connection, or until ``until`` is there; then the client leaves."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = Answer(sent=time.monotonic_ns())
    writer.write(request)
    while piece := await reader.read(65_536):
        answer.body += piece
        answer.ended = time.monotonic_ns()
        answer.first = answer.first or answer.ended
        if until is not None and until in answer.body:
            break
    writer.close()
    return answer


def chat(model: str, prompt: str) -> bytes:
    """A request for a stream."""
    body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": prompt}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
    return f"{head}connection: close\r\ncontent-type: application/json\r\n\r\n".encode() + body


def overhead_ms(answer: Answer) -> float:
    """Milliseconds before the provider was called and after it had ended."""
    called, ended = (int(re.search(rf"{name}=(\d+)", answer.content)[1]) for name in ("called", "ended"))  # type: ignore[index]
    return (called - answer.sent + answer.ended - ended) / 1e6


async def round_of(port: int, streams: int) -> list[float]:
    """Overheads of so many streams at once, begun one after another over the time of one."""

    async def one(number: int) -> float:
        await asyncio.sleep(number * WORDS * PAUSE_S / streams)
        return overhead_ms(await ask(port, chat("trinity:slot=0", f"Say word-{number}")))

    return await asyncio.gather(*map(one, range(streams)))


def quantiles(values: list[float]) -> dict[str, float]:
    """The median and the 99th percentile."""
    ordered = sorted(values)
    return {"p50": median(ordered), "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]}


async def overhead(streams: int, rounds: int) -> None:
    """Overhead of both servers, by turns."""
    seen: dict[str, list[float]] = {"floor": [], "served": []}
    used: dict[str, float] = {}
    with running("floor") as floor, running("served") as served:
        for number in range(rounds + 1):
            for kind, server in (("floor", floor), ("served", served)):
                values = await round_of(server.port, streams)
                seen[kind] += values if number else []
                used.setdefault(kind, -server.cpu_s)
        for kind, server in (("floor", floor), ("served", served)):
            used[kind] += server.cpu_s
    print(f"overhead of {streams} streams at once, {rounds} rounds, ms beyond the provider")
    for kind, values in seen.items():
        told = quantiles(values)
        cpu_ms = used[kind] / len(values) * 1000
        print(f"  {kind:8} p50 {told['p50']:6.2f}   p99 {told['p99']:6.2f}   of {len(values)}; processor {cpu_ms:.2f}")
    print(f"  target   p50 {TARGET['p50']:6.2f}   p99 {TARGET['p99']:6.2f}")


async def soak(streams: int, seconds: float) -> None:
    """So many streams at once for so long; each answer is held against its question."""
    done: list[Answer] = []
    faults: list[str] = []
    with running("served") as server:
        await round_of(server.port, 20)
        before = (server.files, await server.tasks(), server.memory_mib)
        ends = time.monotonic() + seconds

        async def one(number: int) -> None:
            await asyncio.sleep(number / streams * SLOW * PAUSE_S * WORDS)
            count = 0
            while time.monotonic() < ends:
                count += 1
                word = f"w{number}-{count}"
                answer = await ask(server.port, chat("trinity:slot=0", f"Say slowly {word}"))
                told = re.sub(r"called=\d+ |ended=\d+", "", answer.content).split()
                if told != [word] * WORDS or not answer.text.rstrip().endswith(("[DONE]", "0")):
                    faults.append(f"{word}: {told[:3]}")
                done.append(Answer(answer.sent, answer.first, answer.ended))

        await asyncio.gather(*map(one, range(streams)))
        await asyncio.sleep(1)
        after = (server.files, await server.tasks(), server.memory_mib)
    print(f"soak: {streams} streams at once for {seconds:g} s: {len(done)} answers, {len(faults)} mixed up or cut")
    names = ("files", "tasks", "MiB of memory")
    told = (f"{name} {old:.0f} -> {new:.0f}" for name, old, new in zip(names, before, after, strict=True))
    print(f"  {', '.join(told)}")
    for fault in faults[:5]:
        print(f"  {fault}")


async def first_event(count: int) -> None:
    """From the request to the first word of progress, one request after another; the route's share beside it."""
    with running("served") as server:
        waits = []
        for number in range(count + 3):
            request = chat("trinity", f"Question {number}: say word-{number}")
            answer = await ask(server.port, request, b"reasoning_content")
            waits.append((answer.ended - answer.sent) / 1e6)
        metrics = (await ask(server.port, METRICS)).text
    routed, routes = (_value(f"trinity_route_seconds_{name}", metrics) for name in ("sum", "count"))
    told = quantiles(waits[3:])
    route_ms = routed / routes * 1000
    print(
        f"first event: p50 {told['p50']:.1f} ms, p99 {told['p99']:.1f} ms; a route takes {route_ms:.1f} ms in the mean"
    )


def _value(name: str, metrics: str) -> float:
    """The value of one metric without labels."""
    found = re.search(rf"^{name} (\S+)$", metrics, re.MULTILINE)
    assert found is not None
    return float(found[1])


METRICS = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def main() -> None:
    """Run what was asked for; everything by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--soak-streams", type=int, default=500)
    parser.add_argument("--soak-seconds", type=float, default=60.0)
    parser.add_argument("--only", choices=["overhead", "soak", "first-event"])
    parser.add_argument("--serve", choices=["floor", "served"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve)
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if asked.only in (None, "overhead"):
        asyncio.run(overhead(asked.streams, asked.rounds))
    if asked.only in (None, "first-event"):
        asyncio.run(first_event(30))
    if asked.only in (None, "soak"):
        asyncio.run(soak(asked.soak_streams, asked.soak_seconds))


if __name__ == "__main__":
    main()

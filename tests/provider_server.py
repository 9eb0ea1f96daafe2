"""A web server on this machine that plays OpenAI's and Anthropic's endpoints, and misbehaves on request.

A request's model name says how it is answered, so one server can serve many runs at once::

    echo, or any other name      "reply to: <the last message>", or what ``server.answer`` makes of the request
    fault:429                    the fault of that name in FAULTS, or added to ``server.faults``
    fault:429*2/run-17           twice, for exactly this name, and then a right answer

Every error of a status repeats the key that it was sent, as some providers do.
"""

from __future__ import annotations

import asyncio
import atexit
import gzip
import json
import re
import socket
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from types import TracebackType
from typing import Any, Self

import trustme

REASONS = {200: "OK", 302: "Found", 429: "Too Many Requests", 500: "Internal Server Error"}
HUGE = 100 * 1024 * 1024
ANTHROPIC_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass(frozen=True)
class Received:
    """One request: ``api`` is ``openai`` or ``anthropic``."""

    api: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def model(self) -> str:
        return str(self.body.get("model"))

    @property
    def is_streamed(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def key(self) -> str:
        """The key that was sent."""
        return self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def last_message(self) -> str:
        messages = self.body.get("messages") or [{"content": ""}]
        return str(messages[-1]["content"])


@dataclass(frozen=True)
class Said:
    """What a model says: text, calls of tools as (id, name, arguments), or a refusal."""

    text: str | None = None
    calls: tuple[tuple[str, str, str], ...] = ()
    refusal: str | None = None
    finish: str | None = "stop"


@dataclass
class Exchange:
    """One request, and the means to answer it."""

    received: Received
    server: ProviderServer
    writer: asyncio.StreamWriter
    keeps_open: bool = True

    async def send(self, content: bytes) -> None:
        self.writer.write(content)
        await self.writer.drain()

    async def head(self, status: int, content_type: str, length: int | None, **headers: object) -> None:
        """The head of an answer; without a length the body ends with the connection."""
        self.keeps_open = length is not None
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}", f"content-type: {content_type}"]
        lines += [f"content-length: {length}"] if length is not None else ["connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "x-request-id: req-1", "request-id: req-1", "", ""]).encode())

    async def whole(self, content: bytes, content_type: str = JSON, status: int = 200, **headers: object) -> None:
        await self.head(status, content_type, len(content), **headers)
        await self.send(content)

    async def json(self, value: object, status: int = 200, **headers: object) -> None:
        await self.whole(json.dumps(value).encode(), status=status, **headers)

    async def reply(self, text: str, finish: str | None = "stop") -> None:
        """A right answer of the API that was asked, streamed if that was asked for."""
        await self.say(Said(text, finish=finish))

    async def say(self, said: Said) -> None:
        """A right answer of any kind, streamed if that was asked for."""
        if self.received.is_streamed:
            await self.head(200, EVENTS, None)
            for event in events_of(self.received, said):
                await self.send(event)
        else:
            await self.json(answer_of(self.received, said))

    async def forever(self) -> None:
        """Do nothing until the client goes or the server ends."""
        await asyncio.Event().wait()

    def cut(self) -> None:
        self.keeps_open = False
        self.writer.transport.abort()


Behaviour = Callable[[Exchange], Awaitable[None]]
Answer = Callable[[Received], str | Said]


def echo(received: Received) -> str:
    """The standard answer."""
    return f"reply to: {received.last_message}"


def whole_answer(received: Received, text: str | None, finish: str | None = "stop") -> dict[str, Any]:
    """A whole reply as the API shapes it; usage counts words."""
    return answer_of(received, Said(text, finish=finish))


def answer_of(received: Received, said: Said) -> dict[str, Any]:
    """A whole reply of any kind as the API shapes it."""
    asked, made = count_words(received), len((said.text or "").split())
    if received.api == "anthropic":
        text = [] if said.text is None else [{"type": "text", "text": said.text}]
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": received.model,
            "content": [*text, *(tool_use(call) for call in said.calls)],
            **anthropic_stop(said),
            "usage": {"input_tokens": asked, "output_tokens": made},
        }
    message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": said.refusal}
    if said.calls:
        message["tool_calls"] = [function_call(call) for call in said.calls]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": received.model,
        "choices": [{"index": 0, "message": message, "finish_reason": said.finish, "logprobs": None}],
        "usage": {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made},
    }


def function_call(call: tuple[str, str, str]) -> dict[str, Any]:
    identity, name, arguments = call
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool_use(call: tuple[str, str, str]) -> dict[str, Any]:
    identity, name, arguments = call
    return {"type": "tool_use", "id": identity, "name": name, "input": json.loads(arguments)}


def anthropic_stop(said: Said) -> dict[str, Any]:
    if said.refusal is not None:
        details = {"type": "refusal", "category": None, "explanation": said.refusal}
        return {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}
    return {"stop_reason": ANTHROPIC_STOPS.get(said.finish or "", said.finish), "stop_sequence": None}


def count_words(received: Received) -> int:
    return sum(len(str(message["content"]).split()) for message in received.body.get("messages", []))


def stream_events(received: Received, text: str, finish: str | None = "stop") -> list[bytes]:
    """A streamed reply word by word, as the API shapes it; without ``finish`` it just ends."""
    return events_of(received, Said(text, finish=finish))


def events_of(received: Received, said: Said) -> list[bytes]:
    """A streamed reply of any kind: text and refusal word by word, arguments in pieces, calls interleaved where they
    may be."""
    words = re.findall(r"\s*\S+\s*|\s+", said.text or "")
    make = anthropic_events if received.api == "anthropic" else openai_events
    return make(received, words, said)


def pieces_of(text: str, size: int = 4) -> list[str]:
    return [text[begin : begin + size] for begin in range(0, len(text), size)]


def call_deltas(said: Said) -> list[dict[str, Any]]:
    """The deltas of all calls: each begins, and then their arguments come by turns."""
    begun = [
        {"index": index, "id": identity, "type": "function", "function": {"name": name, "arguments": ""}}
        for index, (identity, name, _) in enumerate(said.calls)
    ]
    rest = [
        (place, {"index": index, "function": {"arguments": piece}})
        for index, (_, _, arguments) in enumerate(said.calls)
        for place, piece in enumerate(pieces_of(arguments))
    ]
    return begun + [delta for _, delta in sorted(rest, key=lambda pair: pair[0])]


def openai_events(received: Received, words: list[str], said: Said) -> list[bytes]:
    def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": received.model}
        return f"data: {json.dumps({**head, 'choices': choices, **more})}\n\n".encode()

    def piece(delta: dict[str, Any], reason: str | None = None) -> bytes:
        return chunk([{"index": 0, "delta": delta, "finish_reason": reason}])

    events = [piece({"role": "assistant", "content": ""}), *(piece({"content": word}) for word in words)]
    events += [piece({"refusal": word}) for word in pieces_of(said.refusal or "")]
    events += [piece({"tool_calls": [delta]}) for delta in call_deltas(said)]
    if said.finish:
        events.append(piece({}, said.finish))
    if (received.body.get("stream_options") or {}).get("include_usage"):
        asked = count_words(received)
        usage = {"prompt_tokens": asked, "completion_tokens": len(words), "total_tokens": asked + len(words)}
        events.append(chunk([], usage=usage))
    return [*events, b"data: [DONE]\n\n"]


def anthropic_events(received: Received, words: list[str], said: Said) -> list[bytes]:
    def event(kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()

    message = {**whole_answer(received, None), "stop_reason": None}
    message["usage"] = {"input_tokens": count_words(received), "output_tokens": 1}
    events = [
        event("message_start", message=message),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("ping"),
        *(event("content_block_delta", index=0, delta={"type": "text_delta", "text": word}) for word in words),
        event("content_block_stop", index=0),
    ]
    for index, call in enumerate(said.calls, start=1):
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *pieces_of(call[2])]]
        events += [
            event("content_block_start", index=index, content_block={**tool_use(call), "input": {}}),
            *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
            event("content_block_stop", index=index),
        ]
    if said.finish:
        stop = anthropic_stop(said)
        events.append(event("message_delta", delta=stop, usage={"output_tokens": len(words)}))
    return [*events, event("message_stop")]


def status(code: int, kind: str = "some_error", **headers: object) -> Behaviour:
    """An error that repeats the key."""

    async def behave(exchange: Exchange) -> None:
        message = f"status {code} for the key {exchange.received.key}"
        await exchange.json({"error": {"message": message, "type": kind, "code": kind}}, code, **headers)

    return behave


def reply(text: str, finish: str | None = "stop") -> Behaviour:
    return lambda exchange: exchange.reply(text, finish)


def say(**said: Any) -> Behaviour:
    return lambda exchange: exchange.say(Said(**said))


def with_usage(**numbers: Any) -> Behaviour:
    """A right answer whose counts are these, whatever the API calls them."""

    async def behave(exchange: Exchange) -> None:
        answer = whole_answer(exchange.received, "ACCEPT: 42")
        names = list(answer["usage"])[:2]
        answer["usage"] |= dict(zip(names, numbers.values(), strict=True))
        await exchange.json(answer)

    return behave


def whole(content: bytes, content_type: str = JSON, **headers: object) -> Behaviour:
    return lambda exchange: exchange.whole(content, content_type, **headers)


async def retry_date(exchange: Exchange) -> None:
    when = datetime.now(UTC) + timedelta(hours=1)
    await status(429, retry_after=format_datetime(when, usegmt=True))(exchange)


async def error_in_success(exchange: Exchange) -> None:
    await exchange.json({"error": {"message": f"no room for {exchange.received.key}", "type": "some_error"}})


async def error_in_stream(exchange: Exchange) -> None:
    """Some text, and then an error; for a whole reply, the error alone."""
    if not exchange.received.is_streamed:
        await error_in_success(exchange)
        return
    error = {"type": "error", "error": {"message": f"overloaded: {exchange.received.key}", "type": "overloaded_error"}}
    prefix = "event: error\n" if exchange.received.api == "anthropic" else ""
    await exchange.head(200, EVENTS, None)
    for event in stream_events(exchange.received, "half an", None)[:-1]:
        await exchange.send(event)
    await exchange.send(f"{prefix}data: {json.dumps(error)}\n\n".encode())


async def null_content(exchange: Exchange) -> None:
    await exchange.json(whole_answer(exchange.received, None))


async def only_reasoning(exchange: Exchange) -> None:
    """An answer that stayed in the field for reasoning."""
    if exchange.received.api == "anthropic":
        block = {"type": "thinking", "thinking": "ACCEPT?", "signature": "s"}
        await exchange.json({**whole_answer(exchange.received, None), "content": [block]})
        return
    message = {"role": "assistant", "content": None, "reasoning_content": "ACCEPT?"}
    if exchange.received.is_streamed:
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        choice = {"index": 0, "delta": message, "finish_reason": "stop"}
        data = json.dumps({**chunk, "choices": [choice]})
        await exchange.whole(f"data: {data}\n\ndata: [DONE]\n\n".encode(), EVENTS)
        return
    answer = whole_answer(exchange.received, None)
    await exchange.json({**answer, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


async def no_choices(exchange: Exchange) -> None:
    answer = whole_answer(exchange.received, "text")
    await exchange.json({name: value for name, value in answer.items() if name not in ("choices", "content")})


async def other_shape(exchange: Exchange) -> None:
    await exchange.json({"choices": "none", "content": "none"})


async def truncated_json(exchange: Exchange) -> None:
    await exchange.whole(json.dumps(whole_answer(exchange.received, "text")).encode()[:-20])


async def packed(exchange: Exchange) -> None:
    """A right answer, compressed though nobody asked for that."""
    content = gzip.compress(json.dumps(whole_answer(exchange.received, "text")).encode())
    await exchange.whole(content, content_encoding="gzip")


async def wrong_type(exchange: Exchange) -> None:
    """A right body under a wrong name."""
    await exchange.whole(json.dumps(whole_answer(exchange.received, "text")).encode(), "application/octet-stream")


async def cut(exchange: Exchange) -> None:
    """Half an answer, and the connection is gone."""
    await half(exchange)
    await asyncio.sleep(0.02)
    exchange.cut()


async def stalled(exchange: Exchange) -> None:
    """Half an answer, and then nothing."""
    await half(exchange)
    await exchange.forever()


async def half(exchange: Exchange) -> None:
    if exchange.received.is_streamed:
        await exchange.head(200, EVENTS, 100_000)
        for event in stream_events(exchange.received, "half of an answer")[:4]:
            await exchange.send(event)
    else:
        content = json.dumps(whole_answer(exchange.received, "half of an answer")).encode()
        await exchange.head(200, JSON, len(content))
        await exchange.send(content[: len(content) // 2])


async def dripped(exchange: Exchange) -> None:
    """One byte a second."""
    content = b"".join(stream_events(exchange.received, "very slowly"))
    if not exchange.received.is_streamed:
        content = json.dumps(whole_answer(exchange.received, "very slowly")).encode()
    await exchange.head(200, EVENTS if exchange.received.is_streamed else JSON, len(content))
    for byte in content:
        await exchange.send(bytes([byte]))
        await asyncio.sleep(exchange.server.drip_s)


async def huge(exchange: Exchange) -> None:
    """More than anybody would read."""
    await exchange.head(200, EVENTS if exchange.received.is_streamed else JSON, HUGE)
    block = b"x" * 65534 + b"\n\n"
    for _ in range(HUGE // len(block)):
        await exchange.send(block)
        exchange.server.sent_bytes += len(block)


async def broken_events(exchange: Exchange) -> None:
    """Events whose data are no JSON."""
    await exchange.whole(b"event: content_block_delta\ndata: {half\n\n", EVENTS)


async def garbage(exchange: Exchange) -> None:
    await exchange.send(b"\x00\x01 this is not HTTP\r\n\r\n")
    exchange.cut()


async def hung_up(exchange: Exchange) -> None:
    exchange.cut()


async def slow_header(exchange: Exchange) -> None:
    await exchange.forever()


FAULTS: dict[str, Behaviour] = {
    **{str(code): status(code) for code in (400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529)},
    "429-retry-after": status(429, retry_after=1),
    "429-retry-ms": status(429, retry_after_ms=20),
    "429-retry-date": retry_date,
    "429-long": status(429, retry_after=3600),
    "429-quota": status(429, kind="insufficient_quota"),
    "503-retry-after": status(503, retry_after=1),
    "redirect": status(302, location="http://127.0.0.1:9/elsewhere"),
    "empty-body": whole(b""),
    "html": whole(b"<html><h1>It works!</h1></html>", "text/html"),
    "truncated-json": truncated_json,
    "deep-json": whole(b"[" * 200_000),
    "not-utf8": whole(b'{"choices": "\xff\xfe"}'),
    "wrong-type": wrong_type,
    "other-shape": other_shape,
    "packed": packed,
    "error-in-200": error_in_success,
    "error-in-stream": error_in_stream,
    "empty-answer": reply(""),
    "blank-answer": reply(" \n \n"),
    "null-answer": null_content,
    "only-reasoning": only_reasoning,
    "lone-surrogate": reply("not a character: \ud800"),
    "no-choices": no_choices,
    "length": reply("an answer without its", "length"),
    "length-empty": reply("", "length"),
    "thinking": reply("<think>\nHm. REVISE?\n</think>\n\nACCEPT"),
    "only-thinking": reply("<think>\nHm, and then", "length"),
    "withheld": reply("", "content_filter"),
    "no-finish": reply("an answer that just", None),
    "cut": cut,
    "stalled": stalled,
    "dripped": dripped,
    "slow-header": slow_header,
    "huge": huge,
    "broken-events": broken_events,
    "garbage": garbage,
    "hung-up": hung_up,
}


ODD: dict[str, Behaviour] = {
    "refused": say(refusal="I will not help with that.", finish="stop"),
    "refused-wordless": say(refusal="", finish="stop"),
    "calls": say(calls=(("call_1", "look_up", '{"city": "Köln"}'),), finish="tool_calls"),
    "negative-counts": with_usage(input=-1_000_000_000, output=5),
    "counts-beyond": with_usage(input=2**70, output=5),
    "counts-of-text": with_usage(input="many", output=5),
    "counts-of-thousands-of-digits": whole(b'{"choices": [], "content": [], "usage": {"n": ' + b"9" * 5000 + b"}}"),
}
"""Answers that are no failures, and one number that no program reads."""


@dataclass
class ProviderServer:
    """Serves between ``with`` and its end, on a free port of the loopback, on a thread of its own."""

    tls: bool = False
    answer: Answer = echo
    delay_s: float = 0.0
    """Waited before each right answer."""
    drip_s: float = 1.0
    faults: dict[str, Behaviour] = field(default_factory=lambda: FAULTS | ODD)
    requests: list[Received] = field(default_factory=list)
    sent_bytes: int = 0
    """What was sent of huge replies."""
    connections: int = 0
    """How many are open now."""
    port: int = 0
    _counts: Counter[str] = field(default_factory=Counter)
    _ready: threading.Event = field(default_factory=threading.Event)

    @property
    def origin(self) -> str:
        """The base_url of an Anthropic agent."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The base_url of an OpenAI-compatible agent."""
        return f"{self.origin}/v1"

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="provider-server")
        self._thread.start()
        assert self._ready.wait(60), "the server did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._closing = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=512, ssl=self._certificate())
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._closing.wait()
        server.close()
        await end_all_others()

    def _certificate(self) -> ssl.SSLContext | None:
        """One that nobody trusts."""
        if not self.tls:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
        return context

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            async for received in requests_of(reader):
                exchange = Exchange(received, self, writer)
                self.requests.append(received)
                await unless_gone(self._behaviour(received.model)(exchange), reader)
                if not exchange.keeps_open:
                    break
            writer.close()
            await writer.wait_closed()
        except (OSError, EOFError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self.connections -= 1

    def _behaviour(self, model: str) -> Behaviour:
        match = re.fullmatch(r"(?:.*:)?fault:(?P<name>[\w-]+)(?:\*(?P<times>\d+))?(?:/.*)?", model)
        if match is None:
            return self._answer
        self._counts[model] += 1
        is_over = match["times"] is not None and self._counts[model] > int(match["times"])
        return self._answer if is_over else self.faults[match["name"]]

    async def _answer(self, exchange: Exchange) -> None:
        await asyncio.sleep(self.delay_s)
        said = self.answer(exchange.received)
        await exchange.say(Said(said) if isinstance(said, str) else said)


async def end_all_others() -> None:
    """Leave no task and no transport to the garbage collector, also of those who were accepted a moment ago."""
    for _ in range(5):
        await asyncio.sleep(0)  # by then each of them has begun
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)  # their sockets are closed in the next turn


async def requests_of(reader: asyncio.StreamReader) -> AsyncIterator[Received]:
    """The requests of one connection."""
    while True:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        path = first.split(" ")[1]
        api = "anthropic" if path.endswith("/messages") else "openai"
        yield Received(api, path, headers, json.loads(content or b"{}"))


async def unless_gone(answering: Awaitable[None], reader: asyncio.StreamReader) -> None:
    """Answer, but stop as soon as the client has closed the connection."""
    answer = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(closed(reader))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            answer.result()
    finally:
        for task in (answer, gone):
            task.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)


async def closed(reader: asyncio.StreamReader) -> None:
    """The other side is gone, by an end or, where it left something unread, by a reset."""
    while not reader.at_eof() and reader.exception() is None:
        await asyncio.sleep(0.01)


@cache
def closed_port() -> int:
    """A port of the loopback on which nobody listens, nor will before this process ends: it is taken."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    atexit.register(taken.close)
    return int(taken.getsockname()[1])

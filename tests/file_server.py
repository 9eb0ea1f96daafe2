"""A web server on this machine that serves files, and misbehaves on request."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from .loopback import Quiet, serving

Behaviour = Callable[["Exchange"], None]


@dataclass
class FileServer:
    """What is served, how the next requests of each path are answered, and what was asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    script: dict[str, list[Behaviour]] = field(default_factory=dict)
    requests: list[tuple[str, int]] = field(default_factory=list)
    """Path and first byte of each request, in order."""
    headers: list[dict[str, str]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def add(self, path: str, content: bytes, *behaviours: Behaviour) -> str:
        """Serve ``content`` at ``path``, answering the first requests by ``behaviours``; returns the address."""
        self.files[path] = content
        self.script[path] = list(behaviours)
        return self.url + path


@dataclass
class Exchange:
    """One request for a file, and the means to answer it."""

    handler: BaseHTTPRequestHandler
    content: bytes
    start: int
    closing: threading.Event
    end: int | None = None

    def head(self, status: int, **headers: object) -> None:
        self.handler.send_response(status)
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), str(value))
        self.handler.end_headers()

    def body(self, content: bytes) -> None:
        self.handler.wfile.write(content)
        self.handler.wfile.flush()

    def promise_all(self) -> bytes:
        """The headers of a right answer; returns the bytes that should follow."""
        rest = self.content[self.start : self.end]
        if self.start or self.end:
            last = self.start + len(rest) - 1
            given = f"bytes {self.start}-{last}/{len(self.content)}"
            self.head(206, Content_Length=len(rest), Content_Range=given)
        else:
            self.head(200, Content_Length=len(rest))
        return rest

    def cut(self) -> None:
        self.handler.connection.shutdown(socket.SHUT_RDWR)


def serve(exchange: Exchange) -> None:
    if exchange.start >= len(exchange.content) > 0:
        exchange.head(416, Content_Length=0, Content_Range=f"bytes */{len(exchange.content)}")
    else:
        exchange.body(exchange.promise_all())


def ignore_range(exchange: Exchange) -> None:
    exchange.start = 0
    serve(exchange)


def drop_after(count: int) -> Behaviour:
    """Promise everything, send ``count`` bytes, and cut the connection."""

    def behave(exchange: Exchange) -> None:
        exchange.body(exchange.promise_all()[:count])
        exchange.cut()

    return behave


def ignore_range_and_drop_after(count: int) -> Behaviour:
    def behave(exchange: Exchange) -> None:
        exchange.start = 0
        drop_after(count)(exchange)

    return behave


def truncate_after(count: int) -> Behaviour:
    """Promise no length, send ``count`` bytes, and end as if that were all."""

    def behave(exchange: Exchange) -> None:
        exchange.handler.close_connection = True
        exchange.head(200, Connection="close")
        exchange.body(exchange.content[:count])

    return behave


def stall_at(place: int) -> Behaviour:
    """Send up to that byte of the content, and then nothing; the rest to who has come back from there."""

    def behave(exchange: Exchange) -> None:
        if exchange.start >= place:
            serve(exchange)
            return
        exchange.body(exchange.promise_all()[: place - exchange.start])
        exchange.closing.wait(60)

    return behave


def drip(piece: int, pause_s: float, until: int | None = None) -> Behaviour:
    """Send ``piece`` bytes at a time; from the byte ``until`` of the content on, nothing."""

    def behave(exchange: Exchange) -> None:
        rest = exchange.promise_all()
        for begin in range(0, len(rest), piece):
            if until is not None and exchange.start + begin >= until:
                exchange.closing.wait(60)
                return
            exchange.body(rest[begin : begin + piece])
            if exchange.closing.wait(pause_s):
                return

    return behave


def wrong_bytes(exchange: Exchange) -> None:
    exchange.content = bytes(byte ^ 1 for byte in exchange.content)
    serve(exchange)


def longer(exchange: Exchange) -> None:
    """More bytes than there should be, without a length."""
    exchange.handler.close_connection = True
    exchange.head(200, Connection="close")
    exchange.body(exchange.content + b"and more")


def begin_elsewhere(exchange: Exchange) -> None:
    """Answer a request for a part by another part, and say so."""
    exchange.start = exchange.start // 2
    exchange.body(exchange.promise_all())


def answer(status: int, **headers: object) -> Behaviour:
    return lambda exchange: exchange.head(status, **{"Content_Length": 0} | headers)


def redirect(url: str) -> Behaviour:
    return answer(302, Location=url)


@contextmanager
def running() -> Iterator[FileServer]:
    """A server on a free port of the loopback."""
    state = FileServer()
    with serving(_handler(state)) as state.url:
        try:
            yield state
        finally:
            state.closing.set()


def _handler(state: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            start, end = _range(self.headers.get("Range", ""))
            state.requests.append((path, start))
            state.headers.append({name.lower(): value for name, value in self.headers.items()})
            if path not in state.files:
                answer(404)(Exchange(self, b"", 0, state.closing))
                return
            behaviours = state.script.get(path, [])
            behave = behaviours.pop(0) if len(behaviours) > 1 else behaviours[0] if behaviours else serve
            try:
                behave(Exchange(self, state.files[path], start, state.closing, end))
            except OSError:
                self.close_connection = True

        def do_HEAD(self) -> None:
            """Only what a storage client needs to learn a file's size."""
            content = state.files.get(self.path.partition("?")[0])
            exchange = Exchange(self, b"", 0, state.closing)
            headers = {"ETag": '"x"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
            if content is None:
                exchange.head(404, Content_Length=0)
            else:
                exchange.head(200, Content_Length=len(content), **headers)

    return Handler


def _range(header: str) -> tuple[int, int | None]:
    """First byte asked for, and the one after the last."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", header)
    if match is None:
        return 0, None
    return int(match[1]), int(match[2]) + 1 if match[2] else None


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Return as soon as ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)

"""The few ASGI words that the server is written in: answers by hand, headers, and who has gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[str, str]]

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class ClientGone(Exception):
    """The client has closed its connection: nobody waits for the answer any more."""


def header(scope: Scope, name: str) -> str | None:
    """The first header of that name, decoded as latin-1; None where there is none."""
    wanted = name.lower().encode("latin-1")
    for key, value in scope.get("headers", ()):
        if key == wanted:
            return bytes(value).decode("latin-1")
    return None


async def send_head(send: Send, status: int, headers: Headers) -> None:
    """Begin an answer."""
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": pairs})


async def send_bytes(send: Send, status: int, body: bytes, content_type: str, headers: Headers = ()) -> None:
    """A whole answer."""
    head = [("content-type", content_type), ("content-length", str(len(body))), *headers]
    await send_head(send, status, head)
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, status: int, value: Mapping[str, Any], headers: Headers = ()) -> None:
    """A whole answer in JSON."""
    await send_bytes(send, status, to_json(value), JSON, headers)


def to_json(value: Any) -> bytes:
    """Compact JSON in UTF-8; a lone surrogate is written as its escape, which every reader of JSON takes."""
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


async def gone(receive: Receive) -> None:
    """Return when the client has gone; to be awaited once the body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def while_present(receive: Receive, is_answered: Callable[[], bool]) -> AsyncIterator[None]:
    """Cancels the block, to its very end, when the client goes.

    A client whose answer is whole (``is_answered``) may go: nothing is cancelled then.

    Raises:
        ClientGone: the client has gone.
    """
    task, has_gone = asyncio.current_task(), False
    assert task is not None

    async def watch() -> None:
        nonlocal has_gone
        await gone(receive)
        if not is_answered():
            has_gone = task.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except (asyncio.CancelledError, Exception):
        if not has_gone or task.cancelling() > 1:
            raise
    finally:
        await ended(watching)
    if has_gone:
        task.uncancel()
        raise ClientGone


async def ended(task: asyncio.Future[Any]) -> None:
    """Cancel ``task`` and see it end, whatever it makes of that."""
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task

"""One model over HTTP through an SDK: a whole answer or a stream, and every failure as one of our errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from ...contracts.provider import OnText, Reply, Request
from .failures import Callee, not_json, provider_failure
from .limits import BodyRefused

_END = object()


class Reader(Protocol):
    """Puts a streamed answer together."""

    def add(self, piece: object) -> None:
        """Take the next chunk or event; raises a ProviderError for one that is none."""

    def reply(self) -> Reply:
        """The whole reply; raises a ProviderError where there is none."""


class Sdk(Protocol):
    """What is different between SDKs.

    ``failures`` are the exceptions that it and the client below it raise, ``request_id_header`` names a response.
    """

    failures: tuple[type[Exception], ...]
    request_id_header: str

    async def create(self, request: Request, stream: bool) -> Any:
        """What the SDK makes of the answer: its object, or a stream of them."""

    def whole(self, answer: object, request_id: str | None) -> Reply:
        """The reply that a whole answer holds."""

    def reader(self, on_text: OnText, request_id: str | None) -> Reader:
        """What puts a streamed answer together."""

    async def close(self) -> None:
        """Give back the connections."""


class HttpProvider:
    """Calls one model through ``sdk``."""

    is_live = True

    def __init__(self, callee: Callee, sdk: Sdk) -> None:
        self._callee = callee
        self._sdk = sdk
        self._failures: tuple[type[Exception], ...] = (*sdk.failures, BodyRefused, ValueError, RecursionError)

    async def reply(self, request: Request, on_text: OnText | None = None) -> Reply:
        """One attempt; see ``Provider``. What ``on_text`` raises is raised here as it is."""
        return await (self._whole(request) if on_text is None else self._streamed(request, on_text))

    async def close(self) -> None:
        """Give back the connections."""
        await self._sdk.close()

    async def _whole(self, request: Request) -> Reply:
        with self._translated():
            answer = await self._sdk.create(request, stream=False)
        if isinstance(answer, str):  # what an SDK makes of a body that is not JSON
            raise not_json(self._callee, answer)
        return self._sdk.whole(answer, answer._request_id)

    async def _streamed(self, request: Request, on_text: OnText) -> Reply:
        with self._translated():
            stream = await self._sdk.create(request, stream=True)
        async with stream:
            headers: Mapping[str, str] = stream.response.headers
            request_id = headers.get(self._sdk.request_id_header)
            if not headers.get("content-type", "").startswith("text/event-stream"):
                reply = self._sdk.whole(await self._body(stream), request_id)
                if reply.text:
                    on_text(reply.text)
                return reply
            reader = self._sdk.reader(on_text, request_id)
            pieces = aiter(stream)
            while (piece := await self._next(pieces)) is not _END:
                reader.add(piece)
            return reader.reply()

    async def _body(self, stream: Any) -> object:
        with self._translated():
            return json.loads(await stream.response.aread())

    async def _next(self, pieces: AsyncIterator[object]) -> object:
        with self._translated():
            return await anext(pieces, _END)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What the SDK raises, as one of our errors."""
        try:
            yield
        except self._failures as error:
            raise provider_failure(self._callee, error) from None

"""HTTP clients that hold no reply of any size, follow no redirect and read no environment."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from functools import cache
from types import ModuleType
from typing import Any

import httpx2

MAX_REPLY_BYTES = 32 * 1024 * 1024
MAX_CONNECTIONS = 1000


class BodyRefused(Exception):
    """The body of a reply is larger than anybody would read, or packed so that its size cannot be told."""


def http_client(library: ModuleType, proxy: str | None = None, max_bytes: int = MAX_REPLY_BYTES) -> Any:
    """An ``AsyncClient`` of ``library`` (``httpx2``, or ``httpx`` where an SDK still needs that).

    Proxies and certificates named by environment variables are not used; a redirect is an answer, so that no key
    travels to another host; time is limited by whoever calls.
    """

    async def limit(response: Any) -> None:
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            await response.aclose()
            raise BodyRefused(f"the reply is packed as {encoding!r}, though only a plain one was asked for")
        response.stream = _limited(library, response.stream, max_bytes)

    return library.AsyncClient(
        verify=_tls(),
        trust_env=False,
        proxy=proxy,
        follow_redirects=False,
        timeout=None,
        limits=library.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=100),
        event_hooks={"response": [limit]},
    )


@cache
def _tls() -> ssl.SSLContext:
    """The system's certificates, read once."""
    return httpx2.create_ssl_context(trust_env=False)


class _Limited:
    """The bytes of another stream, up to a number of them."""

    def __init__(self, stream: Any, max_bytes: int) -> None:
        self._stream = stream
        self._left = max_bytes
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._left -= len(chunk)
            if self._left < 0:
                raise BodyRefused(f"the reply is larger than {self._max_bytes:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


def _limited(library: ModuleType, stream: Any, max_bytes: int) -> Any:
    """``stream`` behind a limit, as a stream of ``library``, which accepts those of its own class alone."""
    return _stream_class(library)(stream, max_bytes)


@cache
def _stream_class(library: ModuleType) -> type[Any]:
    return type("LimitedStream", (_Limited, library.AsyncByteStream), {})

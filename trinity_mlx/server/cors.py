"""Web pages of other origins: none may call, but for those that the operator names."""

from __future__ import annotations

from collections.abc import Collection

from .asgi import App, Event, Receive, Scope, Send, header, send_bytes

_ALLOWED = (
    ("access-control-allow-methods", "GET, POST, DELETE"),
    ("access-control-max-age", "600"),
)


class Cors:
    """Answers what browsers ask before they send, and marks answers for ``origins``; switched off without any."""

    def __init__(self, app: App, origins: Collection[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        origin = header(scope, "origin")
        if scope["type"] != "http" or origin is None or not {origin, "*"} & self._origins:
            await self._app(scope, receive, send)
            return
        allowed = (("access-control-allow-origin", origin), ("vary", "origin"))
        if scope["method"] == "OPTIONS" and header(scope, "access-control-request-method") is not None:
            wanted = header(scope, "access-control-request-headers") or ""
            headers = [*allowed, *_ALLOWED, ("access-control-allow-headers", wanted[:1_000])]
            await send_bytes(send, 204, b"", "text/plain", headers)
            return
        await self._app(scope, receive, _marking(send, allowed))


def _marking(send: Send, headers: tuple[tuple[str, str], ...]) -> Send:
    pairs = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers]

    async def marking(event: Event) -> None:
        if event["type"] == "http.response.start":
            event["headers"] = [*event["headers"], *pairs]
        await send(event)

    return marking

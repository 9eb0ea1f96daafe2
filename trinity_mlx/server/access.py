"""The outermost layer: every request has an id, a log line and a place in the metrics, and no traceback gets out.

The log tells method, route, status, milliseconds, run and outcome; never a text, a query string or a key.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from dataclasses import dataclass, field

from ..contracts.errors import TrinityError
from .asgi import App, ClientGone, Event, Receive, Scope, Send, header, send_json
from .metrics import Metrics
from .problems import Kind, Problem, anthropic_error, is_anthropic, openai_error, problem_of

LOG = logging.getLogger("trinity_mlx.server")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")


@dataclass(slots=True)
class Account:
    """What is noted about one request while it is worked on; ``scope["account"]`` holds it."""

    request_id: str
    traceparent: str | None
    begun: float = field(default_factory=time.perf_counter)
    status: int = 0
    first_byte: float | None = None
    is_answered: bool = False
    """Whether the whole answer has been sent."""
    run_id: str | None = None
    outcome: str | None = None
    elsewhere_s: float = 0.0
    """Seconds in which router or providers were waited for."""


class Access:
    """Lets ``app`` answer, and answers itself what ``app`` raises."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve HTTP, and nothing else."""
        if scope["type"] != "http":
            return
        account = Account(_request_id(scope), _traceparent(scope))
        scope["account"] = account
        try:
            await self._answered(scope, receive, _noting(send, account), account)
        finally:
            self._write(scope, account)

    async def _answered(self, scope: Scope, receive: Receive, send: Send, account: Account) -> None:
        try:
            await self._app(scope, receive, send)
            return
        except ClientGone:
            account.outcome = "client_gone"
            return
        except Problem as raised:
            problem = raised
        except TrinityError as error:
            problem = problem_of(error)
        except Exception:
            LOG.exception("request %s failed", account.request_id)
            problem = Problem(Kind.SERVER, f"something went wrong in the server; it is logged as {account.request_id}")
        if not account.status:
            await send_problem(scope, send, problem)

    def _write(self, scope: Scope, account: Account) -> None:
        elapsed = time.perf_counter() - account.begun
        route = getattr(scope.get("route"), "path", "other")
        metrics, method = self._metrics, scope["method"] if scope["method"] in _METHODS else "other"
        metrics.requests.labels(route, method, str(account.status)).inc()
        metrics.seconds.labels(route).observe(elapsed)
        if account.run_id is not None:
            metrics.overhead.labels(route).observe(max(0.0, elapsed - account.elsewhere_s))
        if account.first_byte is not None:
            metrics.first_event.labels(route).observe(account.first_byte - account.begun)
        LOG.info(
            "%s %s %d %.1f ms run=%s outcome=%s request=%s",
            method,
            route,
            account.status,
            elapsed * 1000,
            account.run_id or "-",
            account.outcome or "-",
            account.request_id,
        )


_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"})


async def send_problem(scope: Scope, send: Send, problem: Problem) -> None:
    """Answer with ``problem``, in the shape of the interface that was asked."""
    account: Account = scope["account"]
    anthropic = is_anthropic(scope["path"], header(scope, "anthropic-version") is not None)
    body = anthropic_error(problem, account.request_id) if anthropic else openai_error(problem)
    await send_json(send, problem.status, body, problem.headers)


def _noting(send: Send, account: Account) -> Send:
    """``send``, which names the request in the answer's head and notes status and first byte."""

    async def noting(event: Event) -> None:
        if event["type"] == "http.response.start":
            account.status = event["status"]
            identity = account.request_id.encode()
            event["headers"] = [*event["headers"], (b"x-request-id", identity), (b"request-id", identity)]
        elif account.first_byte is None and event.get("body"):
            account.first_byte = time.perf_counter()
        if event["type"] == "http.response.body" and not event.get("more_body"):
            account.is_answered = True
        await send(event)

    return noting


def _request_id(scope: Scope) -> str:
    """A fresh id: one that a client sends may hold anything."""
    return f"req_{secrets.token_hex(12)}"


def _traceparent(scope: Scope) -> str | None:
    """The caller's W3C trace context, where it is well formed."""
    text = (header(scope, "traceparent") or "").strip()
    return text if _TRACEPARENT.fullmatch(text) else None

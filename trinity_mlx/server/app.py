"""The application: routes, and the layers around them, as plain ASGI."""

from __future__ import annotations

from typing import Any

from starlette.routing import Route, Router

from .access import Access
from .asgi import App, Receive, Scope, Send
from .auth import Authentication
from .cors import Cors
from .interfaces import ChatCompletions, CountTokens, Messages
from .own import Health, MetricsText, Models, Page, Runs
from .own import Route as RouteAlone
from .problems import Kind, Problem
from .responses import Compact, InputItems, Responses, StoredResponses
from .service import Service


def create_app(service: Service) -> App:
    """The application of a service: the routes inside authentication, inside CORS, inside the log."""
    guarded = Authentication(create_router(service), service.keys, service.settings.hosts)
    return Access(Cors(guarded, service.settings.origins), service.metrics)


def create_router(service: Service) -> Router:
    """Every route there is; ``/v1`` may be left out, as some clients do."""
    shared: list[tuple[str, str, Any]] = [
        ("/models", "GET", Models(service)),
        ("/models/{name:path}", "GET", Models(service)),
        ("/chat/completions", "POST", ChatCompletions(service)),
        ("/responses", "POST", Responses(service)),
        ("/responses/compact", "POST", Compact(service)),
        ("/responses/{response_id}/input_items", "GET", InputItems(service)),
        ("/messages", "POST", Messages(service)),
        ("/messages/count_tokens", "POST", CountTokens(service)),
        ("/route", "POST", RouteAlone(service)),
    ]
    routes = [
        Route("/", Page(), methods=["GET"]),
        Route("/health", Health(service, asks_ready=False), methods=["GET"]),
        Route("/ready", Health(service, asks_ready=True), methods=["GET"]),
        Route("/metrics", MetricsText(service), methods=["GET"]),
        Route("/runs", Runs(service), methods=["GET"]),
        Route("/runs/{run_id}", Runs(service), methods=["GET"]),
    ]
    for prefix in ("/v1", ""):
        routes += [Route(prefix + path, endpoint, methods=[method]) for path, method, endpoint in shared]
        routes.append(Route(f"{prefix}/responses/{{response_id}}", StoredResponses(service), methods=["GET", "DELETE"]))
    return Router([_Strict(route) for route in routes], redirect_slashes=False, default=_nothing)


class _Strict(Route):
    """A route that says in the interface's own words that a method is not its own."""

    def __init__(self, route: Route) -> None:
        super().__init__(route.path, route.endpoint, methods=route.methods)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve.

        Raises:
            Problem: the method is none of this route's.
        """
        methods = self.methods or set()
        if scope["method"] not in methods:
            text = f"{scope['method'][:20]} is not what {self.path} takes: use {' or '.join(sorted(methods))}"
            raise Problem(Kind.INVALID, text, status=405)
        await super().handle(scope, receive, send)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise Problem(Kind.NOT_FOUND, f"there is nothing at {scope['path'][:200]}: see docs/serving.md for what is")

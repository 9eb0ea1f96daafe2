"""The server's own routes: models, a decision alone, a run's report, health, metrics, the page."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from ..contracts.routing import RouteDecision
from ..contracts.transcript import Transcript
from .asgi import Receive, Scope, Send, header, send_bytes, send_json
from .asking import checked
from .chat_reading import read_chat
from .metrics import CONTENT_TYPE
from .models import anthropic_list, anthropic_model, openai_list, openai_model
from .page import page
from .problems import Kind, Problem
from .responses_reading import read_response_request
from .service import Endpoint, Service


class Models(Endpoint):
    """``GET /v1/models`` and ``GET /v1/models/{name}``, in Anthropic's shape for clients that send its version."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        anthropic = header(scope, "anthropic-version") is not None
        name = scope["path_params"].get("name")
        if name is None:
            names = self.service.catalogue.names
            await send_json(send, 200, anthropic_list(names) if anthropic else openai_list(names))
            return
        self.service.catalogue.find(name)
        await send_json(send, 200, anthropic_model(name) if anthropic else openai_model(name))


class Route(Endpoint):
    """``POST /v1/route``: who would speak next, in which role, and why; nobody is called."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        service = self.service
        body = await self.body(scope, receive)
        if isinstance(body.get("prompt"), str):
            body = {**body, "input": body["prompt"]}
        ask = checked(read_chat(body) if "messages" in body else read_response_request(body), service.settings.limits)
        target = service.catalogue.find(ask.model)
        with service.drain.work():
            async with service.capacity.place(scope["principal"]):
                decision = await service.router.decide(Transcript(ask.messages))
        agents = [agent.name for agent in service.teams[target.pool].pool.agents]
        await send_json(
            send, 200, {**decision.to_dict(), "pool": target.pool, "explanation": explained(decision, agents)}
        )


def explained(decision: RouteDecision, agents: list[str]) -> list[str]:
    """Why a decision is what it is, in sentences."""

    def name(slot: int) -> str:
        return agents[slot] if slot < len(agents) else f"slot {slot}, which has no agent"

    margins = decision.margins
    lines = [f"{name(decision.slot)} is chosen, to be the {decision.role.label}."]
    if len(decision.ranking) > 1 and margins.agent is not None:
        lines.append(f"{name(decision.ranking[1])} comes next, {margins.agent:.3f} behind.")
    if margins.role is not None:
        lines.append(f"The role leads by {margins.role:.3f}.")
    if decision.choice.tied_slots or decision.choice.tied_roles:
        lines.append("There is a tie, and the lowest index was taken.")
    lines.append(f"{decision.token_count} tokens were to be read, {decision.reused_tokens} of them known from before.")
    return lines


class Runs(Endpoint):
    """``GET /runs`` and ``GET /runs/{id}``: what happened in recent runs of the same key, without a text of anybody."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        principal, name = scope["principal"], scope["path_params"].get("run_id")
        if name is None:
            reports = [report for (owner, _), report in self.service.reports.items() if owner == principal]
            await send_json(send, 200, {"object": "list", "data": reports[::-1][:50]})
            return
        report = self.service.reports.get((principal, name))
        if report is None:
            raise Problem(Kind.NOT_FOUND, f"there is no run {name[:100]!r} here any more")
        await send_json(send, 200, report)


class Health(Endpoint):
    """``GET /health``: the process lives. ``GET /ready``: new work should be sent here."""

    def __init__(self, service: Service, *, asks_ready: bool) -> None:
        super().__init__(service)
        self._asks_ready = asks_ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        if not self._asks_ready:
            await send_json(send, 200, {"status": "ok"})
            return
        is_ready = self.service.is_ready
        status: Mapping[str, Any] = {"status": "ready" if is_ready else self._why()}
        await send_json(send, 200 if is_ready else 503, status)

    def _why(self) -> str:
        return "draining" if self.service.drain.is_draining else "the router has not answered"


class MetricsText(Endpoint):
    """``GET /metrics``."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        await send_bytes(send, 200, self.service.metrics.text(), CONTENT_TYPE)


class Page:
    """``GET /``: a chat that shows each turn, as one static file."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        headers = [
            ("content-security-policy", policy),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
        ]
        await send_bytes(send, 200, page(nonce), "text/html; charset=utf-8", headers)

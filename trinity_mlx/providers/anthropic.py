"""Anthropic's messages."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
from anthropic._types import Omit
from typing_extensions import override

from ..contracts.pool import Agent
from ..contracts.provider import OnText, Provider, Reply, Request
from .wire.anthropic_reply import EventReader, from_wire
from .wire.anthropic_request import to_wire
from .wire.extra import checked_extra
from .wire.failures import Callee, callee_of
from .wire.http_provider import HttpProvider, Reader
from .wire.limits import http_client

DEFAULT_URL = "https://api.anthropic.com"
NO_KEY = "none"


def make_provider(agent: Agent, api_key: str | None) -> Provider:
    """The provider of an agent with ``provider = "anthropic"``; ``extra`` joins the body of each request.

    Raises:
        PoolInvalid: the base_url is no address, the key cannot be sent, or ``extra`` holds what each call sets.
    """
    callee = callee_of(agent, api_key, DEFAULT_URL)
    return HttpProvider(callee, _Anthropic(callee, checked_extra(agent)))


class _Client(anthropic.AsyncAnthropic):
    """Sends the headers named here: the SDK would add some from the environment."""

    @property
    @override
    def default_headers(self) -> dict[str, str | Omit]:
        return {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": self.user_agent,
            "X-Api-Key": self.api_key or NO_KEY,
            "anthropic-version": "2023-06-01",
        }


class _Anthropic:
    """Anthropic's SDK; see ``Sdk``."""

    failures: tuple[type[Exception], ...] = (anthropic.AnthropicError, httpx.HTTPError)
    request_id_header = "request-id"

    def __init__(self, callee: Callee, extra: dict[str, Any]) -> None:
        self._callee = callee
        self._extra = extra
        self._client = _Client(
            api_key=callee.secret or NO_KEY,
            webhook_key="",
            base_url=callee.agent.base_url or DEFAULT_URL,
            timeout=None,
            max_retries=0,
            http_client=http_client(httpx, callee.agent.proxy),
        )

    async def create(self, request: Request, stream: bool) -> Any:
        body = to_wire(self._callee.agent, request, self._extra)
        required = {name: body.pop(name) for name in ("messages", "max_tokens")}
        return await self._client.messages.create(
            **required, model=self._callee.agent.model, stream=stream, extra_body=body
        )

    def whole(self, answer: object, request_id: str | None) -> Reply:
        return from_wire(self._callee, answer, request_id)

    def reader(self, on_text: OnText, request_id: str | None) -> Reader:
        return EventReader(self._callee, on_text, request_id)

    async def close(self) -> None:
        await self._client.close()

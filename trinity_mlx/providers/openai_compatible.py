"""Chat completions of OpenAI and of all that speak as it does: Gemini, DeepSeek, vLLM, Ollama, mlx_lm.server."""

from __future__ import annotations

from typing import Any

import httpx2
from openai import AsyncOpenAI, Omit, OpenAIError
from typing_extensions import override

from ..contracts.pool import Agent
from ..contracts.provider import OnText, Provider, Reply, Request
from .wire.extra import checked_extra
from .wire.failures import Callee, callee_of
from .wire.http_provider import HttpProvider, Reader
from .wire.limits import http_client
from .wire.openai_reply import ChunkReader, from_wire
from .wire.openai_request import stream_fields, to_wire

DEFAULT_URL = "https://api.openai.com/v1"
NO_KEY = "none"


def make_provider(agent: Agent, api_key: str | None) -> Provider:
    """The provider of an agent with ``provider = "openai-compatible"``.

    ``extra`` joins the body of each request: ``max_completion_tokens`` takes the place of ``max_tokens``, and
    ``stream_options = {}`` suits a server that refuses to count the tokens of a stream.

    Raises:
        PoolInvalid: the base_url is no address, the key cannot be sent, or ``extra`` holds what each call sets.
    """
    callee = callee_of(agent, api_key, DEFAULT_URL)
    return HttpProvider(callee, _OpenAI(callee, checked_extra(agent)))


class _Client(AsyncOpenAI):
    """Sends the headers named here and the key: the SDK would add some from the environment."""

    @property
    @override
    def default_headers(self) -> dict[str, str | Omit]:
        return {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": self.user_agent,
        }


class _OpenAI:
    """OpenAI's SDK; see ``Sdk``."""

    failures: tuple[type[Exception], ...] = (OpenAIError, httpx2.HTTPError)
    request_id_header = "x-request-id"

    def __init__(self, callee: Callee, extra: dict[str, Any]) -> None:
        self._callee = callee
        self._extra = extra
        self._client = _Client(
            api_key=callee.secret or NO_KEY,
            admin_api_key="",
            organization="",
            project="",
            webhook_secret="",
            base_url=callee.agent.base_url or DEFAULT_URL,
            timeout=None,
            max_retries=0,
            http_client=http_client(httpx2, callee.agent.proxy),
        )

    async def create(self, request: Request, stream: bool) -> Any:
        body = to_wire(self._callee.agent, request, self._extra) | (stream_fields(self._extra) if stream else {})
        messages = body.pop("messages")
        model = self._callee.agent.model
        return await self._client.chat.completions.create(
            model=model, messages=messages, stream=stream, extra_body=body
        )

    def whole(self, answer: object, request_id: str | None) -> Reply:
        return from_wire(self._callee, answer, request_id)

    def reader(self, on_text: OnText, request_id: str | None) -> Reader:
        return ChunkReader(self._callee, on_text, request_id)

    async def close(self) -> None:
        await self._client.close()

"""Chat completions of OpenAI and of all that speak as it does: Gemini, DeepSeek, vLLM, Ollama, mlx_lm.server."""

from __future__ import annotations

import json
from typing import Any

import httpx2
from openai import AsyncOpenAI, AsyncStream, Omit, OpenAIError
from typing_extensions import override

from ..contracts.pool import Agent
from ..contracts.provider import OnText, Provider, Reply, Request
from .wire.chat import ChunkReader, chat_fields, checked_extra, stream_fields, whole_reply
from .wire.failures import Callee, callee_of, not_json, provider_failure
from .wire.limits import BodyRefused, http_client

DEFAULT_URL = "https://api.openai.com/v1"
NO_KEY = "none"

_FAILURES = (OpenAIError, BodyRefused, httpx2.HTTPError, json.JSONDecodeError, UnicodeDecodeError, RecursionError)


def make_provider(agent: Agent, api_key: str | None) -> Provider:
    """The provider of an agent with ``provider = "openai-compatible"``.

    ``extra`` joins the body of each request: ``max_completion_tokens`` takes the place of ``max_tokens``, and
    ``stream_options = {}`` suits a server that refuses to count the tokens of a stream.

    Raises:
        PoolInvalid: the base_url is no address, the key cannot be sent, or ``extra`` holds what each call sets.
    """
    return OpenAICompatible(agent, callee_of(agent, api_key, DEFAULT_URL), checked_extra(agent))


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


class OpenAICompatible:
    """Calls one model over HTTP."""

    is_live = True

    def __init__(self, agent: Agent, callee: Callee, extra: dict[str, Any]) -> None:
        self._agent = agent
        self._callee = callee
        self._extra = extra
        self._client = _Client(
            api_key=callee.secret or NO_KEY,
            admin_api_key="",
            organization="",
            project="",
            webhook_secret="",
            base_url=agent.base_url or DEFAULT_URL,
            timeout=None,
            max_retries=0,
            http_client=http_client(httpx2),
        )

    async def reply(self, request: Request, on_text: OnText | None = None) -> Reply:
        """One attempt; see ``Provider``."""
        try:
            return await (self._whole(request) if on_text is None else self._streamed(request, on_text))
        except _FAILURES as error:
            raise provider_failure(self._callee, error) from None

    async def close(self) -> None:
        """Give back the connections."""
        await self._client.close()

    async def _whole(self, request: Request) -> Reply:
        completion = await self._create(request, self._extra)
        if isinstance(completion, str):  # what the SDK makes of a body that is not JSON
            raise not_json(self._callee, completion)
        return whole_reply(self._callee, completion, completion._request_id)

    async def _streamed(self, request: Request, on_text: OnText) -> Reply:
        stream: AsyncStream[Any]
        async with await self._create(request, {**self._extra, **stream_fields(self._extra)}) as stream:
            headers = stream.response.headers
            request_id = headers.get("x-request-id")
            if not headers.get("content-type", "").startswith("text/event-stream"):
                reply = whole_reply(self._callee, json.loads(await stream.response.aread()), request_id)
                on_text(reply.text)
                return reply
            reader = ChunkReader(self._callee, on_text, request_id)
            async for chunk in stream:
                reader.add(chunk)
            return reader.reply()

    async def _create(self, request: Request, body: dict[str, Any]) -> Any:
        """What the SDK makes of the answer: a completion, or a stream where ``body`` asks for one."""
        fields = chat_fields(self._agent, request)
        return await self._client.chat.completions.create(
            model=self._agent.model, stream=body.get("stream", False), extra_body=body, **fields
        )

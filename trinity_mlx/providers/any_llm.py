"""Everything else, through Mozilla's any-llm: Mistral, Bedrock, Cohere, Groq and others, each with its own extra there.

The model is ``provider:model``, as in ``mistral:mistral-small-latest``. What the packages below any-llm read from the
environment is theirs to decide; a key is always passed, so that none is looked for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx2
from any_llm import AnyLLM
from any_llm.exceptions import AnyLLMError
from any_llm.providers.openai.base import BaseOpenAIProvider

from ..contracts.errors import EnvironmentUnavailable, PoolInvalid
from ..contracts.pool import Agent
from ..contracts.provider import OnText, Provider, Reply, Request
from .wire.extra import checked_extra
from .wire.failures import Callee, callee_of, provider_failure
from .wire.limits import http_client
from .wire.openai_reply import ChunkReader, from_wire
from .wire.openai_request import stream_fields, to_wire

NO_KEY = "none"


def make_provider(agent: Agent, api_key: str | None) -> Provider:
    """The provider of an agent with ``provider = "any-llm"``; ``extra`` becomes arguments of any-llm's completion.

    Raises:
        PoolInvalid: the model names no provider that any-llm knows, or ``extra`` holds what each call sets.
        EnvironmentUnavailable: the package of that provider is not installed.
    """
    name, _, model = agent.model.partition(":")
    if not (name and model):
        raise PoolInvalid(f"agent {agent.name!r}: model must be provider:model for any-llm, not {agent.model!r}")
    callee = callee_of(agent, api_key, None)
    return AnyLlm(agent, callee, model, _client(agent, callee, name), checked_extra(agent))


class AnyLlm:
    """Calls one model through any-llm."""

    is_live = True

    def __init__(self, agent: Agent, callee: Callee, model: str, client: AnyLLM, extra: dict[str, Any]) -> None:
        self._agent = agent
        self._callee = callee
        self._model = model
        self._client = client
        self._extra = extra

    async def reply(self, request: Request, on_text: OnText | None = None) -> Reply:
        """One attempt; see ``Provider``."""
        fields = to_wire(self._agent, request, self._extra)
        if on_text is None:
            return from_wire(self._callee, await self._completion(fields))
        reader = ChunkReader(self._callee, on_text)
        async with aclosing(self._chunks({**fields, **stream_fields(self._extra)})) as chunks:
            async for chunk in chunks:
                reader.add(chunk)
        return reader.reply()

    async def close(self) -> None:
        """Give back the connections, where any-llm lets go of them."""
        client = getattr(self._client, "client", None)
        close = getattr(client, "close", None)
        if callable(close):
            await close()

    async def _completion(self, fields: dict[str, Any]) -> Any:
        try:
            return await self._client.acompletion(model=self._model, **fields)
        except Exception as error:  # each provider below has errors of its own
            raise provider_failure(self._callee, error) from None

    async def _chunks(self, fields: dict[str, Any]) -> AsyncGenerator[Any, None]:
        stream = await self._completion(fields)
        try:
            async for chunk in stream:
                yield chunk
        except Exception as error:
            raise provider_failure(self._callee, error) from None
        finally:
            await stream.aclose()


def _client(agent: Agent, callee: Callee, name: str) -> AnyLLM:
    """any-llm's client for the provider ``name``; its own retries are off wherever it can switch them off."""
    try:
        kind = AnyLLM.get_provider_class(name)
        options: dict[str, Any] = {"unified_exceptions": True}
        if kind.MAX_RETRIES_SUPPORT != "unsupported":
            options["max_retries"] = 0
        if issubclass(kind, BaseOpenAIProvider):
            options["http_client"] = http_client(httpx2, agent.proxy)
        elif agent.proxy:
            raise PoolInvalid(f"agent {agent.name!r}: any-llm's provider {name!r} takes no proxy: leave it out")
        base_url = agent.base_url or getattr(kind, "API_BASE", None)
        return AnyLLM.create(name, callee.secret or NO_KEY, base_url, **options)
    except ImportError as error:
        raise EnvironmentUnavailable(
            f"agent {agent.name!r}: any-llm's provider {name!r} cannot be imported: {callee.quoted(str(error))}; "
            f"pip install 'any-llm-sdk[{name}]'"
        ) from None
    except AnyLLMError as error:
        raise PoolInvalid(f"agent {agent.name!r}: any-llm refuses it: {callee.quoted(str(error))}") from None

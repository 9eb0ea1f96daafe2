"""Anthropic's messages."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx
from anthropic._types import Omit
from typing_extensions import override

from ..contracts.errors import ReplyInvalid
from ..contracts.pool import Agent
from ..contracts.provider import Finish, OnText, Provider, Reply, Request, Usage
from .answers import Text, finished_reply
from .wire.chat import Shape, checked, checked_extra
from .wire.failures import Callee, answered_error, callee_of, not_json, provider_failure
from .wire.limits import BodyRefused, http_client
from .wire.thinking import ThinkingFilter

DEFAULT_URL = "https://api.anthropic.com"
NO_KEY = "none"
YOUR_TURN = "It is your turn."

_FAILURES = (
    anthropic.AnthropicError,
    BodyRefused,
    httpx.HTTPError,
    json.JSONDecodeError,
    UnicodeDecodeError,
    RecursionError,
)
_FINISH = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "max_tokens": Finish.LENGTH,
    "model_context_window_exceeded": Finish.LENGTH,
    "refusal": Finish.CONTENT_FILTER,
}


class _Usage(Shape):
    input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int | None = None

    @property
    def all_input_tokens(self) -> int | None:
        if self.input_tokens is None:
            return None
        return self.input_tokens + (self.cache_creation_input_tokens or 0) + (self.cache_read_input_tokens or 0)


class _Block(Shape):
    type: str | None = None
    text: Text | None = None


class _Answer(Shape):
    content: list[_Block] | None = None
    stop_reason: str | None = None
    model: str | None = None
    usage: _Usage | None = None
    error: Any = None


class _Delta(Shape):
    type: str | None = None
    text: Text | None = None
    stop_reason: str | None = None


class _Event(Shape):
    type: str | None = None
    message: _Answer | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None


def make_provider(agent: Agent, api_key: str | None) -> Provider:
    """The provider of an agent with ``provider = "anthropic"``; ``extra`` joins the body of each request.

    Raises:
        PoolInvalid: the base_url is no address, the key cannot be sent, or ``extra`` holds what each call sets.
    """
    return Anthropic(agent, callee_of(agent, api_key, DEFAULT_URL), checked_extra(agent))


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


class Anthropic:
    """Calls one model over HTTP."""

    is_live = True

    def __init__(self, agent: Agent, callee: Callee, extra: dict[str, Any]) -> None:
        self._agent = agent
        self._callee = callee
        self._extra = extra
        self._client = _Client(
            api_key=callee.secret or NO_KEY,
            webhook_key="",
            base_url=agent.base_url or DEFAULT_URL,
            timeout=None,
            max_retries=0,
            http_client=http_client(httpx),
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
        answer = await self._create(request, stream=False)
        if isinstance(answer, str):  # what the SDK makes of a body that is not JSON
            raise not_json(self._callee, answer)
        return self._reply(answer, answer._request_id)

    async def _streamed(self, request: Request, on_text: OnText) -> Reply:
        async with await self._create(request, stream=True) as stream:
            headers = stream.response.headers
            request_id = headers.get("request-id")
            if not headers.get("content-type", "").startswith("text/event-stream"):
                reply = self._reply(json.loads(await stream.response.aread()), request_id)
                on_text(reply.text)
                return reply
            reader = _EventReader(self._callee, on_text, request_id)
            async for event in stream:
                reader.add(event)
            return reader.reply()

    async def _create(self, request: Request, stream: bool) -> Any:
        return await self._client.messages.create(
            **_fields(self._agent, request), model=self._agent.model, stream=stream, extra_body=self._extra
        )

    def _reply(self, answer: object, request_id: str | None) -> Reply:
        """The reply that a whole answer holds."""
        held = checked(self._callee, _Answer, answer)
        if held.error:
            raise answered_error(self._callee, held.error, request_id)
        if held.content is None:
            raise self._callee.error(ReplyInvalid, "the reply holds no content", request_id=request_id)
        usage = held.usage or _Usage()
        return finished_reply(
            self._callee,
            "".join(block.text or "" for block in held.content if block.type == "text"),
            _FINISH.get(held.stop_reason or "", Finish.OTHER),
            model=held.model,
            usage=_counted(usage.all_input_tokens, usage.output_tokens),
            request_id=request_id,
        )


class _EventReader:
    """Puts the events of a streamed answer together, and passes its text on as it comes."""

    def __init__(self, callee: Callee, on_text: OnText, request_id: str | None) -> None:
        self._callee = callee
        self._filter = ThinkingFilter(on_text)
        self._request_id = request_id
        self._pieces: list[str] = []
        self._stop_reason: str | None = None
        self._model: str | None = None
        self._input_tokens: int | None = None
        self._output_tokens: int | None = None

    def add(self, event: object) -> None:
        """Take the next event.

        Raises:
            ReplyInvalid: it is malformed.
        """
        held = checked(self._callee, _Event, event)
        if held.message:
            self._model = held.message.model
            self._count(held.message.usage)
        if held.usage:
            self._count(held.usage)
        if held.delta:
            self._stop_reason = held.delta.stop_reason or self._stop_reason
            if held.delta.type == "text_delta" and held.delta.text:
                self._pieces.append(held.delta.text)
                self._filter.feed(held.delta.text)

    def reply(self) -> Reply:
        """The whole reply.

        Raises:
            ReplyInvalid: the stream ended before its answer did, or there is no answer.
        """
        if self._stop_reason is None:
            raise self._callee.error(
                ReplyInvalid, "the stream ended without a stop reason: it was cut", request_id=self._request_id
            )
        self._filter.end()
        return finished_reply(
            self._callee,
            "".join(self._pieces),
            _FINISH.get(self._stop_reason, Finish.OTHER),
            model=self._model,
            usage=_counted(self._input_tokens, self._output_tokens),
            request_id=self._request_id,
        )

    def _count(self, usage: _Usage | None) -> None:
        """Counts of a stream are totals so far, and the later ones name what has changed."""
        if usage:
            self._input_tokens = self._input_tokens if usage.all_input_tokens is None else usage.all_input_tokens
            self._output_tokens = self._output_tokens if usage.output_tokens is None else usage.output_tokens


def _counted(input_tokens: int | None, output_tokens: int | None) -> Usage | None:
    return None if input_tokens is None or output_tokens is None else Usage(input_tokens, output_tokens)


def _fields(agent: Agent, request: Request) -> dict[str, Any]:
    """Messages and limits, with the system messages in the place that Anthropic has for them.

    An answer at the end would be taken for the beginning of the next one, so a short user message follows it.
    """
    said = [{"role": each.role, "content": each.content} for each in request.messages if each.role != "system"]
    if said and said[-1]["role"] == "assistant":
        said.append({"role": "user", "content": YOUR_TURN})
    fields: dict[str, Any] = {"messages": said, "max_tokens": agent.max_tokens}
    system = "\n\n".join(each.text for each in request.messages if each.role == "system")
    if system:
        fields["system"] = system
    if agent.temperature is not None:
        fields["temperature"] = agent.temperature
    return fields

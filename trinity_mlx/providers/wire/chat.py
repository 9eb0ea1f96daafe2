"""Chat completions as OpenAI shaped them: what is sent, and the few fields of a reply that are read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ...contracts.errors import PoolInvalid, ReplyInvalid
from ...contracts.pool import Agent
from ...contracts.provider import Finish, OnText, Reply, Request, Usage
from ...files.models import first_fault
from ..answers import Text, finished_reply
from .failures import Callee, answered_error
from .thinking import ThinkingFilter

RESERVED = ("messages", "model", "stream")

M = TypeVar("M", bound=BaseModel)

_FINISH = {"stop": Finish.STOP, "length": Finish.LENGTH, "content_filter": Finish.CONTENT_FILTER}


class Shape(BaseModel):
    """Fields that are read from an SDK's object or from JSON; others do not matter."""

    model_config = ConfigDict(extra="ignore", from_attributes=True, hide_input_in_errors=True)


class _Message(Shape):
    content: Text | None = None


class _Choice(Shape):
    message: _Message
    finish_reason: str | None = None


class _Usage(Shape):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Completion(Shape):
    choices: list[_Choice] | None = None
    model: str | None = None
    usage: _Usage | None = None
    error: Any = None


class _Piece(Shape):
    delta: _Message | None = None
    finish_reason: str | None = None


class _Chunk(Shape):
    choices: list[_Piece] | None = None
    model: str | None = None
    usage: _Usage | None = None
    error: Any = None


def checked_extra(agent: Agent) -> dict[str, Any]:
    """The agent's ``extra``.

    Raises:
        PoolInvalid: it names a field that is not its own to set.
    """
    taken = sorted(set(agent.extra) & set(RESERVED))
    if taken:
        raise PoolInvalid(f"agent {agent.name!r}: extra may not hold {', '.join(taken)}: each call sets these itself")
    return dict(agent.extra)


def chat_fields(agent: Agent, request: Request) -> dict[str, Any]:
    """Messages and limits; ``max_completion_tokens`` in ``extra`` takes the place of ``max_tokens``."""
    fields: dict[str, Any] = {"messages": [{"role": each.role, "content": each.content} for each in request.messages]}
    if "max_completion_tokens" not in agent.extra:
        fields["max_tokens"] = agent.max_tokens
    if agent.temperature is not None:
        fields["temperature"] = agent.temperature
    return fields


def stream_fields(extra: Mapping[str, Any]) -> dict[str, Any]:
    """What asks for a stream that counts tokens; ``stream_options = {}`` in ``extra`` asks for one that does not."""
    options = extra.get("stream_options", {"include_usage": True})
    return {"stream": True, **({"stream_options": options} if options else {})}


def checked(callee: Callee, shape: type[M], value: object) -> M:
    """``value`` as ``shape``.

    Raises:
        ReplyInvalid: it has another one.
    """
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise callee.error(ReplyInvalid, f"the reply is malformed: {first_fault(error)}") from None


def whole_reply(callee: Callee, completion: object, request_id: str | None = None) -> Reply:
    """The reply that a chat completion holds.

    Raises:
        ProviderError: it holds an error, no choice, or no answer.
    """
    held = checked(callee, _Completion, completion)
    if held.error:
        raise answered_error(callee, held.error, request_id)
    if not held.choices:
        raise callee.error(ReplyInvalid, "the reply holds no choices", request_id=request_id)
    choice = held.choices[0]
    return finished_reply(
        callee,
        choice.message.content or "",
        _FINISH.get(choice.finish_reason or "", Finish.OTHER),
        model=held.model,
        usage=_counted(held.usage),
        request_id=request_id,
    )


def _counted(usage: _Usage | None) -> Usage | None:
    if usage is None or usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    return Usage(usage.prompt_tokens, usage.completion_tokens)


class ChunkReader:
    """Puts the chunks of a streamed completion together, and passes the answer's text on as it comes."""

    def __init__(self, callee: Callee, on_text: OnText, request_id: str | None = None) -> None:
        self._callee = callee
        self._filter = ThinkingFilter(on_text)
        self._request_id = request_id
        self._pieces: list[str] = []
        self._finish: Finish | None = None
        self._model: str | None = None
        self._usage: Usage | None = None

    def add(self, chunk: object) -> None:
        """Take the next chunk.

        Raises:
            ProviderError: it is malformed, or holds an error.
        """
        held = checked(self._callee, _Chunk, chunk)
        if held.error:
            raise answered_error(self._callee, held.error, self._request_id)
        self._model = held.model or self._model
        self._usage = _counted(held.usage) or self._usage
        for choice in held.choices or ():
            self._add_piece(choice)

    def reply(self) -> Reply:
        """The whole reply.

        Raises:
            ReplyInvalid: the stream ended before its answer did, or there is no answer.
        """
        if self._finish is None:
            raise self._callee.error(
                ReplyInvalid, "the stream ended without a finish reason: it was cut", request_id=self._request_id
            )
        self._filter.end()
        return finished_reply(
            self._callee,
            "".join(self._pieces),
            self._finish,
            model=self._model,
            usage=self._usage,
            request_id=self._request_id,
        )

    def _add_piece(self, choice: _Piece) -> None:
        text = choice.delta.content if choice.delta else None
        if text:
            self._pieces.append(text)
            self._filter.feed(text)
        if choice.finish_reason:
            self._finish = _FINISH.get(choice.finish_reason, Finish.OTHER)

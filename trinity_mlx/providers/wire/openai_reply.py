"""Chat completions as OpenAI shaped them: a whole one, or the chunks of a streamed one, as a reply."""

from __future__ import annotations

import json
from typing import Any

from ...contracts.errors import ReplyInvalid
from ...contracts.parts import ToolCall
from ...contracts.provider import Finish, OnText, Reply, Usage, counted
from ..answers import finished_reply
from .calls import CallPieces, call_of
from .failures import Callee, answered_error
from .shape import Reported, Shape, Text, checked
from .thinking import ThinkingFilter

_FINISH = {
    "stop": Finish.STOP,
    "length": Finish.LENGTH,
    "tool_calls": Finish.TOOL_CALLS,
    "function_call": Finish.TOOL_CALLS,
    "content_filter": Finish.CONTENT_FILTER,
}


class _Function(Shape):
    name: Text | None = None
    arguments: Text | dict[str, Any] | None = None


class _Call(Shape):
    index: int | None = None
    id: Text | None = None
    function: _Function | None = None


class _Message(Shape):
    content: Text | None = None
    refusal: Text | None = None
    tool_calls: list[_Call] | None = None


class _Choice(Shape):
    message: _Message
    finish_reason: str | None = None


class _Usage(Shape):
    prompt_tokens: Any = None
    completion_tokens: Any = None


class _Completion(Shape):
    choices: list[_Choice] | None = None
    model: Reported[str] = None
    usage: Reported[_Usage] = None
    error: Any = None


class _Piece(Shape):
    delta: _Message | None = None
    finish_reason: str | None = None


class _Chunk(Shape):
    choices: list[_Piece] | None = None
    model: Reported[str] = None
    usage: Reported[_Usage] = None
    error: Any = None


def from_wire(callee: Callee, completion: object, request_id: str | None = None) -> Reply:
    """The reply that a chat completion holds.

    Raises:
        ProviderError: it holds an error, no choice, or no answer.
    """
    read = checked(callee, _Completion, completion)
    if read.error:
        raise answered_error(callee, read.error, request_id)
    if not read.choices:
        raise callee.error(ReplyInvalid, "the reply holds no choices", request_id=request_id)
    choice = read.choices[0]
    return finished_reply(
        callee,
        choice.message.content or "",
        _FINISH.get(choice.finish_reason or "", Finish.OTHER),
        calls=[_whole_call(callee, call) for call in choice.message.tool_calls or ()],
        refusal=choice.message.refusal,
        model=read.model,
        usage=_counted(read.usage),
        request_id=request_id,
    )


def _whole_call(callee: Callee, call: _Call) -> ToolCall:
    function = call.function or _Function()
    return call_of(callee, call.id, function.name, _arguments(function) or "")


def _arguments(function: _Function) -> str | None:
    """The arguments as JSON text; some servers send the object itself."""
    given = function.arguments
    return json.dumps(given, ensure_ascii=False) if isinstance(given, dict) else given


def _counted(usage: _Usage | None) -> Usage | None:
    return None if usage is None else counted(usage.prompt_tokens, usage.completion_tokens)


class ChunkReader:
    """Puts the chunks of a streamed completion together, and passes the answer's text on as it comes."""

    def __init__(self, callee: Callee, on_text: OnText, request_id: str | None = None) -> None:
        self._callee = callee
        self._filter = ThinkingFilter(on_text)
        self._request_id = request_id
        self._pieces: list[str] = []
        self._refusal: list[str] = []
        self._calls = CallPieces()
        self._finish: Finish | None = None
        self._model: str | None = None
        self._usage: Usage | None = None

    def add(self, chunk: object) -> None:
        """Take the next chunk.

        Raises:
            ProviderError: it is malformed, or holds an error.
        """
        read = checked(self._callee, _Chunk, chunk)
        if read.error:
            raise answered_error(self._callee, read.error, self._request_id)
        self._model = read.model or self._model
        self._usage = _counted(read.usage) or self._usage
        for choice in read.choices or ():
            self._add_delta(choice.delta or _Message())
            if choice.finish_reason:
                self._finish = _FINISH.get(choice.finish_reason, Finish.OTHER)

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
            calls=self._calls.calls(self._callee),
            refusal="".join(self._refusal) if self._refusal else None,
            model=self._model,
            usage=self._usage,
            request_id=self._request_id,
        )

    def _add_delta(self, delta: _Message) -> None:
        if delta.content:
            self._pieces.append(delta.content)
            self._filter.feed(delta.content)
        if delta.refusal:
            self._refusal.append(delta.refusal)
        for call in delta.tool_calls or ():
            function = call.function or _Function()
            self._calls.add(call.index, call.id, function.name, _arguments(function))

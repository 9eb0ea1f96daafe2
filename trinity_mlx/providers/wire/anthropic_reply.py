"""Anthropic's messages: a whole one, or the events of a streamed one, as a reply."""

from __future__ import annotations

import json
from typing import Any

from ...contracts.errors import ReplyInvalid
from ...contracts.parts import ToolCall
from ...contracts.provider import Finish, OnText, Reply, counted
from ..answers import finished_reply
from .calls import CallPieces, call_of
from .failures import Callee, answered_error
from .shape import Reported, Shape, Text, checked
from .thinking import ThinkingFilter

_FINISH = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "tool_use": Finish.TOOL_CALLS,
    "max_tokens": Finish.LENGTH,
    "model_context_window_exceeded": Finish.LENGTH,
    "refusal": Finish.REFUSED,
}


class _Usage(Shape):
    input_tokens: Any = None
    cache_creation_input_tokens: Any = None
    cache_read_input_tokens: Any = None
    output_tokens: Any = None

    @property
    def all_input_tokens(self) -> int | None:
        """Tokens read, from the cache or not; None where one of the counts is no count."""
        given = (self.input_tokens, self.cache_creation_input_tokens or 0, self.cache_read_input_tokens or 0)
        fit = [counted(number, 0) for number in given]
        return sum(each.input_tokens for each in fit if each) if all(fit) else None


class _Block(Shape):
    type: str | None = None
    text: Text | None = None
    id: Text | None = None
    name: Text | None = None
    input: Any = None


class _StopDetails(Shape):
    explanation: Text | None = None


class _Answer(Shape):
    content: list[_Block] | None = None
    stop_reason: str | None = None
    stop_details: Reported[_StopDetails] = None
    model: Reported[str] = None
    usage: Reported[_Usage] = None
    error: Any = None


class _Delta(Shape):
    type: str | None = None
    text: Text | None = None
    partial_json: Text | None = None
    stop_reason: str | None = None
    stop_details: Reported[_StopDetails] = None


class _Event(Shape):
    type: str | None = None
    index: int | None = None
    message: _Answer | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: Reported[_Usage] = None


def from_wire(callee: Callee, answer: object, request_id: str | None = None) -> Reply:
    """The reply that a whole message holds.

    Raises:
        ProviderError: it holds an error, or no answer.
    """
    read = checked(callee, _Answer, answer)
    if read.error:
        raise answered_error(callee, read.error, request_id)
    if read.content is None:
        raise callee.error(ReplyInvalid, "the reply holds no content", request_id=request_id)
    state = _Assembled(callee, request_id)
    state.note(read)
    state.texts = [block.text or "" for block in read.content if block.type == "text"]
    calls = [_whole_call(callee, block) for block in read.content if block.type == "tool_use"]
    return state.reply(calls)


def _whole_call(callee: Callee, block: _Block) -> ToolCall:
    return call_of(callee, block.id, block.name, json.dumps(block.input or {}, ensure_ascii=False))


class _Assembled:
    """What is known of an answer so far."""

    def __init__(self, callee: Callee, request_id: str | None) -> None:
        self.callee = callee
        self.request_id = request_id
        self.texts: list[str] = []
        self.stop_reason: str | None = None
        self._explanation: str | None = None
        self._model: str | None = None
        self._input_tokens: Any = None
        self._output_tokens: Any = None

    def note(self, read: _Answer | _Delta) -> None:
        """Take what describes the answer: counts of a stream are totals so far, and later ones name what has
        changed."""
        self.stop_reason = read.stop_reason or self.stop_reason
        if read.stop_details:
            self._explanation = read.stop_details.explanation or self._explanation
        if isinstance(read, _Answer):
            self._model = read.model or self._model
            self.count(read.usage)

    def count(self, usage: _Usage | None) -> None:
        """Take counts, as far as they are there."""
        if usage is None:
            return
        if usage.input_tokens is not None:
            self._input_tokens = usage.all_input_tokens
        if usage.output_tokens is not None:
            self._output_tokens = usage.output_tokens

    def reply(self, calls: list[ToolCall]) -> Reply:
        """The reply; what stands before a refusal is part of it, and no answer."""
        text = "".join(self.texts)
        finish = _FINISH.get(self.stop_reason or "", Finish.OTHER)
        is_refused = finish is Finish.REFUSED
        return finished_reply(
            self.callee,
            "" if is_refused else text,
            finish,
            calls=() if is_refused else calls,
            refusal=(self._explanation or text) if is_refused else None,
            model=self._model,
            usage=counted(self._input_tokens, self._output_tokens),
            request_id=self.request_id,
        )


class EventReader:
    """Puts the events of a streamed answer together, and passes its text on as it comes."""

    def __init__(self, callee: Callee, on_text: OnText, request_id: str | None = None) -> None:
        self._state = _Assembled(callee, request_id)
        self._filter = ThinkingFilter(on_text)
        self._calls = CallPieces()

    def add(self, event: object) -> None:
        """Take the next event.

        Raises:
            ReplyInvalid: it is malformed.
        """
        read = checked(self._state.callee, _Event, event)
        if read.message:
            self._state.note(read.message)
        self._state.count(read.usage)
        if read.content_block:
            self._begin(read.index, read.content_block)
        if read.delta:
            self._state.note(read.delta)
            self._add_delta(read.index, read.delta)

    def reply(self) -> Reply:
        """The whole reply.

        Raises:
            ReplyInvalid: the stream ended before its answer did, or there is no answer.
        """
        if self._state.stop_reason is None:
            raise self._state.callee.error(
                ReplyInvalid, "the stream ended without a stop reason: it was cut", request_id=self._state.request_id
            )
        self._filter.end()
        return self._state.reply(self._calls.calls(self._state.callee))

    def _begin(self, index: int | None, block: _Block) -> None:
        if block.type == "tool_use":
            given = json.dumps(block.input, ensure_ascii=False) if block.input else None
            self._calls.add(index, block.id, block.name, given)
        elif block.type == "text" and block.text:
            self._add_text(block.text)

    def _add_delta(self, index: int | None, delta: _Delta) -> None:
        if delta.type == "text_delta" and delta.text:
            self._add_text(delta.text)
        elif delta.type == "input_json_delta" and delta.partial_json:
            self._calls.add(index, None, None, delta.partial_json)

    def _add_text(self, text: str) -> None:
        self._state.texts.append(text)
        self._filter.feed(text)

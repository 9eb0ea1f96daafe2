"""What the server answers, held against the types that the SDKs of OpenAI and Anthropic publish.

Strictly: no value is converted, no enumeration has another member, and no field is unknown but those of ``OWN``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from anthropic.types import ErrorResponse, Message, MessageTokensCount, RawMessageStreamEvent
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_item_list import ResponseItemList
from openai.types.shared import ErrorObject
from pydantic import BaseModel, TypeAdapter

OWN = frozenset({"trinity", "reasoning_content"})
"""What this server tells besides, in any interface."""
AHEAD = {
    "Response": frozenset({"store", "presence_penalty", "frequency_penalty"}),
    "ResponseFunctionCallArgumentsDoneEvent": frozenset({"name"}),
    "ResponseCustomToolCall": frozenset({"status"}),
}
"""Fields of OpenAI's document, or of Open Responses, that the SDK does not know."""

UNTYPED_ERRORS = frozenset({"request_too_large"})
"""Errors of Anthropic's documentation that its SDK has no type for."""

_WHOLE: dict[str, Any] = {
    "/chat/completions": ChatCompletion,
    "/responses": Response,
    "/messages": Message,
    "/messages/count_tokens": MessageTokensCount,
}
_EVENTS: dict[str, Any] = {
    "/chat/completions": ChatCompletionChunk,
    "/responses": ResponseStreamEvent,
    "/messages": RawMessageStreamEvent,
}


def check_answer(path: str, status: int, content_type: str, body: bytes) -> None:
    """Hold an answer against the types of its interface; what has none is let through.

    Raises:
        ValidationError, AssertionError: it is not as they say.
    """
    place = path.partition("?")[0].removeprefix("/v1")
    if not place.startswith(("/chat/", "/responses", "/messages", "/models/")):
        return
    if status >= 400:
        check_error(json.loads(body))
    elif content_type.startswith("text/event-stream"):
        for event in _data(body.decode()):
            check_event(place, event)
    elif (kind := _kind(place)) is not None and body:
        check(kind, json.loads(body))


def check_event(place: str, event: Any) -> None:
    """One event of a stream."""
    if "error" in event:
        check_error(event)
    elif event.get("type") not in ("ping", "error"):
        check(_members(_EVENTS[place])[event.get("type")], event)


def check_error(body: Any) -> None:
    """An error of either shape."""
    if body.get("type") == "error":
        if body["error"]["type"] not in UNTYPED_ERRORS:
            check(ErrorResponse, body)
    else:
        assert set(body) == {"error"}
        check(ErrorObject, body["error"])


def check(kind: Any, value: Any) -> None:
    """``value`` is of ``kind``, and all of its fields are known."""
    parsed = _adapter(kind).validate_json(json.dumps(value), strict=True)
    assert list(_unknown(parsed)) == []


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@cache
def _members(events: Any) -> dict[str | None, Any]:
    """The types of a stream's events by their names, so that not all of them are tried; one alone stands under None."""
    union = get_args(events)[0] if get_origin(events) is Annotated else events
    if isinstance(union, type):
        return {None: union}
    return {name: each for each in get_args(union) for name in get_args(each.model_fields["type"].annotation)}


def _kind(place: str) -> Any:
    if place.startswith("/responses/") and place != "/responses/compact":
        return ResponseItemList if place.endswith("/input_items") else Response
    return Model if place.startswith("/models/") else _WHOLE.get(place)


def _data(text: str) -> Iterator[Any]:
    lines = (line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: "))
    return (json.loads(line) for line in lines if line != "[DONE]")


def _unknown(value: Any, place: str = "") -> Iterator[str]:
    if isinstance(value, BaseModel):
        known = OWN | AHEAD.get(type(value).__name__, frozenset())
        yield from (f"{place}.{name}" for name in value.model_extra or {} if name not in known)
        for name in type(value).model_fields:
            yield from _unknown(getattr(value, name), f"{place}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(item, f"{place}[{index}]")

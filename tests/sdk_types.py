"""Bodies held against the types that OpenAI's and Anthropic's own SDKs publish: every field, and no other."""

from __future__ import annotations

from functools import cache
from typing import Any

import anthropic.types as anthropic_types
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, MessageCreateParamsStreaming
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from pydantic import BaseModel, ConfigDict, TypeAdapter

_REQUESTS: dict[tuple[str, bool], Any] = {
    ("openai", False): CompletionCreateParamsNonStreaming,
    ("openai", True): CompletionCreateParamsStreaming,
    ("anthropic", False): MessageCreateParamsNonStreaming,
    ("anthropic", True): MessageCreateParamsStreaming,
}
_ANSWERS: dict[str, type[BaseModel]] = {"openai": ChatCompletion, "anthropic": anthropic_types.Message}


def assert_request(api: str, body: dict[str, Any]) -> None:
    """``body`` is one that the SDK's types describe, without any field that they do not know."""
    exhaust(_adapter(api, bool(body.get("stream"))).validate_python([body]))


def assert_answer(api: str, body: dict[str, Any]) -> None:
    """``body`` is a whole answer as the API gives it."""
    _ANSWERS[api].model_validate(body)


def assert_event(api: str, event: dict[str, Any]) -> None:
    """``event`` is one of a streamed answer as the API gives it."""
    if api == "openai":
        ChatCompletionChunk.model_validate(event)
    elif event["type"] != "ping":
        _events().validate_python(event)


def exhaust(value: Any) -> None:
    """Validate what pydantic has left for later: it looks into an iterable only when somebody goes through it."""
    if isinstance(value, dict):
        for each in value.values():
            exhaust(each)
    elif hasattr(value, "__iter__") and not isinstance(value, str | bytes):
        for each in value:
            exhaust(each)


@cache
def _adapter(api: str, is_streamed: bool) -> TypeAdapter[Any]:
    return TypeAdapter(list[_REQUESTS[api, is_streamed]], config=ConfigDict(extra="forbid"))  # type: ignore[misc]


@cache
def _events() -> TypeAdapter[Any]:
    return TypeAdapter(anthropic_types.RawMessageStreamEvent)

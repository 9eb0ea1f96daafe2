"""Responses, read: ``POST /v1/responses``. Items of a kind that is not known are passed over."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..contracts.provider import ResponseFormat, Sampling
from ..contracts.transcript import Image, Message, Text, ToolCall, ToolResult
from . import fields
from .asking import Ask, assistant_joined, content_of, in_order, tool_name
from .chat_reading import read_choice, read_content, read_format, read_tools, schema_format
from .fields import Body, kind_of
from .problems import invalid

Item = Mapping[str, Any]
COMPACTION_NOTE = "What was said before, summarised:\n"


def read_response_request(body: Body) -> Ask:
    """What a request asks.

    Raises:
        Problem: it cannot be read.
    """
    if fields.flag(body, "background"):
        raise invalid("background is not offered: leave it out, and stream", "background")
    tools, speech = read_tools(fields.objects(body, "tools"))
    instructions = fields.text(body, "instructions")
    developer = [Message("developer", instructions)] if instructions else []
    messages = [*developer, *messages_of(input_items(body))]
    return Ask(
        model=fields.text(body, "model", "trinity"),
        messages=in_order(assistant_joined(messages)),
        ends_in_results=bool(messages) and messages[-1].role == "tool",
        tools=tools,
        tool_choice=read_choice(body.get("tool_choice"), body.get("parallel_tool_calls"), speech),
        response_format=_format(fields.mapping(body, "text")),
        sampling=Sampling(
            temperature=fields.number(body, "temperature", 0, 2),
            top_p=fields.number(body, "top_p", 0, 1),
            max_tokens=fields.count(body, "max_output_tokens"),
        ),
        is_streamed=fields.flag(body, "stream"),
        session=fields.text(body, "prompt_cache_key") or None,
        metadata=fields.labels(body),
        speech=speech,
    )


def input_items(body: Body) -> list[Item]:
    """``input`` as items; a text is one message of the user.

    Raises:
        Problem: it is neither a text nor a list of objects.
    """
    value = body.get("input")
    if value is None:
        return []
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": value}]}]
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise invalid(f"input must be a text or a list of items, not {kind_of(value)}", "input")
    return value


def messages_of(items: Iterable[Item]) -> list[Message]:
    """The messages that items stand for; reasoning and what is not known is passed over."""
    return [message for item in items for message in _messages(item)]


def _messages(item: Item) -> list[Message]:
    kind = item.get("type", "message")
    if kind == "message":
        return _message(item)
    if kind in ("function_call", "custom_tool_call"):
        return [Message("assistant", (_call(item),))]
    if kind in ("function_call_output", "custom_tool_call_output"):
        return [Message("tool", (_result(item),))]
    if kind == "compaction" and isinstance(item.get("encrypted_content"), str):
        return [Message("user", COMPACTION_NOTE + item["encrypted_content"])]
    return []


def _message(item: Item) -> list[Message]:
    role = fields.text(item, "role", "user")
    if role not in ("system", "developer", "user", "assistant"):
        raise invalid(f"an item's role is {role[:40]!r}: use system, developer, user or assistant", "input")
    return [Message(role, content_of(read_content(item.get("content"), role)))]


def _call(item: Item) -> ToolCall:
    name = tool_name(fields.text(item, "namespace"), fields.text(item, "name"))
    call_id = fields.text(item, "call_id") or fields.text(item, "id") or "unknown"
    if item.get("type") == "custom_tool_call":
        return ToolCall(call_id, name, json.dumps({"input": fields.text(item, "input")}, ensure_ascii=False))
    arguments = item.get("arguments", "{}")
    return ToolCall(call_id, name, arguments if isinstance(arguments, str) else json.dumps(arguments))


def _result(item: Item) -> ToolResult:
    output = item.get("output")
    if isinstance(output, Mapping):
        output = output.get("content") or output.get("body") or json.dumps(output, ensure_ascii=False)
    parts = read_content(output, "user")
    call_id = fields.text(item, "call_id") or "unknown"
    return ToolResult(call_id, tuple(part for part in parts if isinstance(part, Text | Image)))


def _format(text: Body) -> ResponseFormat | None:
    wanted = fields.mapping(text, "format")
    return schema_format(wanted) if wanted.get("type") == "json_schema" else read_format(wanted)

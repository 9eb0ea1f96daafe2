"""Messages, read: ``POST /v1/messages``. Thinking is left out of the history: it belongs to one model's one answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..contracts.provider import Sampling, Tool, ToolChoice, ToolMode
from ..contracts.transcript import Image, Message, Part, Text, ToolCall, ToolResult
from . import fields
from .asking import Ask, ToolSpeech, content_of, image_from_base64, image_of, in_order, tool_name
from .chat_reading import schema_format
from .fields import Body
from .problems import invalid

_MODES = {"auto": ToolMode.AUTO, "any": ToolMode.REQUIRED, "none": ToolMode.NONE}


def read_messages_request(body: Body) -> Ask:
    """What a request asks.

    Raises:
        Problem: it cannot be read.
    """
    items = fields.objects(body, "messages")
    tools, speech = _tools(fields.objects(body, "tools"))
    wanted = fields.mapping(fields.mapping(body, "output_config"), "format") or fields.mapping(body, "output_format")
    return Ask(
        model=fields.text(body, "model", "trinity"),
        messages=in_order([*_system(body), *(message for item in items for message in _messages(item))]),
        ends_in_results=bool(items) and _holds_results(items[-1]),
        tools=tools,
        tool_choice=_choice(fields.mapping(body, "tool_choice")),
        response_format=schema_format(wanted) if wanted.get("type") == "json_schema" else None,
        sampling=Sampling(
            temperature=fields.number(body, "temperature", 0, 2),
            top_p=fields.number(body, "top_p", 0, 1),
            max_tokens=fields.count(body, "max_tokens", least=0) or None,
            stop=fields.texts(body, "stop_sequences"),
        ),
        is_streamed=fields.flag(body, "stream"),
        metadata=fields.labels(body),
        speech=speech,
    )


def shows_thinking(body: Body) -> bool:
    """Whether the client wants to see thinking, and so progress: else its answer begins with text."""
    thinking = fields.mapping(body, "thinking")
    return thinking.get("type") in ("enabled", "adaptive") and thinking.get("display") != "omitted"


def _system(body: Body) -> list[Message]:
    parts = _content(body.get("system"), "system")
    return [Message("system", "\n\n".join(part.text for part in parts if isinstance(part, Text)))] if parts else []


def _tools(tools: Iterable[Body]) -> tuple[tuple[Tool, ...], dict[str, ToolSpeech]]:
    """Tools that the client runs: those with a type of their own run elsewhere, deferred ones are not yet offered."""
    read: dict[str, tuple[Tool, ToolSpeech]] = {}
    for tool in tools:
        name = fields.text(tool, "name")
        if tool.get("type", "custom") not in ("custom", None) or tool.get("defer_loading") is True or not name:
            continue
        schema = fields.mapping(tool, "input_schema") or {"type": "object", "properties": {}}
        own = tool_name(name)
        read.setdefault(own, (Tool(own, fields.text(tool, "description"), schema), ToolSpeech(name)))
    return tuple(tool for tool, _ in read.values()), {name: speech for name, (_, speech) in read.items()}


def _choice(choice: Body) -> ToolChoice | None:
    alone = choice.get("disable_parallel_tool_use")
    parallel = not alone if isinstance(alone, bool) else None
    if choice.get("type") == "tool":
        return ToolChoice(ToolMode.NAMED, tool_name(fields.text(choice, "name")), parallel)
    mode = _MODES.get(str(choice.get("type")))
    return None if mode is None else ToolChoice(mode, parallel=parallel)


def _holds_results(item: Body) -> bool:
    content = item.get("content")
    blocks = content if isinstance(content, list) else []
    return any(isinstance(block, Mapping) and block.get("type") == "tool_result" for block in blocks)


def _messages(item: Body) -> list[Message]:
    role = fields.text(item, "role", "user")
    if role not in ("user", "assistant", "system"):
        raise invalid(f"a message's role is {role[:40]!r}: use user or assistant", "messages")
    parts = _content(item.get("content"), role)
    results = [Message("tool", (part,)) for part in parts if isinstance(part, ToolResult)]
    others = [part for part in parts if not isinstance(part, ToolResult)]
    return [*results, *([Message(role, content_of(others))] if others or not results else [])]


def _content(content: Any, role: str) -> list[Part]:
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(content)] if content else []
    if not isinstance(content, list):
        raise invalid(f"content must be a text or a list of blocks, not {fields.kind_of(content)}", "messages")
    return [part for block in content for part in _block(block, role)]


def _block(block: Any, role: str) -> list[Part]:
    if isinstance(block, str):
        return [Text(block)] if block else []
    if not isinstance(block, Mapping):
        raise invalid(f"a block of content must be an object, not {fields.kind_of(block)}", "messages")
    kind = block.get("type", "text")
    if kind == "text":
        text = fields.text(block, "text")
        return [Text(text)] if text else []
    if kind == "image" and role == "user":
        return [_image(fields.mapping(block, "source"))]
    if kind == "tool_use" and role == "assistant":
        return [_call(block)]
    if kind == "tool_result" and role == "user":
        return [_result(block)]
    if kind == "document":
        raise invalid("documents cannot be read here: send their text", "messages")
    return []


def _image(source: Body) -> Image:
    if source.get("type") == "url":
        return image_of(fields.text(source, "url"))
    return image_from_base64(fields.text(source, "data"), fields.text(source, "media_type", "image/png"))


def _call(block: Body) -> ToolCall:
    arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
    return ToolCall(fields.text(block, "id") or "unknown", tool_name(fields.text(block, "name")), arguments)


def _result(block: Body) -> ToolResult:
    parts = _content(block.get("content"), "user")
    kept = tuple(part for part in parts if isinstance(part, Text | Image))
    return ToolResult(fields.text(block, "tool_use_id") or "unknown", kept, block.get("is_error") is True)

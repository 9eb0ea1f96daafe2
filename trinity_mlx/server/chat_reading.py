"""Chat Completions, read: ``POST /v1/chat/completions``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..contracts.provider import ResponseFormat, Sampling, Tool, ToolChoice, ToolMode
from ..contracts.transcript import Image, Message, Part, Refusal, Text, ToolCall, ToolResult
from . import fields
from .asking import Ask, ToolSpeech, assistant_joined, content_of, image_of, in_order, tool_name
from .fields import Body
from .problems import invalid

_ROLES = {"function": "tool"}


def read_chat(body: Body) -> Ask:
    """What a request asks.

    Raises:
        Problem: it cannot be read, or asks for what would change the meaning and is not there.
    """
    _refuse_unsupported(body)
    messages = [each for item in fields.objects(body, "messages") for each in _messages(item)]
    tools, speech = read_tools(_tools(body))
    return Ask(
        model=fields.text(body, "model", "trinity"),
        messages=in_order(assistant_joined(messages)),
        ends_in_results=bool(messages) and messages[-1].role == "tool",
        tools=tools,
        tool_choice=read_choice(body.get("tool_choice"), body.get("parallel_tool_calls"), speech),
        response_format=read_format(fields.mapping(body, "response_format")),
        sampling=read_sampling(body, "max_completion_tokens", "max_tokens"),
        is_streamed=fields.flag(body, "stream"),
        session=fields.text(body, "prompt_cache_key") or None,
        metadata=fields.labels(body),
        speech=speech,
    )


def _refuse_unsupported(body: Body) -> None:
    if fields.count(body, "n", 1, 128) not in (None, 1):
        raise invalid("n must be 1: a run gives one answer", "n")
    if fields.flag(body, "logprobs"):
        raise invalid("logprobs are not available: an answer may come from several models", "logprobs")
    modalities = body.get("modalities")
    if isinstance(modalities, list) and any(each != "text" for each in modalities):
        raise invalid("text is the only modality that is supported", "modalities")


def read_sampling(body: Body, *most_tokens: str) -> Sampling:
    """Temperature, top_p, stop, seed, and the first limit of tokens that is there."""
    limits = [fields.count(body, name) for name in most_tokens]
    return Sampling(
        temperature=fields.number(body, "temperature", 0, 2),
        top_p=fields.number(body, "top_p", 0, 1),
        max_tokens=next((limit for limit in limits if limit is not None), None),
        stop=fields.texts(body, "stop"),
        seed=fields.count(body, "seed", -(2**63), 2**63),
    )


def read_format(wanted: Body) -> ResponseFormat | None:
    """``response_format``; a schema stands in it under ``json_schema``."""
    kind = wanted.get("type")
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        return ResponseFormat()
    if kind == "json_schema":
        return schema_format(fields.mapping(wanted, "json_schema"))
    raise invalid(f"response_format is {str(kind)[:40]!r}: use text, json_object or json_schema", "response_format")


def schema_format(wanted: Body) -> ResponseFormat:
    """A format with ``schema``, ``name``, ``description`` and ``strict``."""
    schema = wanted.get("schema")
    if not isinstance(schema, Mapping):
        raise invalid("a json_schema format needs an object schema", "response_format")
    name = tool_name(fields.text(wanted, "name", "answer"))
    strict = wanted.get("strict")
    return ResponseFormat(
        schema, name, fields.text(wanted, "description"), strict if isinstance(strict, bool) else None
    )


def _tools(body: Body) -> Iterable[Body]:
    """Tools in Chat's own shape, flat as some clients send them, or as the functions of old."""
    for tool in fields.objects(body, "tools"):
        inner = tool.get("function") or tool.get("custom")
        yield {"type": tool.get("type", "function"), **inner} if isinstance(inner, Mapping) else tool
    for function in fields.objects(body, "functions"):
        yield {"type": "function", **function}


def read_tools(tools: Iterable[Body]) -> tuple[tuple[Tool, ...], dict[str, ToolSpeech]]:
    """Flat tools as providers take them, with what the interface calls each.

    A ``custom`` tool becomes a function of one text, a ``namespace`` is flattened, and what runs elsewhere is dropped.
    """
    read: dict[str, tuple[Tool, ToolSpeech]] = {}
    for tool, namespace in _flattened(tools):
        kind, name = tool.get("type", "function"), fields.text(tool, "name")
        if kind not in ("function", "custom") or not name:
            continue
        own = tool_name(namespace or "", name)
        offered = _custom(tool, own) if kind == "custom" else _function(tool, own)
        read.setdefault(own, (offered, ToolSpeech(name, namespace, kind == "custom")))
    return tuple(tool for tool, _ in read.values()), {name: speech for name, (_, speech) in read.items()}


def _flattened(tools: Iterable[Body]) -> Iterable[tuple[Body, str | None]]:
    for tool in tools:
        if tool.get("type") == "namespace":
            name = fields.text(tool, "name")
            yield from ((inner, name) for inner in fields.objects(tool, "tools"))
        else:
            yield tool, None


def _function(tool: Body, name: str) -> Tool:
    strict = tool.get("strict")
    parameters = fields.mapping(tool, "parameters") or {"type": "object", "properties": {}}
    return Tool(name, fields.text(tool, "description"), parameters, strict if isinstance(strict, bool) else None)


def _custom(tool: Body, name: str) -> Tool:
    description = fields.text(tool, "description")
    grammar = tool.get("format")
    if isinstance(grammar, Mapping) and isinstance(grammar.get("definition"), str):
        description += (
            f"\n\nThe input must follow this {grammar.get('syntax', 'grammar')} grammar:\n{grammar['definition']}"
        )
    field = {"type": "string", "description": "The whole input, as plain text."}
    schema = {"type": "object", "properties": {"input": field}, "required": ["input"], "additionalProperties": False}
    return Tool(name, description, schema)


def read_choice(choice: Any, parallel: Any, speech: Mapping[str, ToolSpeech]) -> ToolChoice | None:
    """``tool_choice`` in Chat's or Responses' shape; one that names a tool that is not there is left to the model."""
    several = parallel if isinstance(parallel, bool) else None
    if isinstance(choice, str) and choice in ("auto", "none", "required"):
        return ToolChoice(ToolMode(choice), parallel=several)
    if isinstance(choice, Mapping):
        inner = choice.get("function") or choice.get("custom")
        named = inner if isinstance(inner, Mapping) else choice
        wanted = named.get("name")
        own = next((name for name, said in speech.items() if said.name == wanted), None)
        if own is not None:
            return ToolChoice(ToolMode.NAMED, own, several)
        if choice.get("type") == "allowed_tools" and choice.get("mode") == "required":
            return ToolChoice(ToolMode.REQUIRED, parallel=several)
    return None if several is None else ToolChoice(parallel=several)


def _messages(item: Body) -> list[Message]:
    role = fields.text(item, "role", "user")
    role = _ROLES.get(role, role)
    if role == "tool":
        return [Message("tool", (_result(item),))]
    if role not in ("system", "developer", "user", "assistant"):
        raise invalid(f"a message's role is {role[:40]!r}: use system, developer, user, assistant or tool", "messages")
    parts = [*read_content(item.get("content"), role), *(_calls(item) if role == "assistant" else ())]
    return [Message(role, content_of(parts))]


def _result(item: Body) -> ToolResult:
    call_id = fields.text(item, "tool_call_id") or fields.text(item, "name") or "unknown"
    parts = read_content(item.get("content"), "user")
    return ToolResult(call_id, tuple(part for part in parts if isinstance(part, Text | Image)))


def _calls(item: Body) -> Iterable[Part]:
    if refusal := fields.text(item, "refusal"):
        yield Refusal(refusal)
    for call in fields.objects(item, "tool_calls"):
        inner = call.get("function") or call.get("custom")
        if not isinstance(inner, Mapping):
            continue
        arguments = inner.get("arguments", inner.get("input", "{}"))
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        if call.get("type") == "custom":
            text = json.dumps({"input": text}, ensure_ascii=False)
        yield ToolCall(fields.text(call, "id") or "unknown", tool_name(fields.text(inner, "name")), text)
    legacy = item.get("function_call")
    if isinstance(legacy, Mapping):
        name = tool_name(fields.text(legacy, "name"))
        yield ToolCall(name, name, fields.text(legacy, "arguments", "{}"))


def read_content(content: Any, role: str) -> list[Part]:
    """Content in the shapes of OpenAI: a text, or a list of parts.

    Raises:
        Problem: a part is sound or a file, which nobody here can read.
    """
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(content)] if content else []
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        raise invalid(
            f"a message's content must be a text or a list of parts, not {fields.kind_of(content)}", "messages"
        )
    return [part for item in content for part in _parts(item, role)]


def _parts(item: Any, role: str) -> list[Part]:
    if isinstance(item, str):
        return [Text(item)] if item else []
    if not isinstance(item, Mapping):
        raise invalid(f"a part of a message's content must be an object, not {fields.kind_of(item)}", "messages")
    kind = item.get("type", "text")
    if kind == "refusal" and role == "assistant":
        return [Refusal(fields.text(item, "refusal"))]
    if kind in ("image_url", "input_image") and role == "user":
        return [_image(item)]
    if kind in ("input_audio", "file", "input_file", "input_video", "video_url"):
        raise invalid(f"content of type {kind} cannot be read here: send texts and images", "messages")
    text = item.get("text")
    return [Text(text)] if isinstance(text, str) and text else []


def _image(item: Body) -> Image:
    place = item.get("image_url")
    url = place.get("url") if isinstance(place, Mapping) else place
    detail = place.get("detail") if isinstance(place, Mapping) else item.get("detail")
    if not isinstance(url, str):
        raise invalid("an image needs an address in image_url", "messages")
    return image_of(url, detail if detail in ("low", "high", "auto") else "")

"""Messages in the shapes of OpenAI's and Anthropic's APIs, and in this package's own, read into roles and parts.

What is left out, and nothing else: a key whose value is null or an empty list; reasoning (``thinking`` and
``redacted_thinking`` blocks, ``reasoning_content``, ``reasoning``, ``reasoning_details``), which belongs to whoever
wrote it; ``annotations`` and ``citations``, which describe an answer; ``cache_control``, which changes a price. Every
other key that is not read is an error.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .errors import TranscriptError
from .parts import Image, Part, Refusal, Text, ToolCall, ToolResult, brief
from .plain import from_plain

Content = str | tuple[Part, ...]

_DATA_URL = re.compile(r"data:([^;,]{1,127});base64,")
_LEFT_OUT = frozenset(
    {"reasoning_content", "reasoning", "reasoning_details", "annotations", "citations", "cache_control"}
)
_OWN = {"tool_call": "name", "tool_result": "call_id", "image": "sha256", "refusal": "text"}
"""By a part's type, the key that tells the plain form of this package from others' shapes."""
_REASONING = frozenset({"thinking", "redacted_thinking"})
_MESSAGE_KEYS = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "refusal"})


def read_message(item: Any) -> Iterator[tuple[str, Content, str]]:
    """Role, content and name of the messages that ``item`` is.

    There is one, but for Anthropic's user message with tool results, each of which is a message of role ``tool``.

    Raises:
        TranscriptError: it has another shape, or a key that is not read.
    """
    fields = _stated(item, "the message")
    missing = [key for key in ("role", "content") if key not in _mapping(item, "the message")]
    if missing and not (missing == ["content"] and fields.keys() & {"tool_calls", "refusal"}):
        raise TranscriptError(f"it has no {' and no '.join(missing)}")
    _only(fields, _MESSAGE_KEYS, "the message")
    role, name = fields.get("role"), fields.get("name", "")
    if role == "tool" and ("tool_call_id" in fields or not isinstance(fields.get("content"), list)):
        yield role, (_tool_result(fields),), name
        return
    if "tool_call_id" in fields:
        raise TranscriptError(f"a {brief(role)} message has a tool_call_id: only one of role 'tool' does")
    yield from _split(role, _whole_content(fields, item), name)


def _split(role: Any, content: Any, name: str) -> Iterator[tuple[str, Any, str]]:
    """One message, or, where results of tools stand in a user's message, each of them and what lies between."""
    if role != "user" or not isinstance(content, tuple):
        yield role, content, name
        return
    others: list[Part] = []
    for part in content:
        if not isinstance(part, ToolResult):
            others.append(part)
            continue
        if others:
            yield role, tuple(others), name
            others = []
        yield "tool", (part,), ""
    if others or not content:
        yield role, tuple(others), name


def _whole_content(fields: Mapping[str, Any], item: Any) -> Any:
    """The content with the calls and the refusal that OpenAI puts beside it."""
    content = fields.get("content", "" if fields.keys() & {"tool_calls", "refusal"} else _mapping(item, "")["content"])
    beside: list[Part] = [_tool_call(each) for each in _list(fields.get("tool_calls", []), "tool_calls")]
    if "refusal" in fields:
        beside.append(Refusal(fields["refusal"]))
    if isinstance(content, Iterable) and not isinstance(content, str | bytes | Mapping):
        return (*_parts(content), *beside)
    if not beside:
        return content
    return ((Text(content),) if content else ()) + tuple(beside)


def _parts(content: Iterable[Any]) -> tuple[Part, ...]:
    read = (_placed(_part, part, f"part {index}") for index, part in enumerate(content))
    return tuple(part for part in read if part is not None)


def _part(item: Any) -> Part | None:
    """The part that a block is; None for reasoning."""
    if isinstance(item, Text | Image | ToolCall | ToolResult | Refusal):
        return item
    fields = _stated(item, "it")
    kind = fields.get("type")
    if kind in _REASONING:
        return None
    if _OWN.get(str(kind)) in fields:
        return _own(_mapping(item, "it"))
    if not isinstance(kind, str) or kind not in _READERS:
        raise TranscriptError(f"its type is {brief(kind)}, not one of {', '.join(_READERS)}")
    keys, reader = _READERS[kind]
    _only(fields, keys | {"type"}, f"a part of type {kind}")
    return reader(fields)


def _own(fields: Mapping[str, Any]) -> Part:
    """A part in the plain form of this package."""
    try:
        return from_plain(Part, fields)  # type: ignore[arg-type]  # a union is a type to it
    except ValueError as error:
        raise TranscriptError(str(error)) from None


def _text(fields: Mapping[str, Any]) -> Text:
    return Text(fields.get("text"))  # type: ignore[arg-type]  # checked there


def _refusal(fields: Mapping[str, Any]) -> Refusal:
    return Refusal(fields.get("refusal"))  # type: ignore[arg-type]  # checked there


def _image_url(fields: Mapping[str, Any]) -> Image:
    """OpenAI's image: an address, which may be a data URL."""
    value = fields.get("image_url")
    inner = {"url": value} if isinstance(value, str) else _stated(value, "image_url")
    _only(inner, {"url", "detail"}, "image_url")
    return _image_at(inner.get("url"), inner.get("detail", ""))


def _image_source(fields: Mapping[str, Any]) -> Image:
    """Anthropic's image: bytes as base64, or an address."""
    source = _stated(fields.get("source"), "source")
    if source.get("type") == "url":
        _only(source, {"type", "url"}, "source")
        return _image_at(source.get("url"), "")
    _only(source, {"type", "media_type", "data"}, "source")
    return Image.of_data(_bytes(source.get("data")), _string(source.get("media_type"), "media_type"))


def _image_at(url: Any, detail: str) -> Image:
    head = _DATA_URL.match(_string(url, "an image's address"))
    if head is None:
        return Image.of_url(url, detail)
    return Image.of_data(_bytes(url[head.end() :]), head[1], detail)


def _bytes(text: Any) -> bytes:
    try:
        return b64decode(_string(text, "an image's data"), validate=True)
    except ValueError as error:
        raise TranscriptError(f"an image's data is not base64: {error}") from None


def _tool_use(fields: Mapping[str, Any]) -> ToolCall:
    return ToolCall(fields.get("id"), fields.get("name"), _json(fields.get("input", {})))  # type: ignore[arg-type]


def _tool_call(item: Any) -> ToolCall:
    """OpenAI's call of a function."""
    fields = _stated(item, "a tool call")
    if fields.get("type", "function") != "function":
        raise TranscriptError(f"a tool call's type is {brief(fields['type'])}, and only functions are called")
    _only(fields, {"id", "type", "function", "index"}, "a tool call")
    function = _stated(fields.get("function"), "a tool call's function")
    _only(function, {"name", "arguments"}, "a tool call's function")
    arguments = function.get("arguments", "")
    return ToolCall(
        fields.get("id"),  # type: ignore[arg-type]  # checked there
        function.get("name"),  # type: ignore[arg-type]
        arguments if isinstance(arguments, str) else _json(arguments),
    )


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise TranscriptError(f"a tool call's input is not JSON: {error}") from None


def _tool_result(fields: Mapping[str, Any]) -> ToolResult:
    """OpenAI's message of role ``tool``."""
    unfit = sorted(fields.keys() & {"tool_calls", "refusal"})
    if unfit:
        raise TranscriptError(f"a message of role 'tool' has {unfit[0]}: only an assistant's does")
    return ToolResult(_string(fields.get("tool_call_id"), "tool_call_id"), _result_parts(fields.get("content", "")))


def _tool_result_block(fields: Mapping[str, Any]) -> ToolResult:
    is_error = fields.get("is_error", False)
    if not isinstance(is_error, bool):
        raise TranscriptError(f"is_error is {brief(is_error)}, not true or false")
    call_id = _string(fields.get("tool_use_id"), "tool_use_id")
    return ToolResult(call_id, _result_parts(fields.get("content", "")), is_error)


def _result_parts(content: Any) -> tuple[Any, ...]:
    if isinstance(content, str):
        return (Text(content),) if content else ()
    return _parts(_list(content, "a tool result's content"))


_READERS: dict[str, tuple[frozenset[str], Callable[[Mapping[str, Any]], Part]]] = {
    "text": (frozenset({"text"}), _text),
    "image_url": (frozenset({"image_url"}), _image_url),
    "image": (frozenset({"source"}), _image_source),
    "tool_use": (frozenset({"id", "name", "input", "caller"}), _tool_use),
    "tool_result": (frozenset({"tool_use_id", "content", "is_error"}), _tool_result_block),
    "refusal": (frozenset({"refusal"}), _refusal),
}


def _placed(read: Callable[[Any], Part | None], item: Any, place: str) -> Part | None:
    try:
        return read(item)
    except TranscriptError as error:
        raise TranscriptError(f"{place}: {error}") from None


def _mapping(item: Any, what: str) -> Mapping[str, Any]:
    """``item`` as a mapping; objects of an SDK tell theirs by ``model_dump``."""
    dump = getattr(item, "model_dump", None)
    value = dump() if callable(dump) else item
    if not isinstance(value, Mapping):
        raise TranscriptError(f"{what} is {type(item).__name__}, not an object")
    return value


def _stated(item: Any, what: str) -> dict[str, Any]:
    """The keys that say something: their values are neither null nor an empty list, and they are not left out."""
    stated = _mapping(item, what).items()
    return {key: value for key, value in stated if value is not None and key not in _LEFT_OUT and value != []}


def _only(fields: Mapping[str, Any], known: Iterable[str], what: str) -> None:
    unknown = [key for key in fields if key not in set(known)]
    if unknown:
        raise TranscriptError(f"{what} has the key {brief(unknown[0])}, which is not read: take it out")


def _list(value: Any, what: str) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TranscriptError(f"{what} is {type(value).__name__}, not a list")
    return value


def _string(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise TranscriptError(f"{what} is {type(value).__name__}, not text")
    return value

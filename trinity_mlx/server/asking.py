"""What is asked, whatever the interface: messages, tools, form, sampling; and how messages are put in order."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..contracts.provider import ResponseFormat, Sampling, Tool, ToolChoice
from ..contracts.transcript import Image, Message, Part, Text, ToolCall, ToolResult
from .limits import RequestLimits
from .problems import invalid

_DATA_URL = re.compile(r"data:([^;,]{0,100})(?:;[^;,]{0,100})*;base64,")
_TOOL_NAME = re.compile(r"[^A-Za-z0-9_-]")
NO_RESULT = "The call was given no result."


@dataclass(frozen=True, slots=True)
class ToolSpeech:
    """How an interface names a tool: a ``custom`` one takes a text, not an object; a ``namespace`` groups some."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, read.

    ``ends_in_results`` says that the last thing said are results of tools, so that it goes on where it stood.
    ``session`` is the interface's own word for the conversation, where it has one. ``speech`` maps the names under
    which tools go to a provider to what the interface calls them.
    """

    model: str
    messages: tuple[Message, ...]
    ends_in_results: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    response_format: ResponseFormat | None = None
    sampling: Sampling = field(default_factory=Sampling)
    is_streamed: bool = False
    session: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    speech: Mapping[str, ToolSpeech] = field(default_factory=dict)


def image_of(url: str, detail: str = "") -> Image:
    """An image from its address, or from the bytes in a ``data:`` address.

    Raises:
        Problem: it is neither.
    """
    if url.startswith("data:"):
        match = _DATA_URL.match(url)
        if match is None:
            raise invalid("an image in a data: address must be base64, as in data:image/png;base64,...")
        return image_from_base64(url[match.end() :], match[1] or "image/png", detail)
    if not url.startswith(("http://", "https://")):
        raise invalid(f"an image's address must begin with https:// or data:, not {url[:40]!r}")
    return Image.of_url(url, detail)


def image_from_base64(data: str, media_type: str, detail: str = "") -> Image:
    """An image from its bytes in base64.

    Raises:
        Problem: they are none.
    """
    try:
        return Image.of_data(base64.b64decode(data, validate=True), media_type.lower(), detail)
    except (binascii.Error, ValueError):
        raise invalid("an image's data is not base64") from None


def tool_name(*parts: str) -> str:
    """A name that every provider takes: at most 64 characters of letters, digits, ``_`` and ``-``."""
    return _TOOL_NAME.sub("_", "__".join(part for part in parts if part))[:64] or "tool"


def checked(ask: Ask, limits: RequestLimits) -> Ask:
    """``ask`` with its messages in order, within the limits.

    Raises:
        Problem: there are too many messages or tools, or nothing is asked.
    """
    if len(ask.messages) > limits.messages:
        raise invalid(f"{len(ask.messages)} messages are too many: {limits.messages} are accepted")
    if len(ask.tools) > limits.tools:
        raise invalid(f"{len(ask.tools)} tools are too many: {limits.tools} are accepted", "tools")
    if not any(message.parts for message in ask.messages if message.role in ("user", "tool", "assistant")):
        raise invalid("nothing is asked: send at least one message with a text in it", "messages")
    return ask


def in_order(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Messages as providers take them: each call has its result right after it, and each result its call.

    A call without one gets a result that says so; a result without its call becomes the text of a user.
    """
    ordered: list[Message] = []
    waiting: dict[str, None] = {}
    for message in messages:
        if message.role == "tool":
            ordered += _matched(message, waiting)
            continue
        ordered += _unanswered(waiting)
        ordered.append(message)
        waiting = dict.fromkeys(call.id for call in message.tool_calls)
    return (*ordered, *_unanswered(waiting))


def _matched(message: Message, waiting: dict[str, None]) -> list[Message]:
    ordered = []
    for part in message.parts:
        assert isinstance(part, ToolResult)
        if part.call_id in waiting:
            del waiting[part.call_id]
            ordered.append(Message("tool", (part,)))
        else:
            ordered.append(Message("user", (Text(f"Result of the tool call {part.call_id}:\n"), *part.parts)))
    return ordered


def _unanswered(waiting: Mapping[str, None]) -> list[Message]:
    return [Message("tool", (ToolResult.of_text(call, NO_RESULT, is_error=True),)) for call in waiting]


def assistant_joined(messages: Iterable[Message]) -> list[Message]:
    """Messages in which calls join the assistant's message before them: item lists hold each apart."""
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else None
        if last and last.role == message.role == "assistant" and message.tool_calls:
            joined[-1] = Message("assistant", (*last.parts, *message.parts))
        else:
            joined.append(message)
    return joined


def content_of(parts: Sequence[Part]) -> str | tuple[Part, ...]:
    """Parts as a message's content."""
    return tuple(parts) if parts else ""


def estimated_tokens(ask: Ask) -> int:
    """About how many tokens a request has: a quarter of its characters, more for what is no text."""
    characters = sum(len(tool.description) + len(str(tool.parameters)) for tool in ask.tools)
    for message in ask.messages:
        characters += 16 + sum(_characters(part) for part in message.parts)
    return characters // 4 + 1


def _characters(part: Part) -> int:
    if isinstance(part, Text):
        return len(part.text)
    if isinstance(part, ToolCall):
        return len(part.name) + len(part.arguments)
    if isinstance(part, ToolResult):
        return sum(map(_characters, part.parts))
    return 4_000

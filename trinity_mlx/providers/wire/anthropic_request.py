"""A request as the body of Anthropic's messages.

What the form has no place for: a seed and participants' names are left out; a refusal in the conversation reads as
text; any JSON object as the form of the answer is asked for in words; arguments of a call that are no JSON object go
out as the text under the key ``arguments``.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from ...contracts.parts import Image, Part, Refusal, Text, ToolCall, ToolResult
from ...contracts.pool import Agent
from ...contracts.provider import Request, ResponseFormat, Tool, ToolChoice, ToolMode
from ...contracts.transcript import Message
from .extra import stated

YOUR_TURN = "It is your turn."
ANY_JSON = "Answer with one JSON object and nothing else."

_IDENTITY = re.compile(r"[a-zA-Z0-9_-]+")
_MODES = {ToolMode.AUTO: "auto", ToolMode.NONE: "none", ToolMode.REQUIRED: "any", ToolMode.NAMED: "tool"}


def to_wire(agent: Agent, request: Request, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The body but for ``model`` and ``stream``: the agent's settings, then its ``extra``, then what the request asks
    for."""
    sampling = request.sampling
    settings = {"max_tokens": agent.max_tokens, "temperature": agent.temperature}
    overrides = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stop_sequences": list(sampling.stop) or None,
    }
    sampled = stated(settings) | dict(extra) | stated(overrides)
    return _conversation(request) | sampled | _tools(request) | _output_config(request.response_format)


def messages_to_wire(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages but for system ones; results of tools and what a user says after them are one message.

    An answer at the end would be taken for the beginning of the next one, so a short user message follows it.
    """
    wire: list[dict[str, Any]] = []
    for message in messages:
        is_reported = message.role in ("tool", "user")
        if is_reported and wire and _holds_results(wire[-1]["content"]):
            wire[-1]["content"] += _blocks(message.parts)
        elif message.role not in ("system", "developer"):
            wire.append(_message(message))
    if wire and wire[-1]["role"] == "assistant":
        wire.append({"role": "user", "content": YOUR_TURN})
    return wire


def tools_to_wire(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Tools that may be called."""
    return [
        {"name": tool.name, "input_schema": dict(tool.parameters) or {"type": "object"}}
        | stated({"description": tool.description or None, "strict": tool.strict})
        for tool in tools
    ]


def _conversation(request: Request) -> dict[str, Any]:
    """Messages, with the system's in the place that Anthropic has for them."""
    texts = [message.text for message in request.messages if message.role in ("system", "developer")]
    form = request.response_format
    if form is not None and form.schema is None:
        texts.append(ANY_JSON)
    system = "\n\n".join(texts)
    return {"messages": messages_to_wire(request.messages)} | ({"system": system} if system else {})


def _message(message: Message) -> dict[str, Any]:
    role = "user" if message.role == "tool" else message.role
    content = message.content if isinstance(message.content, str) else _blocks(message.content)
    return {"role": role, "content": content}


def _holds_results(content: object) -> bool:
    return isinstance(content, list) and bool(content) and content[0]["type"] == "tool_result"


def _blocks(parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [_block(part) for part in parts if not (isinstance(part, Text) and not part.text)]


def _block(part: Part) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Image():
            return {"type": "image", "source": _source(part)}
        case ToolCall():
            return {"type": "tool_use", "id": _identity(part.id), "name": part.name, "input": _input(part.arguments)}
        case ToolResult():
            failed = {"is_error": True} if part.is_error else {}
            content = _blocks(part.parts)
            return {"type": "tool_result", "tool_use_id": _identity(part.call_id), "content": content, **failed}
        case Refusal(text):
            return {"type": "text", "text": text or "I will not answer this."}


def _source(image: Image) -> dict[str, Any]:
    if image.url is not None:
        return {"type": "url", "url": image.url}
    data = b64encode(image.data or b"").decode("ascii")
    return {"type": "base64", "media_type": image.media_type, "data": data}


def _identity(identity: str) -> str:
    """The id as it is, or, where Anthropic would refuse it, one made of it: the same for a call and its result."""
    if _IDENTITY.fullmatch(identity):
        return identity
    return "toolu_" + hashlib.sha256(identity.encode()).hexdigest()[:24]


def _input(arguments: str) -> dict[str, Any]:
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"arguments": arguments}


def _tools(request: Request) -> dict[str, Any]:
    if not request.tools:
        return {}
    choice = request.tool_choice
    return {"tools": tools_to_wire(request.tools)} | ({} if choice is None else {"tool_choice": _choice(choice)})


def _choice(choice: ToolChoice) -> dict[str, Any]:
    named = {"name": choice.name} if choice.mode is ToolMode.NAMED else {}
    limits = choice.parallel is not None and choice.mode is not ToolMode.NONE
    parallel = {"disable_parallel_tool_use": not choice.parallel} if limits else {}
    return {"type": _MODES[choice.mode], **named, **parallel}


def _output_config(form: ResponseFormat | None) -> dict[str, Any]:
    if form is None or form.schema is None:
        return {}
    return {"output_config": {"format": {"type": "json_schema", "schema": dict(form.schema)}}}

"""A request as a chat completion's body, as OpenAI shaped it.

What the form has no place for is told in text: a result's error is marked ``[error]``, and images of a result follow
it in a user's message. A developer's message goes out as a system's, which every server takes.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...contracts.parts import Image, Refusal, Text, ToolCall, ToolResult
from ...contracts.pool import Agent
from ...contracts.provider import Request, ResponseFormat, Tool, ToolChoice, ToolMode
from ...contracts.transcript import Message
from .extra import stated

IMAGES_FOLLOW = "These images belong to the results above."


def to_wire(agent: Agent, request: Request, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The body but for ``model`` and ``stream``: the agent's settings, then its ``extra``, then what the request asks
    for.

    ``max_completion_tokens`` in ``extra`` takes the place of ``max_tokens``.
    """
    limit = "max_completion_tokens" if "max_completion_tokens" in extra else "max_tokens"
    settings = {limit: agent.max_tokens, "temperature": agent.temperature}
    conversation = {"messages": messages_to_wire(request.messages)}
    return conversation | stated(settings) | dict(extra) | _tools(request) | _overrides(request, limit)


def stream_fields(extra: Mapping[str, Any]) -> dict[str, Any]:
    """What asks for a stream that counts tokens; ``stream_options = {}`` in ``extra`` asks for one that does not."""
    options = extra.get("stream_options", {"include_usage": True})
    return {"stream": True, **({"stream_options": options} if options else {})}


def messages_to_wire(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages; one with several results of tools becomes several."""
    wire: list[dict[str, Any]] = []
    images: list[Image] = []
    for message in messages:
        if message.role != "tool" and images:
            wire.append(_images_of_results(images))
            images = []
        if message.role == "tool":
            results = [part for part in message.parts if isinstance(part, ToolResult)]
            wire += map(_result, results)
            images += [part for result in results for part in result.parts if isinstance(part, Image)]
        else:
            wire.append(_message(message))
    return wire + ([_images_of_results(images)] if images else [])


def tools_to_wire(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Functions that may be called."""
    return [{"type": "function", "function": _function(tool)} for tool in tools]


def _message(message: Message) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    named = {"name": message.name} if message.name else {}
    if message.role == "user" and isinstance(message.content, tuple):
        return {"role": role, "content": list(_content(message)), **named}
    beside = _calls_and_refusal(message)
    content = message.text or None if beside else message.text
    return {"role": role, "content": content, **beside, **named}


def _content(message: Message) -> Iterator[dict[str, Any]]:
    for part in message.parts:
        if isinstance(part, Text):
            yield {"type": "text", "text": part.text}
        elif isinstance(part, Image):
            yield _image(part)


def _image(image: Image) -> dict[str, Any]:
    detail = {"detail": image.detail} if image.detail else {}
    return {"type": "image_url", "image_url": {"url": image_url(image), **detail}}


def image_url(image: Image) -> str:
    """The image's address, or its bytes as a data URL."""
    if image.url is not None:
        return image.url
    return f"data:{image.media_type};base64,{b64encode(image.data or b'').decode('ascii')}"


def _calls_and_refusal(message: Message) -> dict[str, Any]:
    calls = [_call(call) for call in message.tool_calls]
    refusals = [part.text for part in message.parts if isinstance(part, Refusal)]
    return ({"tool_calls": calls} if calls else {}) | ({"refusal": "\n".join(refusals)} if refusals else {})


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _result(result: ToolResult) -> dict[str, Any]:
    text = ("[error] " if result.is_error else "") + result.text
    return {"role": "tool", "tool_call_id": result.call_id, "content": text}


def _images_of_results(images: Sequence[Image]) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": IMAGES_FOLLOW}, *map(_image, images)]}


def _function(tool: Tool) -> dict[str, Any]:
    fields = {
        "description": tool.description or None,
        "parameters": dict(tool.parameters) or None,
        "strict": tool.strict,
    }
    return {"name": tool.name} | stated(fields)


def _tools(request: Request) -> dict[str, Any]:
    if not request.tools:
        return {}
    choice = request.tool_choice
    chosen = {} if choice is None else {"tool_choice": _choice(choice)}
    parallel = {} if choice is None or choice.parallel is None else {"parallel_tool_calls": choice.parallel}
    return {"tools": tools_to_wire(request.tools), **chosen, **parallel}


def _choice(choice: ToolChoice) -> Any:
    if choice.mode is ToolMode.NAMED:
        return {"type": "function", "function": {"name": choice.name}}
    return str(choice.mode)


def _overrides(request: Request, limit: str) -> dict[str, Any]:
    """Sampling and the form of the answer, as far as the request names them."""
    sampling, form = request.sampling, request.response_format
    fields = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        limit: sampling.max_tokens,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
        "response_format": None if form is None else _response_format(form),
    }
    return stated(fields)


def _response_format(form: ResponseFormat) -> dict[str, Any]:
    if form.schema is None:
        return {"type": "json_object"}
    described = stated({"description": form.description or None, "strict": form.strict})
    return {"type": "json_schema", "json_schema": {"name": form.name, "schema": dict(form.schema), **described}}

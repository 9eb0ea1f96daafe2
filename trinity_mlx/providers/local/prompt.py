"""The text that a local model continues, from messages: by its chat template, else as role lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contracts.parts import Image, Refusal, ToolResult
from ...contracts.provider import ResponseFormat
from ...contracts.text_format import role_lines
from ...contracts.transcript import Message, Transcript
from ..wire.openai_request import tools_to_wire
from ..wire.thinking import OPEN
from .engine import Generation, PromptRefused


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, how many may be generated after them, and the tag of a reasoning that they end with, if any."""

    tokens: list[int]
    room: int
    opening: str


def make_prompt(tokenizer: Any, wanted: Generation, max_positions: int | None) -> Prompt:
    """What the model is to continue.

    Raises:
        PromptRefused: the template refuses the messages or has no place for tools, they hold an image, or they fill all
            positions that the model has.
    """
    text, is_template = _text(tokenizer, wanted)
    tokens = list(tokenizer.encode(text, add_special_tokens=not is_template))
    room = wanted.max_tokens if max_positions is None else min(wanted.max_tokens, max_positions - len(tokens))
    if room < 1:
        raise PromptRefused(f"the prompt has {len(tokens)} tokens, and the model holds {max_positions} with its answer")
    return Prompt(tokens, room, OPEN if text.rstrip().endswith(OPEN) else "")


def max_positions(folder: Path) -> int | None:
    """How many tokens the model in ``folder`` can hold, None where its configuration does not say."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    positions = config.get("max_position_embeddings")
    return positions if isinstance(positions, int) else None


def _text(tokenizer: Any, wanted: Generation) -> tuple[str, bool]:
    """The text, and whether a template made it, which then has put the special tokens in."""
    messages = (*_form_asked_for(wanted.response_format), *wanted.messages)
    if any(isinstance(part, Image) for message in messages for part in _all_parts(message)):
        raise PromptRefused("it reads text alone, and the messages hold an image")
    if not tokenizer.chat_template:
        if wanted.tools:
            raise PromptRefused("it has no chat template, and so no place for tools")
        return role_lines(Transcript(messages)) + "\nassistant:", False
    return _templated(tokenizer, messages, wanted), True


def _templated(tokenizer: Any, messages: tuple[Message, ...], wanted: Generation) -> str:
    options: dict[str, Any] = dict(wanted.template_options)
    if wanted.tools:
        if "tools" not in str(tokenizer.chat_template):
            raise PromptRefused("its chat template has no place for tools")
        options["tools"] = tools_to_wire(wanted.tools)
    said = [entry for message in messages for entry in _entries(message)]
    try:
        return str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True, **options))
    except Exception as error:  # a template is a program of the model's author
        raise PromptRefused(f"its chat template refuses the messages: {error}") from None


def _form_asked_for(form: ResponseFormat | None) -> tuple[Message, ...]:
    """A model in this process cannot be held to a form, so it is asked for one."""
    if form is None:
        return ()
    schema = "" if form.schema is None else f" of this schema: {json.dumps(form.schema, ensure_ascii=False)}"
    return (Message("system", f"Answer with one JSON object and nothing else{schema}"),)


def _all_parts(message: Message) -> Iterator[object]:
    for part in message.parts:
        yield part
        if isinstance(part, ToolResult):
            yield from part.parts


def _entries(message: Message) -> Iterator[Mapping[str, Any]]:
    """The entries of a template's list that ``message`` is: one, or one for each result of a tool."""
    if message.role == "tool":
        for part in message.parts:
            if isinstance(part, ToolResult):
                text = ("[error] " if part.is_error else "") + part.text
                yield {"role": "tool", "tool_call_id": part.call_id, "content": text}
        return
    role = "system" if message.role == "developer" else message.role
    content = message.text + "".join(part.text for part in message.parts if isinstance(part, Refusal))
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _arguments(call.arguments)}}
        for call in message.tool_calls
    ]
    yield {"role": role, "content": content} | ({"tool_calls": calls} if calls else {})


def _arguments(text: str) -> Any:
    """The object where the text is one: most templates write it as JSON by themselves."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text

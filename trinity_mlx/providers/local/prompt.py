"""The text that a local model continues, from messages: by its chat template, else as role lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contracts.text_format import role_lines
from ...contracts.transcript import Message, Transcript
from ..wire.thinking import OPEN
from .model_thread import Generation, PromptRefused


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, how many may be generated after them, and the tag of a reasoning that they end with, if any."""

    tokens: list[int]
    room: int
    opening: str


def make_prompt(tokenizer: Any, wanted: Generation, max_positions: int | None) -> Prompt:
    """What the model is to continue.

    Raises:
        PromptRefused: the template refuses the messages, or they fill all positions that the model has.
    """
    text, is_template = _text(tokenizer, wanted.messages, wanted.template_options)
    tokens = list(tokenizer.encode(text, add_special_tokens=not is_template))
    room = wanted.max_tokens if max_positions is None else min(wanted.max_tokens, max_positions - len(tokens))
    if room < 1:
        raise PromptRefused(f"the prompt has {len(tokens)} tokens, and the model holds {max_positions} with its answer")
    return Prompt(tokens, room, OPEN if text.rstrip().endswith(OPEN) else "")


def max_positions(folder: Path) -> int | None:
    """How many tokens the model in ``folder`` can hold, None where its configuration does not say."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = config.get("max_position_embeddings")
    return found if isinstance(found, int) else None


def _text(tokenizer: Any, messages: tuple[Message, ...], options: Mapping[str, Any]) -> tuple[str, bool]:
    """The text, and whether a template made it, which then has put the special tokens in."""
    if not tokenizer.chat_template:
        return role_lines(Transcript(messages)) + "\nassistant:", False
    said = [{"role": each.role, "content": each.content} for each in messages]
    try:
        text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True, **options)
    except Exception as error:  # a template is a program of the model's author
        raise PromptRefused(f"its chat template refuses the messages: {error}") from None
    return str(text), True

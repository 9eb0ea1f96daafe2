"""The texts that a router reads a transcript as."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum

from .parts import Image, Part, Refusal, Text, ToolCall, ToolResult
from .transcript import Message, Transcript

ARGUMENTS_SHOWN = (200, 100)
"""Characters of a tool call's arguments that are read: of their beginning, of their end."""
RESULT_SHOWN = (600, 300)
"""Characters of a tool's result that are read: of its beginning, of its end."""


class PartFormat(StrEnum):
    """How parts that are no text read; an artifact is trained with one of them and names it."""

    BRIEF = "brief"
    """A call by name and arguments, a result by its text, both with the middle left out where they are long; an image
    by its media type; a refusal by its words."""


class TextFormat(StrEnum):
    """How a transcript becomes the router's input text; a field of every artifact (docs/method.md, section 9)."""

    ROLE_LINES = "role-lines"
    QWEN3_CHAT = "qwen3-chat"

    def render(self, transcript: Transcript, parts: PartFormat = PartFormat.BRIEF) -> str:
        """The text that is tokenized, with nothing added by the tokenizer; ``parts`` says how other parts read."""
        return _RENDERERS[self, parts](transcript)


def role_lines(transcript: Transcript) -> str:
    """``"{role}: {content}"`` for each message, joined by one newline: the form of the published decisions."""
    return "\n".join(f"{message.role}: {_line(message)}" for message in transcript.messages)


def _line(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(map(_shown, message.content))


def _shown(part: Part) -> str:
    match part:
        case Text(text):
            return text
        case Image():
            return f"[image {part.media_type}]" if part.media_type else "[image]"
        case ToolCall():
            return f"[call {part.name} {_excerpt(part.arguments, *ARGUMENTS_SHOWN)}]"
        case ToolResult():
            return ("[error] " if part.is_error else "") + _result(part)
        case Refusal(text):
            return f"[refusal] {text}"


def _result(result: ToolResult) -> str:
    return _excerpt("\n".join(map(_shown, result.parts)), *RESULT_SHOWN)


def _excerpt(text: str, head: int, tail: int) -> str:
    left_out = len(text) - head - tail
    return text if left_out <= 0 else f"{text[:head]} [... {left_out} characters ...] {text[-tail:]}"


def qwen3_chat(transcript: Transcript) -> str:
    """Qwen3's chat form with the generation prompt added and thinking off, as the paper's evaluation used it.

    As in the model's own template, reasoning is dropped from the answers before the last user message; after it,
    reasoning stays, and the very last answer carries a thinking block even when that is empty. A developer's message
    reads as a system's, and results of tools that follow one another as one turn of the user.
    """
    messages = transcript.messages
    query = _last_query(messages)
    turns = list(_turns(messages, query))
    return "".join(turns) + "<|im_start|>assistant\n" + _thinking_block("")


def _turns(messages: tuple[Message, ...], query: int) -> Iterator[str]:
    for index, message in enumerate(messages):
        is_last = index == len(messages) - 1
        if message.role == "assistant":
            yield _turn("assistant", _answer(message, index > query, is_last))
        elif message.role == "tool":
            begins = index == 0 or messages[index - 1].role != "tool"
            ends = is_last or messages[index + 1].role != "tool"
            yield ("<|im_start|>user" if begins else "") + _responses(message) + ("<|im_end|>\n" if ends else "")
        else:
            yield _turn("system" if message.role == "developer" else message.role, _line(message))


def _turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def _answer(message: Message, keeps_reasoning: bool, is_last: bool) -> str:
    content = "\n".join(_shown(part) for part in message.parts if not isinstance(part, ToolCall))
    thinking, answer = _split_thinking(content)
    calls = "\n".join(map(_call, message.tool_calls))
    between = "\n" if answer and calls else ""
    if keeps_reasoning and (thinking or is_last):
        answer = _thinking_block(thinking) + answer.lstrip("\n")
    return answer + between + calls


def _call(call: ToolCall) -> str:
    arguments = _excerpt(call.arguments, *ARGUMENTS_SHOWN)
    return f'<tool_call>\n{{"name": "{call.name}", "arguments": {arguments}}}\n</tool_call>'


def _responses(message: Message) -> str:
    results = [part for part in message.parts if isinstance(part, ToolResult)]
    return "".join(f"\n<tool_response>\n{_shown(part)}\n</tool_response>" for part in results)


def _last_query(messages: tuple[Message, ...]) -> int:
    """Index of the last user message; without one, the last index."""
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    return users[-1] if users else len(messages) - 1


def _split_thinking(content: str) -> tuple[str, str]:
    """The reasoning inside the think tags, and the answer after them; no tags, no reasoning."""
    before, mark, _ = content.partition("</think>")
    if not mark:
        return "", content
    thinking = before.rstrip("\n").rpartition("<think>")[2].lstrip("\n")
    return thinking, content.rpartition("</think>")[2].lstrip("\n")


def _thinking_block(thinking: str) -> str:
    return "<think>\n" + thinking.strip("\n") + "\n</think>\n\n"


_RENDERERS: dict[tuple[TextFormat, PartFormat], Callable[[Transcript], str]] = {
    (TextFormat.ROLE_LINES, PartFormat.BRIEF): role_lines,
    (TextFormat.QWEN3_CHAT, PartFormat.BRIEF): qwen3_chat,
}

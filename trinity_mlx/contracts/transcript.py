"""Messages, and the texts that a router reads them as."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .canonical import canonical_sha256
from .errors import TranscriptError

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Raises:
        TranscriptError: ``role`` is none of ``ROLES``, or ``content`` is not text that UTF-8 can hold.
    """

    role: str
    content: str

    def __post_init__(self) -> None:
        _check_text(self.role, self.content)


@dataclass(frozen=True, slots=True)
class Transcript:
    """A conversation of at least one message, oldest first.

    Raises:
        TranscriptError: there is no message.
    """

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        if not self.messages:
            raise TranscriptError("a transcript needs at least one message, and the list is empty")

    @classmethod
    def of(cls, source: TranscriptSource) -> Transcript:
        """A transcript from a prompt (one user message), messages, or mappings with ``role`` and ``content``.

        Raises:
            TranscriptError: ``source`` is none of these.
        """
        if isinstance(source, Transcript):
            return source
        if isinstance(source, str):
            return cls((Message("user", source),))
        if isinstance(source, Mapping | bytes) or not isinstance(source, Iterable):
            raise TranscriptError(f"messages must be a list of {{role, content}}, not {type(source).__name__}")
        return cls(tuple(_message(item, index) for index, item in enumerate(source)))

    @property
    def sha256(self) -> str:
        """The transcript hash: sha256 over the canonical JSON of ``[{"content": ..., "role": ...}, ...]``."""
        return canonical_sha256([{"role": m.role, "content": m.content} for m in self.messages])


TranscriptSource = Transcript | str | Iterable[Message | Mapping[str, Any]]


def _check_text(role: Any, content: Any) -> None:
    if role not in ROLES:
        raise TranscriptError(f"unknown role {role!r}: a message's role is one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise TranscriptError(f"content of a {role} message is {type(content).__name__}, not text: pass a string")
    try:
        content.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TranscriptError(
            f"content of a {role} message has a lone surrogate at character {error.start}: it is not valid Unicode text"
        ) from None


def _message(item: Any, index: int) -> Message:
    if isinstance(item, Message):
        return item
    if not isinstance(item, Mapping):
        raise TranscriptError(f"message {index} is {type(item).__name__}, not an object with role and content")
    missing = [key for key in ("role", "content") if key not in item]
    if missing:
        raise TranscriptError(f"message {index} has no {' and no '.join(missing)}")
    try:
        return Message(item["role"], item["content"])
    except TranscriptError as error:
        raise TranscriptError(f"message {index}: {error}") from None


class TextFormat(StrEnum):
    """How a transcript becomes the router's input text; a field of every artifact (docs/method.md, section 9)."""

    ROLE_LINES = "role-lines"
    QWEN3_CHAT = "qwen3-chat"

    def render(self, transcript: Transcript) -> str:
        """The text that is tokenized, with nothing added by the tokenizer."""
        return _RENDERERS[self](transcript)


def role_lines(transcript: Transcript) -> str:
    """``"{role}: {content}"`` for each message, joined by one newline: the form of the published decisions."""
    return "\n".join(f"{message.role}: {message.content}" for message in transcript.messages)


def qwen3_chat(transcript: Transcript) -> str:
    """Qwen3's chat form with the generation prompt added and thinking off, as the paper's evaluation used it.

    As in the model's own template, reasoning is dropped from the answers before the last user message; after it,
    reasoning stays, and the very last answer carries a thinking block even when that is empty.
    """
    messages = transcript.messages
    query = _last_query(messages)
    turns = []
    for index, message in enumerate(messages):
        content = message.content
        if message.role == "assistant":
            thinking, answer = _split_thinking(content)
            keeps_block = index > query and (thinking or index == len(messages) - 1)
            content = _thinking_block(thinking) + answer.lstrip("\n") if keeps_block else answer
        turns.append(f"<|im_start|>{message.role}\n{content}<|im_end|>\n")
    return "".join(turns) + "<|im_start|>assistant\n" + _thinking_block("")


def _last_query(messages: tuple[Message, ...]) -> int:
    """Index of the last user message that is no tool response; without one, the last index."""
    for index in reversed(range(len(messages))):
        content = messages[index].content
        is_tool = content.startswith("<tool_response>") and content.endswith("</tool_response>")
        if messages[index].role == "user" and not is_tool:
            return index
    return len(messages) - 1


def _split_thinking(content: str) -> tuple[str, str]:
    """The reasoning inside the think tags, and the answer after them; no tags, no reasoning."""
    before, mark, _ = content.partition("</think>")
    if not mark:
        return "", content
    thinking = before.rstrip("\n").rpartition("<think>")[2].lstrip("\n")
    return thinking, content.rpartition("</think>")[2].lstrip("\n")


def _thinking_block(thinking: str) -> str:
    return "<think>\n" + thinking.strip("\n") + "\n</think>\n\n"


_RENDERERS: dict[TextFormat, Callable[[Transcript], str]] = {
    TextFormat.ROLE_LINES: role_lines,
    TextFormat.QWEN3_CHAT: qwen3_chat,
}

"""Messages, and the texts that a router reads them as."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .canonical import canonical_sha256
from .errors import TranscriptError
from .message_shapes import read_message
from .parts import Image, Part, Refusal, Text, ToolCall, ToolResult, brief, check_text, hashed_part

__all__ = [
    "ROLES",
    "Image",
    "Message",
    "Part",
    "Refusal",
    "Text",
    "ToolCall",
    "ToolResult",
    "Transcript",
    "TranscriptSource",
]

ROLES = ("system", "user", "assistant", "developer", "tool")

_PARTS_OF: dict[str, tuple[type[Part], ...]] = {
    "system": (Text,),
    "developer": (Text,),
    "user": (Text, Image),
    "assistant": (Text, ToolCall, Refusal),
    "tool": (ToolResult,),
}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation: its content is one text, or parts.

    A lone ``Text`` becomes a plain ``str``, and no parts the empty one, so that one conversation has one spelling and
    one hash. ``name`` is OpenAI's name of a participant, empty where there is none.

    Raises:
        TranscriptError: ``role`` is none of ``ROLES``, a part does not belong into it, or a text is none that UTF-8
        can hold.
    """

    role: str
    content: str | tuple[Part, ...]
    name: str = ""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise TranscriptError(f"unknown role {brief(self.role)}: a message's role is one of {', '.join(ROLES)}")
        object.__setattr__(self, "content", _normal(self.content))
        check_text("a message's name", self.name)
        if isinstance(self.content, tuple):
            _check_parts(self.role, self.content)
        else:
            check_text(f"content of {_a(self.role)} message", self.content)
            if self.role == "tool":
                raise TranscriptError("a message of role 'tool' holds results, each with the id of its call")

    @property
    def parts(self) -> tuple[Part, ...]:
        """The content as parts: a plain text is one, an empty one none."""
        if isinstance(self.content, tuple):
            return self.content
        return (Text(self.content),) if self.content else ()

    @property
    def text(self) -> str:
        """The texts, joined; what is no text is left out."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, Text))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls of tools that it holds, in order."""
        if isinstance(self.content, str):
            return ()
        return tuple(part for part in self.content if isinstance(part, ToolCall))

    def hashed(self) -> dict[str, Any]:
        """The object that stands for it in a transcript's hash: role, content, and the name where there is one."""
        content = self.content if isinstance(self.content, str) else [hashed_part(part) for part in self.content]
        return {"role": self.role, "content": content} | ({"name": self.name} if self.name else {})


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
        """A transcript from a prompt (one user message), messages, or mappings as OpenAI or Anthropic shape them.

        ``contracts/message_shapes.py`` says what is read of a mapping, and the little that is left out.

        Raises:
            TranscriptError: ``source`` is none of these, or holds a key that is not read.
        """
        if isinstance(source, Transcript):
            return source
        if isinstance(source, str):
            return cls((Message("user", source),))
        if isinstance(source, Mapping | bytes) or not isinstance(source, Iterable):
            raise TranscriptError(f"messages must be a list of {{role, content}}, not {type(source).__name__}")
        return cls(tuple(message for index, item in enumerate(source) for message in _messages(item, index)))

    @property
    def sha256(self) -> str:
        """The transcript hash: sha256 over the canonical JSON of ``[{"content": ..., "role": ...}, ...]``.

        ``content`` is a text, or a list of parts: each its fields and its ``type``, without fields at their defaults,
        an image by its ``sha256`` in place of its bytes.
        """
        return canonical_sha256([message.hashed() for message in self.messages])


TranscriptSource = Transcript | str | Iterable[Message | Mapping[str, Any]]


def _normal(content: Any) -> Any:
    """``content`` in its one spelling; what is neither text nor parts stays as it is, for the check to name."""
    if isinstance(content, list):
        content = tuple(content)
    if isinstance(content, tuple) and not content:
        return ""
    if isinstance(content, tuple) and len(content) == 1 and isinstance(content[0], Text):
        return content[0].text
    return content


def _check_parts(role: str, parts: tuple[Any, ...]) -> None:
    for part in parts:
        if not isinstance(part, _PARTS_OF[role]):
            allowed = ", ".join(kind.__name__ for kind in _PARTS_OF[role])
            raise TranscriptError(f"{_a(role)} message holds {allowed}, and not {type(part).__name__}")


def _a(role: str) -> str:
    return f"an {role}" if role == "assistant" else f"a {role}"


def _messages(item: Any, index: int) -> Iterable[Message]:
    if isinstance(item, Message):
        return [item]
    if not isinstance(item, Mapping) and not hasattr(item, "model_dump"):
        raise TranscriptError(f"message {index} is {type(item).__name__}, not an object with role and content")
    try:
        return [Message(*fields) for fields in read_message(item)]
    except TranscriptError as error:
        raise TranscriptError(f"message {index}: {error}") from None

"""What a message may hold besides one text: images, calls of tools and their results, refusals."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from .errors import TranscriptError
from .plain import to_plain

_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,60}/[a-z0-9.+-]{1,60}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Text:
    """Text beside other parts; a message that is one text alone holds a plain ``str`` instead."""

    kind: ClassVar[str] = "text"
    text: str

    def __post_init__(self) -> None:
        check_text("a text part", self.text)


@dataclass(frozen=True, slots=True)
class Image:
    """An image, by its bytes or by an address that nobody here fetches.

    ``sha256`` is that of ``data``, else that of ``url`` as UTF-8; the message's hash uses it in their place, so
    either may be dropped from a copy that is only compared. ``media_type`` is empty where only the address is known.
    ``detail`` is OpenAI's ``low``, ``high`` or ``auto``, empty where nobody said.
    """

    kind: ClassVar[str] = "image"
    media_type: str
    sha256: str
    data: bytes | None = None
    url: str | None = None
    detail: str = ""

    def __post_init__(self) -> None:
        if self.media_type and not _MEDIA_TYPE.fullmatch(self.media_type):
            raise TranscriptError(f"an image's media type is like image/png, not {brief(self.media_type)}")
        if not _SHA256.fullmatch(self.sha256):
            raise TranscriptError(f"an image's sha256 is 64 hexadecimal digits, not {brief(self.sha256)}")
        if self.url is not None and not self.url.startswith(("https://", "http://")):
            raise TranscriptError(f"an image's address begins with https:// or http://, not {brief(self.url)}")
        check_text("an image's address", self.url or "")
        check_text("an image's detail", self.detail)

    @classmethod
    def of_data(cls, data: bytes, media_type: str, detail: str = "") -> Image:
        """An image that is here, such as ``image/png``."""
        return cls(media_type, hashlib.sha256(data).hexdigest(), data, detail=detail)

    @classmethod
    def of_url(cls, url: str, detail: str = "") -> Image:
        """An image that whoever answers fetches."""
        check_text("an image's address", url)
        return cls("", hashlib.sha256(url.encode()).hexdigest(), url=url, detail=detail)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to have a tool called. ``arguments`` is JSON text as the model wrote it, and perhaps no JSON at
    all."""

    kind: ClassVar[str] = "tool_call"
    id: str
    name: str
    arguments: str

    def __post_init__(self) -> None:
        for field, text in (("id", self.id), ("name", self.name), ("arguments", self.arguments)):
            check_text(f"a tool call's {field}", text)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What came of the call ``call_id``; ``is_error`` where the tool failed and says so."""

    kind: ClassVar[str] = "tool_result"
    call_id: str
    parts: tuple[Text | Image, ...]
    is_error: bool = False

    def __post_init__(self) -> None:
        check_text("a tool result's call_id", self.call_id)
        for part in self.parts:
            if not isinstance(part, Text | Image):
                raise TranscriptError(f"a tool result holds texts and images, not {type(part).__name__}")

    @classmethod
    def of_text(cls, call_id: str, text: str, is_error: bool = False) -> ToolResult:
        """A result that is one text."""
        return cls(call_id, (Text(text),) if text else (), is_error)

    @property
    def text(self) -> str:
        """The texts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A model's statement that it will not answer; ``text`` is empty where it gave no words."""

    kind: ClassVar[str] = "refusal"
    text: str

    def __post_init__(self) -> None:
        check_text("a refusal", self.text)


Part = Text | Image | ToolCall | ToolResult | Refusal


def hashed_part(part: Part) -> dict[str, Any]:
    """The object that stands for ``part`` in a message's hash: its plain form, an image without bytes and address."""
    plain: dict[str, Any] = to_plain(part)
    if isinstance(part, Image):
        return {name: value for name, value in plain.items() if name not in ("data", "url")}
    if isinstance(part, ToolResult):
        return plain | {"parts": [hashed_part(inner) for inner in part.parts]}
    return plain


def check_text(what: str, text: Any) -> None:
    """Hold ``text`` against what can be written down.

    Raises:
        TranscriptError: it is no text, or UTF-8 has no form for it.
    """
    if not isinstance(text, str):
        raise TranscriptError(f"{what} is {type(text).__name__}, not text: pass a string")
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TranscriptError(
            f"{what} has a lone surrogate at character {error.start}: it is not valid Unicode text"
        ) from None


def brief(value: object) -> str:
    """``value`` as a message may repeat it: its own spelling, at most 80 characters of it."""
    spelled = repr(value[:80]) if isinstance(value, str) else repr(value)
    return spelled if len(spelled) <= 100 else spelled[:80] + "..."

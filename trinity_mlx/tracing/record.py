"""An event as the fields of one line, and the shape that those fields must have when they are read back."""

from __future__ import annotations

import hashlib
import math
import types
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from functools import cache, reduce
from operator import or_
from typing import Annotated, Any, Literal, get_args, get_type_hints

from ..contracts.events import Content, Event
from ..contracts.routing import Role
from .redaction import Redactor

LONGEST_TEXT = 8192
"""Characters that are kept of any text but a Content; the rest is counted."""

_LONGEST_MS = 1e13
ENVELOPE = ("schema_version", "run_id", "seq", "time", "elapsed_ms", "previous", "refs", "event")
"""The keys that every line begins with, in order."""

EVENTS: dict[str, type[Event]] = {event.kind: event for event in get_args(Event)}


@dataclass(frozen=True, slots=True)
class RecordedContent:
    """What a trace keeps of a Content: sha256 and length of the original text, and the text where asked for.

    ``redacted`` says that the kept text is not the original one.
    """

    sha256: str
    characters: int
    text: str | None = None
    redacted: bool = False


def event_fields(event: Event, redactor: Redactor, keep_content: bool) -> dict[str, Any]:
    """The fields of ``event`` as JSON-ready values without secrets."""
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    texts = {name: _well_formed(value.text) for name, value in values.items() if isinstance(value, Content)}
    kept = texts if keep_content else dict.fromkeys(texts, "")
    clean = redactor.value({name: _plain(value) for name, value in values.items()} | kept)
    contents = {name: _content(text, clean[name] if keep_content else None) for name, text in texts.items()}
    return {name: _shortened(value) for name, value in clean.items()} | contents


def text_sha256(text: str) -> str:
    """Lower-case hexadecimal sha256 of ``text`` as UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@cache
def shape_of(kind: str) -> Any:
    """The pydantic model of a line that records an event of ``kind``; a line with other keys does not fit.

    Raises:
        KeyError: there is no such event.
    """
    from pydantic import ConfigDict, Field, create_model

    elapsed = Annotated[float, Field(ge=0, le=_LONGEST_MS)]
    types_of_envelope = (int, str, int, str, elapsed, str | None, dict[str, str], str)
    envelope: dict[str, Any] = {name: (kind, ...) for name, kind in zip(ENVELOPE, types_of_envelope, strict=True)}
    hints = get_type_hints(EVENTS[kind])
    recorded: dict[str, Any] = {field.name: (_recorded(hints[field.name]), ...) for field in fields(EVENTS[kind])}
    strictly = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return create_model(kind, __config__=strictly, **envelope, **recorded)


def _recorded(annotation: Any) -> Any:
    """The type under which a field of an event is read back."""
    if annotation is Content:
        return RecordedContent
    if annotation is Role:
        return Literal[tuple(role.label for role in Role)]
    if isinstance(annotation, types.UnionType):
        return reduce(or_, map(_recorded, get_args(annotation)))
    return annotation


def _plain(value: Any) -> Any:
    """``value`` as what JSON has a form for: a role by its name, a number that is not finite as None."""
    if isinstance(value, Role):
        return value.label
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {_well_formed(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, Collection) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return _well_formed(str(value.value if isinstance(value, StrEnum) else value))


def _content(text: str, kept: str | None) -> dict[str, Any]:
    recorded: dict[str, Any] = {"sha256": text_sha256(text), "characters": len(text)}
    if kept is not None:
        recorded |= {"text": kept} | ({"redacted": True} if kept != text else {})
    return recorded


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"{value[:LONGEST_TEXT]}... ({len(value) - LONGEST_TEXT} characters more)"
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    return [_shortened(item) for item in value] if isinstance(value, list) else value


def _well_formed(text: str) -> str:
    """``text`` with lone surrogates spelled out, which UTF-8 has no form for."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")

"""An event as the fields of one line, and the shape that those fields must have when they are read back."""

from __future__ import annotations

import hashlib
import json
import math
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from functools import cache, reduce
from operator import or_
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from ..contracts.errors import UsageError
from ..contracts.events import Content, Event, TaskMessage
from ..contracts.routing import Role
from .redaction import Redactor

LONGEST_TEXT = 8192
"""Characters that are kept of any text but a Content; the rest is counted."""

_LONGEST_MS = 1e13
_MOST = 2**63 - 1
_LONGEST_NUMBER = 10_000
"""Bits of a whole number that is spelled out: longer ones take Python long to write."""
ENVELOPE = ("schema_version", "run_id", "seq", "time", "elapsed_ms", "previous", "refs", "event")
"""The keys that every line begins with, in order."""

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)

EVENTS: dict[str, type[Event]] = {event.kind: event for event in get_args(Event)}


@dataclass(frozen=True, slots=True)
class RecordedContent:
    """What a trace keeps of a Content: sha256 and length of the original text, and the text where asked for.

    ``redacted`` says that the kept text is not the original one, ``parts`` that the text is the JSON of a message's
    parts.
    """

    sha256: str
    characters: int
    text: str | None = None
    redacted: bool = False
    parts: bool = False


@dataclass(frozen=True, slots=True)
class RecordedMessage:
    """What a trace keeps of one message of a task."""

    role: str
    content: RecordedContent
    name: str = ""


def event_fields(event: Event, redactor: Redactor, keep_content: bool) -> dict[str, Any]:
    """The fields of ``event`` as JSON-ready values without secrets, of the types that a reader expects.

    Only texts and free mappings are searched: names of fields, roles and numbers of an event are never secrets.
    """
    leaves: list[Any] = []

    def collected(leaf: Any) -> Any:
        leaves.append(leaf)
        return leaf

    recorded: dict[str, Any] = _recorded_value(event, collected, keep_content)
    if not redactor.is_clean(leaves):
        cleaned = iter(redactor.value(leaves))
        recorded = _recorded_value(event, lambda leaf: next(cleaned), keep_content)
    return recorded


def line_of(envelope: Mapping[str, Any], fields_of_event: Mapping[str, Any]) -> bytes:
    """The bytes of one line, held against the shape under which it is read back.

    Raises:
        UsageError: the event has a value of another type than its field, so that nobody could read the line.
    """
    from pydantic import ValidationError

    kind = envelope["event"]
    try:
        line = _ENCODER.encode({**envelope, **fields_of_event}).encode()
        shape_of(kind).model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"an event {kind} cannot be written: {place} is wrong: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"an event {kind} cannot be written: {error}") from None
    return line


def _recorded_value(value: Any, leaf: Callable[[Any], Any], keep_content: bool) -> Any:
    """``value`` as JSON holds it, with what ``leaf`` makes of everything in it that may hold a secret, in order."""
    if isinstance(value, Content):
        text = _well_formed(value.text)
        clean = leaf(text if keep_content else "")
        return _content(text, clean if keep_content else None, value.is_parts)
    kind: Any = type(value)
    if names := _field_names(kind):
        return {name: _recorded_value(getattr(value, name), leaf, keep_content) for name in names}
    if isinstance(value, tuple):
        return [_recorded_value(item, leaf, keep_content) for item in value]
    return _shortened(leaf(plain(value))) if _is_free(value) else plain(value)


@cache
def _field_names(kind: Any) -> tuple[str, ...]:
    """The fields of a dataclass; none of any other type."""
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()


def _is_free(value: Any) -> bool:
    return not (value is None or isinstance(value, bool | int | float))


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
    if annotation is TaskMessage:
        return RecordedMessage
    if get_origin(annotation) is tuple:
        return list.__class_getitem__(_recorded(get_args(annotation)[0]))
    if annotation is Role:
        return Literal[tuple(role.label for role in Role)]
    if isinstance(annotation, types.UnionType):
        return reduce(or_, map(_recorded, get_args(annotation)))
    return annotation


def plain(value: Any) -> Any:
    """``value`` as what JSON has a form for: a role by its name, a number that is not finite as None.

    A whole number is brought into 64 bits, which is what readers of JSON hold.
    """
    if type(value) is str:
        return _well_formed(value)
    if isinstance(value, Role):
        return value.label
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return max(-_MOST, min(_MOST, int(value)))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {_well_formed(str(key)): _free_number(plain(item), item) for key, item in value.items()}
    if isinstance(value, Collection) and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    return _well_formed(str(value.value if isinstance(value, StrEnum) else value))


def _free_number(number: Any, original: Any) -> Any:
    """In a free mapping a whole number beyond 64 bits, such as a seed, is spelled out."""
    is_cut = isinstance(original, int) and not isinstance(original, bool | Role) and number != original
    return str(original) if is_cut and original.bit_length() < _LONGEST_NUMBER else number


def _content(text: str, kept: str | None, is_parts: bool) -> dict[str, Any]:
    recorded: dict[str, Any] = {"sha256": text_sha256(text), "characters": len(text)}
    if is_parts:
        recorded["parts"] = True
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
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")

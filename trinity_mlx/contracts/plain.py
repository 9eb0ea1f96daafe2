"""Frozen dataclasses as plain JSON values and back: what is written between two requests is read as the same object.

A dataclass becomes an object of its fields, without those at their defaults; one with a class variable ``kind``
carries it as ``type``, which tells the members of a union apart. Enumerations become their values, bytes base64, sets
sorted lists.
"""

from __future__ import annotations

import types
from base64 import b64decode, b64encode
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """``value`` as what JSON has a form for.

    Raises:
        TypeError: it, or something in it, is none of what the module names.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kind = getattr(value, "kind", None)
        tag = {} if kind is None else {"type": kind}
        return tag | {name: to_plain(item) for name, item in _stated(value)}
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {str(to_plain(key)): to_plain(item) for key, item in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(map(to_plain, value))
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no plain form")


def from_plain(kind: type[T], value: Any) -> T:
    """What ``to_plain`` made of an object of ``kind``, as that object again.

    Raises:
        ValueError: ``value`` has another shape; the message names the place.
        TrinityError: it has the right shape, and ``kind`` refuses what it holds.
    """
    read: T = _read(kind, value, "value")
    return read


def _stated(value: Any) -> list[tuple[str, Any]]:
    pairs = [(field, getattr(value, field.name)) for field in fields(value)]
    return [(field.name, item) for field, item in pairs if not _is_default(field, item)]


def _is_default(field: Field[Any], item: Any) -> bool:
    if field.default is not MISSING:
        return type(item) is type(field.default) and bool(item == field.default)
    return field.default_factory is not MISSING and bool(item == field.default_factory())


def _read(kind: Any, value: Any, place: str) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _read(_member(get_args(kind), value, place), value, place)
    if origin is not None:
        return _read_many(origin, get_args(kind), value, place)
    if isinstance(kind, type) and is_dataclass(kind):
        return _read_fields(kind, value, place)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _converted(kind, value, place)
    if kind is bytes:
        return _converted(lambda text: b64decode(text, validate=True), value, place)
    is_number = kind is float and type(value) is int
    if type(value) is kind or is_number or (kind is type(None) and value is None):
        return value
    raise ValueError(f"{place} is {type(value).__name__}, not {kind.__name__}")


def _member(members: tuple[Any, ...], value: Any, place: str) -> Any:
    """The member of a union that ``value`` was: None, a dataclass by its ``type``, else the first that it may be."""
    if value is None and type(None) in members:
        return type(None)
    tag = value.get("type") if isinstance(value, Mapping) else None
    tagged = [member for member in members if tag is not None and getattr(member, "kind", None) == tag]
    fitting = tagged or [member for member in members if _may_be(member, value)]
    if not fitting:
        names = ", ".join(getattr(member, "__name__", str(member)) for member in members)
        raise ValueError(f"{place} is {type(value).__name__}, and none of {names}")
    return fitting[0]


def _may_be(member: Any, value: Any) -> bool:
    origin = get_origin(member) or member
    if isinstance(value, Mapping):
        return member is not type(None) and (is_dataclass(member) or origin in (dict, Mapping) or member is Any)
    if isinstance(value, list):
        return origin in (tuple, list, frozenset, set) or member is Any
    is_scalar = isinstance(origin, type) and not is_dataclass(origin) and origin is not type(None)
    return member is Any or (is_scalar and (isinstance(value, origin) or issubclass(origin, Enum | bytes | float)))


def _read_many(origin: Any, arguments: tuple[Any, ...], value: Any, place: str) -> Any:
    if issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{place} is {type(value).__name__}, not an object")
        key, item = arguments
        return {_key(key, name, place): _read(item, each, f"{place}.{name}") for name, each in value.items()}
    if not isinstance(value, list):
        raise ValueError(f"{place} is {type(value).__name__}, not a list")
    is_fixed = origin is tuple and arguments[-1] is not Ellipsis
    if is_fixed and len(arguments) != len(value):
        raise ValueError(f"{place} has {len(value)} items, not {len(arguments)}")
    kinds = arguments if is_fixed else [arguments[0]] * len(value)
    collected = [
        _read(kind, each, f"{place}[{index}]") for index, (kind, each) in enumerate(zip(kinds, value, strict=True))
    ]
    return tuple(collected) if origin is tuple else origin(collected)


def _key(kind: Any, name: str, place: str) -> Any:
    number = issubclass(kind, int)
    return _read(kind, _converted(int, name, place) if number else name, place)


def _read_fields(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{place} is {type(value).__name__}, not an object")
    hints = _hints(kind)
    tags = {"type"} if hasattr(kind, "kind") else set()
    unknown = sorted(set(map(str, value)) - set(hints) - tags)
    if unknown:
        raise ValueError(f"{place} has an unknown field {unknown[0][:80]!r}")
    required = {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}
    missing = sorted(required - set(value))
    if missing:
        raise ValueError(f"{place} has no {missing[0]}")
    return kind(**{name: _read(hints[name], value[name], f"{place}.{name}") for name in hints if name in value})


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar and hint is not ClassVar}


def _converted(convert: Any, value: Any, place: str) -> Any:
    try:
        return convert(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{place}: {error}") from None

"""Fields of a request read leniently: what is absent or null is not there, what is of the wrong kind is a clear 400."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .problems import invalid

Body = Mapping[str, Any]


def text(body: Body, name: str, default: str = "") -> str:
    """A text."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise invalid(f"{name} must be a text, not {kind_of(value)}", name)
    return value


def flag(body: Body, name: str) -> bool:
    """True or false; false where there is none."""
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise invalid(f"{name} must be true or false, not {kind_of(value)}", name)
    return value


def number(body: Body, name: str, least: float, most: float) -> float | None:
    """A number from ``least`` to ``most``; None where there is none."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(f"{name} must be a number, not {kind_of(value)}", name)
    if not math.isfinite(value) or not least <= value <= most:
        raise invalid(f"{name} must lie between {least:g} and {most:g}", name)
    return float(value)


def count(body: Body, name: str, least: int = 1, most: int = 2**31) -> int | None:
    """A whole number from ``least`` to ``most``; None where there is none."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(f"{name} must be a whole number, not {kind_of(value)}", name)
    if not least <= value <= most:
        raise invalid(f"{name} must lie between {least} and {most}", name)
    return value


def objects(body: Body, name: str) -> list[Body]:
    """A list of objects; empty where there is none."""
    value = body.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise invalid(f"{name} must be a list of objects", name)
    return value


def mapping(body: Body, name: str) -> Body:
    """An object; empty where there is none."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise invalid(f"{name} must be an object, not {kind_of(value)}", name)
    return value


def texts(body: Body, name: str, most: int = 16) -> tuple[str, ...]:
    """A text or a list of texts; empty ones are left out."""
    value = body.get(name)
    if value is None:
        return ()
    items: Sequence[Any] = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items) or len(items) > most:
        raise invalid(f"{name} must be a text or a list of at most {most} texts", name)
    return tuple(item for item in items if item)


def labels(body: Body, name: str = "metadata") -> dict[str, str]:
    """What ``metadata`` holds of texts; other values are left out."""
    return {str(key): value for key, value in mapping(body, name).items() if isinstance(value, str)}


def kind_of(value: Any) -> str:
    """What a JSON value is called."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")

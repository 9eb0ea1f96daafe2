"""Server-sent events by hand."""

from __future__ import annotations

from typing import Any

from .asgi import to_json

HEADERS = (("cache-control", "no-store"), ("x-accel-buffering", "no"))


def data(value: Any) -> bytes:
    """An event without a name."""
    return b"data: " + to_json(value) + b"\n\n"


def event(name: str, value: Any) -> bytes:
    """An event with a name; ``value`` becomes JSON, in which no line ends."""
    return b"event: " + name.encode() + b"\ndata: " + to_json(value) + b"\n\n"


def comment(text: str = "") -> bytes:
    """A line that clients pass over."""
    return b": " + text.encode() + b"\n\n"

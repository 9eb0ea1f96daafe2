"""The page at ``/``: one file, with a fresh nonce each time."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_PLACE = "{{nonce}}"


def page(nonce: str) -> bytes:
    """The page, whose own style and script alone carry ``nonce``."""
    return _text().replace(_PLACE, nonce).encode()


@cache
def _text() -> str:
    return Path(__file__).with_name("page.html").read_text(encoding="utf-8")

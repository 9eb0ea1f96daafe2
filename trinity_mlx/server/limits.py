"""What a request may weigh: bytes counted as they come, depth and length of its JSON before anybody reads it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from .asgi import ClientGone, Receive, Scope, header
from .problems import Kind, Problem, invalid

MIB = 1024 * 1024
_BRACKETS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
"""Strings, swallowed whole even where they never end, so that the time is linear; and brackets outside of them."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The most that one request may bring: bytes of body, JSON nested so deep, so many messages or items, tools."""

    body_bytes: int = 32 * MIB
    depth: int = 64
    messages: int = 10_000
    tools: int = 1_000


async def read_json(scope: Scope, receive: Receive, limits: RequestLimits) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        Problem: it is too large, too deep, or no JSON object.
        ClientGone: the client left before its end.
    """
    body = await read_body(scope, receive, limits.body_bytes)
    if not body.strip():
        raise invalid("the body is empty: send a JSON object")
    _check_depth(body, limits.depth)
    try:
        value = _DECODER.decode(body.decode(json.detect_encoding(body), "surrogatepass"))
    except UnicodeDecodeError as error:
        raise invalid(f"the body is not JSON: it is not UTF-8 text at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise invalid(f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise invalid(f"the body must be a JSON object, not {type(value).__name__}")
    if _SURROGATE.search(body):
        _check_unicode(value)
    return value


async def read_body(scope: Scope, receive: Receive, most: int) -> bytes:
    """The whole body, never more than ``most`` bytes of it in memory.

    Raises:
        Problem: it is longer, or says that it will be.
        ClientGone: the client left before its end.
    """
    stated = header(scope, "content-length")
    if stated is not None and stated.isdigit() and int(stated[:20]) > most:
        raise _too_large(most)
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientGone
        chunks.append(event.get("body", b""))
        size, more = size + len(chunks[-1]), event.get("more_body", False)
        if size > most:
            raise _too_large(most)
    return b"".join(chunks)


def _too_large(most: int) -> Problem:
    return Problem(Kind.TOO_LARGE, f"the body is larger than {most} bytes: send less history or smaller images")


def _check_depth(body: bytes, most: int) -> None:
    """Nesting is counted in the bytes, before a parser that recurses sees them."""
    if body.count(b"[") + body.count(b"{") <= most:
        return
    depth = 0
    for match in _BRACKETS.finditer(body):
        byte = match.group()[:1]
        if byte in b"[{":
            depth += 1
            if depth > most:
                raise invalid(f"the body is nested deeper than {most} levels")
        elif byte in b"]}":
            depth -= 1


def _check_unicode(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise invalid("the body holds a lone surrogate escape (\\ud800 to \\udfff), which is no Unicode text") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)

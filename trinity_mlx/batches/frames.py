"""What a batch and its workers say to each other: frames of one JSON object and a text behind it, over two pipes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

from ..contracts import errors
from ..contracts.errors import TrinityError, bounded
from .chunks import Chunk
from .records import Routed

_LENGTHS = struct.Struct(">QQ")
Frame = tuple[Mapping[str, Any], bytes]


def send(pipe: BinaryIO, head: Mapping[str, Any], body: bytes = b"") -> None:
    """Write one frame.

    Raises:
        OSError: nobody reads it.
    """
    text = json.dumps(head).encode()
    pipe.write(_LENGTHS.pack(len(text), len(body)) + text + body)
    pipe.flush()


def receive(pipe: BinaryIO) -> Frame | None:
    """The next frame; None where whoever wrote has ended."""
    lengths = pipe.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    of_text, of_body = _LENGTHS.unpack(lengths)
    text, body = pipe.read(of_text), pipe.read(of_body)
    return (json.loads(text), body) if len(text) + len(body) == of_text + of_body else None


def chunk_frame(chunk: Chunk) -> Frame:
    """A chunk to be routed; what was read of the input is nobody else's matter."""
    return {"first": chunk.first}, b"\n".join(chunk.lines)


def chunk_of(frame: Frame) -> Chunk:
    """What ``chunk_frame`` made."""
    head, body = frame
    return Chunk(head["first"], tuple(body.split(b"\n")), 0, 0, "")


def routed_frame(routed: Routed) -> Frame:
    """The answers to a chunk."""
    head = {"count": len(routed.records), "failed": routed.failed, "by": routed.by}
    return head, "\n".join(routed.records).encode()


def routed_of(frame: Frame) -> Routed:
    """What ``routed_frame`` made.

    Raises:
        TrinityError: the worker raised it.
        RuntimeError: the worker raised another error.
    """
    head, body = frame
    refuse_error(frame)
    return Routed(tuple(body.decode().split("\n")) if head["count"] else (), head["failed"], head["by"])


def error_frame(error: Exception) -> Frame:
    """An error, to be raised on the other side."""
    return {"error": type(error).__name__, "message": bounded(str(error))}, b""


def refuse_error(frame: Frame) -> None:
    """Raise the error that a frame tells of, if it does.

    Raises:
        TrinityError: the worker raised it.
        RuntimeError: the worker raised another error.
    """
    head, _ = frame
    if "error" not in head:
        return
    kind = getattr(errors, head["error"], None)
    if isinstance(kind, type) and issubclass(kind, TrinityError):
        raise kind(head["message"])
    raise RuntimeError(f"{head['error']}: {head['message']}")

"""Calls of tools put together from the pieces of a stream."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from ...contracts.errors import ReplyInvalid, TranscriptError
from ...contracts.parts import ToolCall
from .failures import Callee


def call_of(callee: Callee, identity: str | None, name: str | None, arguments: str) -> ToolCall:
    """One call; where the provider gave it no id, it gets one of its own.

    Raises:
        ReplyInvalid: it names no tool, or holds half a character.
    """
    if not name:
        raise callee.error(ReplyInvalid, "the reply calls a tool without naming it")
    try:
        return ToolCall(identity or f"call_{uuid.uuid4().hex[:24]}", name, arguments)
    except TranscriptError as error:
        raise callee.error(ReplyInvalid, f"the reply is malformed: {error}") from None


@dataclass(slots=True)
class _Pieces:
    identity: str | None = None
    name: str | None = None
    arguments: list[str] = field(default_factory=list)


class CallPieces:
    """The calls of one streamed answer, in the order in which they began."""

    def __init__(self) -> None:
        self._calls: list[_Pieces] = []
        self._places: dict[int, int] = {}

    def add(self, index: int | None, identity: str | None, name: str | None, arguments: str | None) -> None:
        """Take a piece of the call ``index``; without one, or with another id under it, a call begins."""
        call = self._call(index, identity)
        call.identity = call.identity or identity
        call.name = call.name or name
        if arguments:
            call.arguments.append(arguments)

    def calls(self, callee: Callee) -> list[ToolCall]:
        """The whole calls.

        Raises:
            ReplyInvalid: one names no tool.
        """
        return [call_of(callee, each.identity, each.name, "".join(each.arguments)) for each in self._calls]

    def _call(self, index: int | None, identity: str | None) -> _Pieces:
        place = len(self._calls) - 1 if index is None else self._places.get(index, -1)
        known = self._calls[place] if place >= 0 else None
        if known is not None and identity in (None, "", known.identity):
            return known
        if known is not None and known.identity is None and index is not None:
            return known
        self._calls.append(_Pieces())
        if index is not None:
            self._places[index] = len(self._calls) - 1
        return self._calls[-1]

"""What a stream can say, whatever the interface; each interface says it in its own events.

A voice is used once, for one request. Every method gives the bytes of its events, perhaps none, and remembers what was
said, so that ``body`` is the whole answer: a client that does not stream gets that alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..contracts.provider import Finish, Usage
from ..contracts.transcript import ToolCall
from .problems import Problem

REVISED = "\n\n---\n\n*Revised:*\n\n"
"""What stands before a text that takes the place of one already shown, where texts have no borders of their own."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer ended.

    ``usage`` counts the call that gave the answer; what coordination took besides is in ``report``, the object
    ``trinity`` of the answer. ``stop`` is the stop sequence that ended the text, where one did.
    """

    finish: Finish
    usage: Usage
    outcome: str
    report: Mapping[str, Any] = field(default_factory=dict)
    stop: str | None = None


class Voice(Protocol):
    """One interface's way to say an answer, in this order: begin, then anything, then end or fail."""

    def begin(self) -> bytes:
        """The answer begins."""

    def progress(self, line: str) -> bytes:
        """What is being done meanwhile, as reasoning."""

    def open_text(self, *, revised: bool = False, commentary: bool = False) -> bytes:
        """A text begins: ``revised`` takes the place of one before it, ``commentary`` comes before calls of tools."""

    def text(self, piece: str) -> bytes:
        """A piece of the open text."""

    def close_text(self) -> bytes:
        """The open text is whole."""

    def refusal(self, text: str) -> bytes:
        """The model will not answer."""

    def calls(self, calls: Sequence[ToolCall]) -> bytes:
        """Tools are to be called; each id is already one of ours."""

    def end(self, ending: Ending) -> bytes:
        """The answer is whole."""

    def fail(self, problem: Problem) -> bytes:
        """There is no answer after all."""

    def heartbeat(self) -> bytes:
        """Nothing new, and still at work."""

    def body(self) -> dict[str, Any]:
        """The whole answer, for a client that does not stream; after ``end``."""

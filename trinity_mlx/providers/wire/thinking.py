"""The reasoning that some models write in front of their answer, between think tags: it is not the answer."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

OPEN = "<think>"
CLOSE = "</think>"


def strip_thinking(text: str) -> str:
    """The answer alone: ``text`` without the reasoning in front of it.

    A closing tag that nothing opened ends a reasoning too: some chat templates put the opening tag into the prompt, out
    of sight. Reasoning that never ends leaves no answer.
    """
    before, close, after = text.partition(CLOSE)
    if before.lstrip().startswith(OPEN) or (close and OPEN not in before):
        return after.lstrip()
    return text


class _State(Enum):
    START = auto()
    THINKING = auto()
    BETWEEN = auto()
    ANSWER = auto()


class ThinkingFilter:
    """Passes the pieces of a streamed answer on, without the reasoning in front of it.

    A closing tag that nothing opened cannot be foreseen: what came before it has then been passed on, and only
    ``strip_thinking`` leaves it out.
    """

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self._state = _State.START
        self._space: list[str] = []
        """White space in front of everything, which belongs to an answer and not to a reasoning."""
        self._kept = ""
        """What has been taken and not yet passed on: never more than the last piece and a tag."""

    def feed(self, piece: str) -> None:
        """Take the next piece of the stream."""
        self._kept += piece
        if self._state is _State.START:
            self._begin()
        if self._state is _State.THINKING:
            self._think()
        if self._state is _State.BETWEEN:
            self._kept = self._kept.lstrip()
            self._state = _State.ANSWER if self._kept else _State.BETWEEN
        if self._state is _State.ANSWER:
            self._pass_on()

    def end(self) -> None:
        """The stream is over: pass on what looked like the beginning of a tag and was none."""
        if self._state is _State.START:
            self._kept = "".join(self._space) + self._kept
            self._pass_on()

    def _begin(self) -> None:
        text = self._kept.lstrip()
        self._space.append(self._kept[: len(self._kept) - len(text)])
        self._kept = text
        if text.startswith(OPEN):
            self._state = _State.THINKING
        elif not OPEN.startswith(text):
            self._state = _State.ANSWER
            self._kept = "".join(self._space) + text

    def _think(self) -> None:
        _, close, after = self._kept.partition(CLOSE)
        if close:
            self._state = _State.BETWEEN
            self._kept = after
        else:
            self._kept = self._kept[-len(CLOSE) :]

    def _pass_on(self) -> None:
        if self._kept:
            self._on_text(self._kept)
        self._kept = ""

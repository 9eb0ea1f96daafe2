"""What a model in this process says, on its way to whoever listens: without reasoning, calls and what follows a
stop."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ...contracts.provider import OnText
from ..wire.thinking import ThinkingFilter, strip_thinking

CALL = "<tool_call>"
END_OF_CALL = "</tool_call>"


class Heard:
    """Takes the pieces of an answer; ``text`` is all of it up to the first of ``stops``, reasoning and calls included.

    With ``has_tools`` whoever listens hears nothing from the first call on.
    """

    def __init__(self, on_text: OnText, stops: Sequence[str], has_tools: bool) -> None:
        self._stops = _Until(stops, self._add)
        calls = _Until([CALL] if has_tools else [], on_text)
        self._filter = ThinkingFilter(calls.feed)
        self._calls = calls
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """What was said."""
        return "".join(self._pieces)

    @property
    def is_over(self) -> bool:
        """Whether one of the stops was said."""
        return self._stops.is_over

    def feed(self, piece: str) -> None:
        """Take the next piece."""
        self._stops.feed(piece)

    def end(self) -> None:
        """The answer is over: pass on what looked like the beginning of a stop or of a call and was none."""
        self._stops.end()
        self._filter.end()
        self._calls.end()

    def _add(self, piece: str) -> None:
        self._pieces.append(piece)
        self._filter.feed(piece)


class _Until:
    """Passes text on until the first of some marks; holds back what may be the beginning of one."""

    def __init__(self, marks: Sequence[str], on_text: OnText) -> None:
        self._marks = [mark for mark in marks if mark]
        self._on_text = on_text
        self._kept = ""
        self.is_over = False

    def feed(self, piece: str) -> None:
        if self.is_over:
            return
        text = self._kept + piece
        places = [place for mark in self._marks if (place := text.find(mark)) >= 0]
        self.is_over = bool(places)
        end = min(places) if places else len(text) - self._kept_back(text)
        self._kept = "" if places else text[end:]
        self._pass_on(text[:end])

    def end(self) -> None:
        self._pass_on(self._kept)
        self._kept = ""

    def _kept_back(self, text: str) -> int:
        """How many characters at the end may begin a mark."""
        longest = max((len(mark) - 1 for mark in self._marks), default=0)
        endings = (text[-size:] for size in range(min(longest, len(text)), 0, -1))
        return next((len(ending) for ending in endings if any(mark.startswith(ending) for mark in self._marks)), 0)

    def _pass_on(self, text: str) -> None:
        if text:
            self._on_text(text)


def split_calls(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The answer without reasoning and calls, and each call's name and arguments, as Qwen's and Hermes' templates
    have them.

    What stands between the tags and is no call stays text, so that nothing that was said is lost.
    """
    answer = strip_thinking(text)
    kept, calls, begin = [], [], 0
    while (start := answer.find(CALL, begin)) >= 0 and (end := answer.find(END_OF_CALL, start)) >= 0:
        call = _call(answer[start + len(CALL) : end])
        after = end + len(END_OF_CALL)
        kept.append(answer[begin:start] if call else answer[begin:after])
        calls += [call] if call else []
        begin = after
    rest = "".join(kept) + answer[begin:]
    return (rest.rstrip() if calls else rest), calls


def _call(text: str) -> tuple[str, str] | None:
    try:
        value = json.loads(text)
        name, arguments = value["name"], value.get("arguments", {})
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return None
    if not isinstance(name, str) or not name:
        return None
    return name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)

"""What a model in this process says, on its way to whoever listens: without reasoning, calls and what follows a
stop."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ...contracts.provider import OnText
from ..stops import StopCut
from ..wire.thinking import ThinkingFilter, strip_thinking

CALL = "<tool_call>"
END_OF_CALL = "</tool_call>"


class Heard:
    """Takes the pieces of an answer; ``text`` is all of it up to the first of ``stops``, reasoning and calls included.

    With ``has_tools`` whoever listens hears nothing from the first call on.
    """

    def __init__(self, on_text: OnText, stops: Sequence[str], has_tools: bool) -> None:
        self._on_text = on_text
        self._up_to_stop = StopCut(stops)
        self._up_to_call = StopCut([CALL] if has_tools else [])
        self._filter = ThinkingFilter(self._say)
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """What was said."""
        return "".join(self._pieces)

    @property
    def is_over(self) -> bool:
        """Whether one of the stops was said."""
        return self._up_to_stop.stop is not None

    def feed(self, piece: str) -> None:
        """Take the next piece."""
        self._add(self._up_to_stop.feed(piece))

    def end(self) -> None:
        """The answer is over: pass on what looked like the beginning of a stop or of a call and was none."""
        self._add(self._up_to_stop.end())
        self._filter.end()
        self._tell(self._up_to_call.end())

    def _add(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
            self._filter.feed(piece)

    def _say(self, piece: str) -> None:
        self._tell(self._up_to_call.feed(piece))

    def _tell(self, piece: str) -> None:
        if piece:
            self._on_text(piece)


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

"""Text passed on up to a mark in it, such as a stop sequence."""

from __future__ import annotations

from collections.abc import Sequence


class StopCut:
    """Passes text on up to the first of ``stops`` that is not empty; what may be the beginning of one is held back.

    Attributes:
        stop: the one that ended the text; None as long as there was none.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._longest = max((len(stop) for stop in self._stops), default=1) - 1
        self._rest = ""
        self.stop: str | None = None

    def feed(self, piece: str) -> str:
        """What may be passed on of the text so far, after its next piece."""
        if self.stop is not None:
            return ""
        text = self._rest + piece
        places = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            end, self.stop = min(places)
            self._rest = ""
        else:
            end = len(text) - self._begun(text)
            self._rest = text[end:]
        return text[:end]

    def end(self) -> str:
        """What was held back and is no stop after all."""
        rest, self._rest = self._rest, ""
        return rest

    def _begun(self, text: str) -> int:
        """How many characters at the end of ``text`` may be the beginning of a stop."""
        sizes = range(min(self._longest, len(text)), 0, -1)
        return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._stops)), 0)

"""Stop sequences, kept by the server whatever a provider makes of them."""

from __future__ import annotations

from collections.abc import Sequence


class StopCut:
    """Passes text on up to the first stop sequence; what may be the beginning of one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held_back = max((len(stop) for stop in stops), default=1) - 1
        self._rest = ""
        self.stop: str | None = None
        """The sequence that was found."""

    def feed(self, piece: str) -> str:
        """What of the text so far may be shown."""
        if self.stop is not None:
            return ""
        text = self._rest + piece
        places = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            place, self.stop = min(places)
            self._rest = ""
            return text[:place]
        keep = self._maybe_begun(text)
        self._rest = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What was held back and is no stop sequence after all."""
        rest, self._rest = self._rest, ""
        return rest

    def _maybe_begun(self, text: str) -> int:
        """Characters at the end of ``text`` that may be the beginning of a stop sequence."""
        most = min(self._held_back, len(text))
        return next(
            (size for size in range(most, 0, -1) if any(stop.startswith(text[-size:]) for stop in self._stops)), 0
        )

"""A run's events become an interface's events here, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..contracts.events import (
    Event,
    Fallback,
    ProviderCalled,
    ProviderFailed,
    Routed,
    TurnCompleted,
)
from ..contracts.pool import Pool
from ..contracts.routing import Role
from ..contracts.transcript import ToolCall
from ..providers.stops import StopCut
from .voices import Voice

_DOES = {Role.WORKER: "works on it", Role.THINKER: "thinks about it", Role.VERIFIER: "checks the answer"}
Put = Callable[[bytes], None]
Listen = Callable[[Event], None]


class Narrator:
    """Listens to a run and has a voice tell it; used for one request.

    Progress goes out as it happens. Text is shown as it comes with ``shows_text``, and else by :meth:`answer` alone.

    Args:
        voice: how the interface says it.
        put: where the bytes go.
        pool: whose agents speak.
        shows_text: whether the Worker's text is shown at once.
        stops: sequences that end a text.
        listen: who else is told of every event.
    """

    def __init__(
        self, voice: Voice, put: Put, pool: Pool, *, shows_text: bool, stops: Sequence[str], listen: Listen
    ) -> None:
        self._voice = voice
        self._put = put
        self._pool = pool
        self._shows_text = shows_text
        self._stops = tuple(stops)
        self._listen = listen
        self._roles: dict[int, Role] = {}
        self._cut = StopCut(())
        self._open = False
        self._shown: str | None = None
        """The text that was shown last, open or closed; None before any."""
        self._has_begun = False

    @property
    def has_begun(self) -> bool:
        """Whether the interface has been told anything, so that an error can no longer be a status."""
        return self._has_begun

    def emit(self, event: Event) -> None:
        """Take one event of the run."""
        self._listen(event)
        if isinstance(event, Routed):
            self._roles[event.turn] = event.role
            self._progress(f"Turn {event.turn + 1}: {self._pool[event.slot].name} {_DOES[event.role]}.\n")
        elif isinstance(event, ProviderCalled) and event.attempt > 1:
            self._progress(f"{event.agent} is asked again.\n")
        elif isinstance(event, ProviderFailed):
            self._close()
            self._progress(f"{event.agent} gave no answer ({event.error}).\n")
        elif isinstance(event, Fallback):
            self._progress(f"{self._pool[event.to_slot].name} takes over.\n")
        elif isinstance(event, TurnCompleted):
            self._completed(event)

    def close(self) -> None:
        """Nothing is held."""

    def on_text(self, turn: int, piece: str) -> None:
        """Take a piece of text as it comes."""
        if self._shows_text and self._roles.get(turn) is Role.WORKER:
            self._show(self._cut.feed(piece) if self._open else self._first(piece))

    def answer(self, text: str) -> str | None:
        """Show the answer, unless it was shown as it came; gives the stop sequence that ended it."""
        cut = StopCut(self._stops)
        whole = cut.feed(text) + cut.end()
        self._close()
        if whole != self._shown:
            self._open_text()
            self._show(whole)
            self._close()
        return cut.stop

    def commentary(self, text: str) -> None:
        """Show what a Worker says before it calls tools."""
        self._close()
        if text.strip() and text != self._shown:
            self._open_text(commentary=True)
            self._show(text)
            self._close()

    def calls(self, calls: Sequence[ToolCall]) -> None:
        """Have tools called."""
        self.begin()
        self._close()
        self._put(self._voice.calls(calls))

    def refusal(self, text: str) -> None:
        """Say that a model refuses, in its words."""
        self.begin()
        self._close()
        self._put(self._voice.refusal(text))

    def begin(self) -> None:
        """Tell the interface that the answer begins, once."""
        if not self._has_begun:
            self._has_begun = True
            self._put(self._voice.begin())

    def _completed(self, event: TurnCompleted) -> None:
        if event.role is Role.WORKER and self._open:
            self._show(self._cut.end())
        self._close()
        if event.verdict is not None:
            self._progress(f"Turn {event.turn + 1}: {event.agent} says {event.verdict}.\n")

    def _progress(self, line: str) -> None:
        self.begin()
        if not self._open:
            self._put(self._voice.progress(line))

    def _first(self, piece: str) -> str:
        self._cut = StopCut(self._stops)
        text = self._cut.feed(piece)
        if text:
            self._open_text()
        return text

    def _open_text(self, commentary: bool = False) -> None:
        self.begin()
        self._put(self._voice.open_text(revised=self._shown is not None, commentary=commentary))
        self._open, self._shown = True, ""

    def _show(self, text: str) -> None:
        if text:
            assert self._shown is not None
            self._shown += text
            self._put(self._voice.text(text))

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._put(self._voice.close_text())

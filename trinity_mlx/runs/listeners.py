"""Who is told what happens in a run: its sinks, and whoever wants each piece of text as it arrives."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from ..contracts.events import End, Event, Sink, TextDelta
from ..contracts.provider import OnText
from ..rules import machine

OnTurnText = Callable[[int, str], None]
"""Told the turn and each piece of text as it arrives."""


class Listeners:
    """The sinks of one run, told of every event in order, and ``on_text``.

    A sink may take its time over an event while the run reads and decides; ``wait`` sees to the rest.
    """

    def __init__(self, sinks: Sequence[Sink], on_text: OnTurnText | None) -> None:
        self._sinks = tuple(sinks)
        self._not_told_of_end = self._sinks
        self._on_text = on_text
        self._on_delta = tuple(sink.delta for sink in sinks if hasattr(sink, "delta"))
        self._pending: deque[Awaitable[None]] = deque()

    def tell(self, event: Event) -> None:
        """Tell every sink, without waiting for those that take their time."""
        for sink in self._sinks:
            pending = sink.emit(event)
            if pending is not None:
                self._pending.append(pending)

    async def wait(self) -> None:
        """Wait until every sink has taken what it was told: before anybody outside is asked, and before the run ends.

        Raises:
            Exception: the first thing that a sink raised.
        """
        failures = []
        while self._pending:
            failures.append(await _failure_of(self._pending.popleft()))
        for failure in filter(None, failures):
            raise failure

    async def tell_and_wait(self, event: Event) -> None:
        """``tell``, and then ``wait``."""
        self.tell(event)
        await self.wait()

    async def tell_end(self, event: End) -> None:
        """Tell every sink how the run ended, once, before anything is waited for: no cancellation comes between.

        Raises:
            Exception: the first thing that a sink raised, about this event or one before it.
        """
        sinks, self._not_told_of_end = self._not_told_of_end, ()
        for sink in sinks:
            try:
                pending = sink.emit(event)
            except Exception as error:
                pending = _raising(error)
            if pending is not None:
                self._pending.append(pending)
        await self.wait()

    def on_text(self, call: machine.Call) -> OnText | None:
        """What a provider tells each piece of its reply to; None where nobody listens, so that it need not stream."""
        if self._on_text is None and not self._on_delta:
            return None

        def told(text: str) -> None:
            for hear in self._on_delta:
                hear(TextDelta(call.turn, call.slot, call.role, text))
            if self._on_text is not None:
                self._on_text(call.turn, text)

        return told


async def _raising(error: Exception) -> None:
    raise error


async def _failure_of(work: Awaitable[None]) -> Exception | None:
    try:
        await work
    except Exception as error:
        return error
    return None

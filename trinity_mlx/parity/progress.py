"""Telling somebody how far a long piece of work has come."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Takes note of work as it goes."""

    def begin(self, what: str, total: int | None) -> None:
        """The work called ``what`` starts, and has ``total`` numbers to go through, or an unknown length."""

    def advance(self, numbers: int) -> None:
        """So many more numbers of it are done."""


class Silence:
    """A ``Progress`` that tells nobody."""

    def begin(self, what: str, total: int | None) -> None:
        """Say nothing."""

    def advance(self, numbers: int) -> None:
        """Say nothing."""


SILENCE = Silence()

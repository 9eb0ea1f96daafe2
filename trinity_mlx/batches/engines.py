"""What routes chunks: this process with one router, or others with one each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ..routing.router import Router
from .chunks import Chunk
from .records import Question, Routed, route_chunk


class Engine(Protocol):
    """Routes chunks, whoever does the work."""

    def route(self, chunks: Iterator[Chunk], question: Question) -> Iterator[tuple[Chunk, Routed]]:
        """Each chunk with its answers, in the order in which they came; few of them are in memory at once."""


class Here:
    """Routes in this process.

    Args:
        router: what answers.
        afresh: forget what was read before each chunk, so that its records depend on nothing else.
    """

    def __init__(self, router: Router, *, afresh: bool = True) -> None:
        self._router = router
        self._afresh = afresh

    def route(self, chunks: Iterator[Chunk], question: Question) -> Iterator[tuple[Chunk, Routed]]:
        """One chunk after the other."""
        for chunk in chunks:
            if self._afresh:
                self._router.forget()
            yield chunk, route_chunk(self._router, chunk, question)

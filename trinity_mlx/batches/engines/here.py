"""Routing in this process, with one router."""

from __future__ import annotations

from collections.abc import Iterator

from ...routing.router import Router
from ..chunks import Chunk
from ..records import Question, Routed, route_chunk


class Here:
    """Routes one chunk after the other.

    Args:
        router: what answers.
        afresh: forget what was read before each chunk, so that its records depend on nothing else.
    """

    def __init__(self, router: Router, *, afresh: bool = True) -> None:
        self._router = router
        self._afresh = afresh

    def route(self, chunks: Iterator[Chunk], question: Question) -> Iterator[tuple[Chunk, Routed]]:
        """Each chunk with its answers."""
        for chunk in chunks:
            yield chunk, self.answer(chunk, question)

    def answer(self, chunk: Chunk, question: Question) -> Routed:
        """The answers to one chunk; see ``route_chunk``."""
        if self._afresh:
            self._router.forget()
        return route_chunk(self._router, chunk, question)

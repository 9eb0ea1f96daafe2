"""What routes chunks: this process, processes with a device each, or the workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ..chunks import Chunk
from ..records import Question, Routed


class Engine(Protocol):
    """Routes chunks, whoever does the work."""

    def route(self, chunks: Iterator[Chunk], question: Question) -> Iterator[tuple[Chunk, Routed]]:
        """Each chunk with its answers, in the order in which they came; few of them are in memory at once."""

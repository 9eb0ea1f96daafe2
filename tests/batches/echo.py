"""An engine that routes nothing and answers by what it was given, for tests of everything around it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trinity_mlx.batches.chunks import Chunk
from trinity_mlx.batches.records import Question, Routed


@dataclass
class Echo:
    """Answers each line that says something; after so many chunks it fails, if asked to."""

    by: Mapping[str, Any] = field(default_factory=lambda: {"artifact": "echo"})
    fails_after: int | None = None
    routed: list[int] = field(default_factory=list)

    def answer(self, chunk: Chunk, question: Question) -> Routed:
        """A record that depends on the line, the chunk and the seed, as those of a model do; ``bad`` is an error."""
        records = tuple(
            json.dumps({"line": number, "says": line.decode(), "chunk": chunk.first, "seed": question.selection.seed})
            for number, line in enumerate(chunk.lines, chunk.first)
            if line.strip()
        )
        return Routed(records, sum(b"bad" in line for line in chunk.lines), self.by)

    def route(self, chunks: Iterator[Chunk], question: Question) -> Iterator[tuple[Chunk, Routed]]:
        """One chunk after the other."""
        for count, chunk in enumerate(chunks):
            if count == self.fails_after:
                raise RuntimeError("the engine failed")
            self.routed.append(chunk.first)
            yield chunk, self.answer(chunk, question)

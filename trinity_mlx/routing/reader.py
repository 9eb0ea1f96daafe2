"""From token sequences to logits: what to read, what to reuse, in which batches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock

from ..contracts.backend import RoutingModel, Segment
from ..contracts.routing import RouteLogits
from .prefix_cache import PrefixCache, Tokens

_REMEMBERED_TOKENS = 1 << 20
"""How many tokens the remembered answers may span: about 40 MB."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Logits of one token sequence, and how many of its tokens did not have to be read for them."""

    logits: RouteLogits
    reused: int


class Reader:
    """Reads token sequences with one model; safe to call from several threads, one at a time inside.

    Two memories make it fast. Keys and values of what was read one by one serve later sequences that begin alike, up
    to ``cache_bytes``. And answers are kept, so that the same tokens give the same logits bit for bit in one process:
    without that, a sequence read afresh and read from a cache differ in the last bits, as shapes differ.
    """

    def __init__(self, model: RoutingModel, cache_bytes: int) -> None:
        self._model = model
        self._prefixes = PrefixCache(cache_bytes)
        self._answers: OrderedDict[Tokens, RouteLogits] = OrderedDict()
        self._answered_tokens = 0
        self._remembers = cache_bytes > 0
        self._lock = Lock()

    def read(self, tokens: Tokens) -> Answer:
        """The answer for one sequence of at least one token; its keys and values are kept for the next."""
        needed = needed_tokens(tokens)
        with self._lock:
            if needed in self._answers:
                return Answer(self._answers[needed], len(tokens))
            return self._read([needed], keep_past=self._remembers)[0]

    def read_many(self, sequences: Sequence[Tokens]) -> list[Answer]:
        """The answers for many sequences, in order, packed into as few passes as the model's batch size allows.

        What earlier calls left is reused; what these leave is not kept, since a batch seldom continues.
        """
        needed = [needed_tokens(tokens) for tokens in sequences]
        with self._lock:
            known = {
                short: Answer(self._answers[short], len(tokens))
                for short, tokens in zip(needed, sequences, strict=True)
                if short in self._answers
            }
            fresh = [short for short in dict.fromkeys(needed) if short not in known]
            for batch in in_batches(fresh, self._model.batch_tokens):
                known |= zip(batch, self._read(batch, keep_past=False), strict=True)
        return [known[short] for short in needed]

    def forget(self) -> None:
        """Drop both memories."""
        with self._lock:
            self._prefixes.clear()
            self._answers.clear()
            self._answered_tokens = 0

    def _read(self, batch: Sequence[Tokens], keep_past: bool) -> list[Answer]:
        segments = [Segment(tokens, *self._prefixes.match(tokens)) for tokens in batch]
        reading = self._model.read(segments, keep_past)
        rows = self._model.project(reading.hidden)
        for segment, past in zip(segments, reading.pasts, strict=False):
            self._prefixes.store(segment.tokens, past)
        answers = [Answer(RouteLogits.split(row), segment.reuse) for row, segment in zip(rows, segments, strict=True)]
        self._remember(batch, answers)
        return answers

    def _remember(self, batch: Sequence[Tokens], answers: Sequence[Answer]) -> None:
        if not self._remembers:
            return
        for tokens, answer in zip(batch, answers, strict=True):
            self._answers[tokens] = answer.logits
            self._answered_tokens += len(tokens)
        while self._answered_tokens > _REMEMBERED_TOKENS:
            self._answered_tokens -= len(self._answers.popitem(last=False)[0])


def needed_tokens(tokens: Tokens) -> Tokens:
    """The tokens up to the second-to-last, whose hidden vector routes; the only token where there is one.

    Attention is causal, so the last token never reaches that vector (docs/method.md, section 1).
    """
    return tokens[: max(len(tokens) - 1, 1)]


def in_batches(sequences: Sequence[Tokens], batch_tokens: int) -> Iterator[list[Tokens]]:
    """Consecutive runs of sequences that hold at most ``batch_tokens`` together, or one longer sequence alone."""
    batch: list[Tokens] = []
    held = 0
    for tokens in sequences:
        if batch and held + len(tokens) > batch_tokens:
            yield batch
            batch, held = [], 0
        batch.append(tokens)
        held += len(tokens)
    if batch:
        yield batch

"""From token sequences to logits: what to read, what to reuse, in which batches."""

from __future__ import annotations

import sys
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial

from ..contracts.artifact import ReadPosition
from ..contracts.backend import RoutingModel, Row, Segment
from ..contracts.errors import NonFiniteLogits
from ..contracts.routing import RouteLogits
from .batcher import Answer, Ask, Batcher
from .beginnings import common_beginnings
from .prefix_cache import PrefixCache, Tokens

ANSWER_BYTES = 40 * 1024 * 1024
"""How much memory remembered answers may take."""
_PLACE_BYTES = 220
"""What one entry of an ordered dictionary takes: its place in the table and its link."""
_WORTH = 4
"""A common beginning is read first where that saves this part of a full pass; a pass more costs about as much."""


class Answers:
    """Logits by the tokens that they belong to, bounded by what they take in memory, oldest out."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._logits: OrderedDict[bytes, RouteLogits] = OrderedDict()
        self.nbytes = 0

    def get(self, tokens: Tokens) -> RouteLogits | None:
        """The logits of ``tokens``, if they are remembered."""
        return self._logits.get(_key(tokens))

    def store(self, tokens: Tokens, logits: RouteLogits) -> None:
        """Remember ``logits``."""
        key = _key(tokens)
        if key in self._logits:
            return
        self._logits[key] = logits
        self.nbytes += _cost(key, logits)
        while self.nbytes > self._max_bytes:
            self.nbytes -= _cost(*self._logits.popitem(last=False))

    def clear(self) -> None:
        """Forget everything."""
        self._logits.clear()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._logits)


class Reader:
    """Reads token sequences with one model, for every router of that model and from any thread.

    Two memories make it fast. Keys and values of sequences that may continue serve later ones that begin alike. And
    answers are kept, so that the same tokens give the same logits bit for bit in one process: without that, a sequence
    read afresh, from a cache or beside others differs in the last bits, as shapes differ. Keys and values take as much
    as the most generous user allows (``admit``); with ``remember=False`` a sequence is read without both memories.

    What several callers ask at once is read together (``batcher``), and a long beginning that they share is read once.
    ``position`` says which token's hidden vector routes, ``measured`` that the head knows kinds.
    """

    def __init__(
        self,
        model: RoutingModel,
        cache_bytes: int = 0,
        position: ReadPosition = ReadPosition.SECOND_TO_LAST,
        *,
        measured: bool = False,
    ) -> None:
        self._position = position
        self._batch_tokens = model.batch_tokens
        self._passes = _Passes(model, cache_bytes, measured)
        self._batcher = Batcher(self._passes.prepare, self._passes.read, model.batch_tokens)

    def read(self, tokens: Tokens, remember: bool = True) -> Answer:
        """The answer for one sequence of at least one token; its keys and values are kept for the next."""
        return self.submit(tokens, remember).result()

    def submit(self, tokens: Tokens, remember: bool = True) -> Future[Answer]:
        """What ``read`` gives, later; one that is cancelled before its pass begins is not read."""
        ask = Ask(self._needed(tokens), len(tokens), keep=remember, remember=remember)
        self._batcher.submit([ask])
        return ask.future

    def read_many(self, sequences: Sequence[Tokens], remember: bool = True) -> list[Answer]:
        """The answers for many sequences, in order, packed into as few passes as the model's batch size allows.

        What earlier calls left is reused; what these leave is not kept, since a batch seldom continues.
        """
        asks = [Ask(self._needed(tokens), len(tokens), keep=False, remember=remember) for tokens in sequences]
        self._batcher.submit(asks)
        return [ask.future.result() for ask in asks]

    @property
    def queued(self) -> int:
        """How many sequences wait to be read."""
        return self._batcher.queued

    def watch_passes(self, observe: Callable[[int], object]) -> Callable[[], None]:
        """Have ``observe`` told how many sequences each pass reads together; see ``Batcher.watch``."""
        return self._batcher.watch(observe)

    def values(self, sequences: Sequence[Tokens]) -> list[list[float]]:
        """The hidden vectors that route ``sequences``, read afresh: [sequences][hidden]."""
        batches = in_batches([self._needed(tokens) for tokens in sequences], self._batch_tokens)
        reads = [self._batcher.run(partial(self._passes.values, batch)) for batch in batches]
        return [vector for read in reads for vector in read.result()]

    def _needed(self, tokens: Tokens) -> Tokens:
        return needed_tokens(tokens, self._position)

    def admit(self, cache_bytes: int) -> Callable[[], object]:
        """Let a user in who allows ``cache_bytes`` of keys and values; what is returned lets it go, without waiting."""
        self._batcher.run(partial(self._passes.allow, cache_bytes))
        return partial(self._batcher.run, partial(self._passes.disallow, cache_bytes))

    def forget(self) -> None:
        """Drop both memories."""
        self._batcher.run(self._passes.forget).result()

    def close(self) -> None:
        """End the thread that reads, once it has answered what was asked."""
        self._batcher.close()


class _Passes:
    """A model and its memories, used by one thread alone."""

    def __init__(self, model: RoutingModel, cache_bytes: int, measured: bool) -> None:
        self._model = model
        self._measured = measured
        self._worth = max(model.batch_tokens // _WORTH, 1)
        self._allowed = Counter([cache_bytes])
        self._prefixes = PrefixCache(cache_bytes)
        self._answers = Answers(ANSWER_BYTES)

    def allow(self, cache_bytes: int) -> None:
        """Let the memories be as large as that, or as somebody else allows."""
        self._allowed[cache_bytes] += 1
        self._resize()

    def disallow(self, cache_bytes: int) -> None:
        """Take that back."""
        self._allowed -= Counter([cache_bytes])
        self._resize()

    def forget(self) -> None:
        """Empty both memories."""
        self._prefixes.clear()
        self._answers.clear()

    def prepare(self, asks: list[Ask]) -> None:
        """Answer what is known, and find what the others can begin from: in memory, or among themselves."""
        unknown = [ask for ask in asks if not self._settle_known(ask)]
        for ask in unknown:
            if ask.remember:
                ask.past, ask.reuse = self._prefixes.match(ask.tokens)
        self._read_beginnings(list({ask.tokens: ask for ask in unknown}.values()))

    def read(self, batch: list[Ask]) -> None:
        """Read a batch in one pass, equal sequences once, and answer it."""
        unknown: dict[Tokens, list[Ask]] = {}
        for ask in batch:
            if not self._settle_known(ask):
                unknown.setdefault(ask.tokens, []).append(ask)
        if not unknown:
            return
        segments = [_segment(tokens, asks) for tokens, asks in unknown.items()]
        rows, pasts = self._model.logits(segments)
        for segment, past in zip(segments, pasts, strict=True):
            if past is not None:
                self._prefixes.store(segment.tokens, past)
        for segment, asks, row in zip(segments, unknown.values(), rows, strict=True):
            self._settle(asks, segment, row)

    def values(self, batch: Sequence[Tokens]) -> list[list[float]]:
        """The hidden vectors of a batch."""
        return self._model.values(self._model.read([Segment(tokens) for tokens in batch]))

    def _read_beginnings(self, asks: Sequence[Ask]) -> None:
        """Read what several sequences have in common, where that saves enough, and let them begin from there."""
        beginnings = common_beginnings([ask.tokens for ask in asks], [ask.reuse for ask in asks], self._worth)
        for beginning in beginnings:
            members = [asks[member] for member in beginning.members]
            best = max(members, key=lambda ask: ask.reuse)
            segment = Segment(best.tokens[: beginning.length], best.past, best.reuse, keep=True)
            _, (past,) = self._model.logits([segment])
            for ask in members:
                if ask.reuse < beginning.length:
                    ask.past, ask.reuse = past, beginning.length

    def _settle_known(self, ask: Ask) -> bool:
        logits = self._answers.get(ask.tokens) if ask.remember else None
        if logits is not None:
            ask.settle(Answer(logits, ask.count))
        return logits is not None

    def _settle(self, asks: Sequence[Ask], segment: Segment, row: Row) -> None:
        try:
            answer = Answer(RouteLogits.split(row, self._measured), segment.reuse)
        except NonFiniteLogits as error:
            for ask in asks:
                ask.fail(error)
            return
        if self._remembers and any(ask.remember for ask in asks):
            self._answers.store(segment.tokens, answer.logits)
        for ask in asks:
            ask.settle(answer)

    @property
    def _remembers(self) -> bool:
        return self._prefixes.max_bytes > 0

    def _resize(self) -> None:
        self._prefixes.resize(max(self._allowed, default=0))
        if not self._remembers:
            self._answers.clear()


def _segment(tokens: Tokens, asks: Sequence[Ask]) -> Segment:
    """What has to be read for several asks of the same tokens."""
    best = max(asks, key=lambda ask: ask.reuse)
    return Segment(tokens, best.past, best.reuse, keep=any(ask.keep for ask in asks))


def needed_tokens(tokens: Tokens, position: ReadPosition = ReadPosition.SECOND_TO_LAST) -> Tokens:
    """The tokens up to the one whose hidden vector routes; by default the second-to-last, or the only one.

    Attention is causal, so later tokens never reach that vector (docs/method.md, section 1).
    """
    return tokens if position is ReadPosition.LAST else tokens[: max(len(tokens) - 1, 1)]


def in_batches(sequences: Sequence[Tokens], batch_tokens: int) -> Iterator[list[Tokens]]:
    """Consecutive runs of sequences that hold at most ``batch_tokens`` together, or one longer sequence alone."""
    batch: list[Tokens] = []
    total = 0
    for tokens in sequences:
        if batch and total + len(tokens) > batch_tokens:
            yield batch
            batch, total = [], 0
        batch.append(tokens)
        total += len(tokens)
    if batch:
        yield batch


def _key(tokens: Tokens) -> bytes:
    return array("I", tokens).tobytes()


def _cost(key: bytes, logits: RouteLogits) -> int:
    """Bytes that one answer keeps alive: its key, its place in the dictionary, two tuples and their floats."""
    numbers = (len(logits.agent) + len(logits.role)) * sys.getsizeof(0.0)
    return sum(map(sys.getsizeof, (key, logits, logits.agent, logits.role))) + numbers + _PLACE_BYTES

"""The router: transcripts in, decisions out."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, overload

from ..contracts.artifact import PatchReceipt
from ..contracts.backend import Variant
from ..contracts.errors import ContextLengthError, TranscriptError, TrinityError, UsageError
from ..contracts.routing import ArtifactIdentity, Gap, Guard, Read, RouteDecision, Selection, Timings, Window
from ..contracts.text_format import PartFormat, TextFormat
from ..contracts.transcript import Transcript, TranscriptSource
from ..rules.choice import choose
from .batcher import Answer
from .reader import Reader
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class RouterIdentity:
    """What stays the same from route to route."""

    artifact: ArtifactIdentity
    head_ref: str
    labels: tuple[str, ...]
    text_format: TextFormat
    max_positions: int
    profile: str
    device: str
    dtype: str
    variant: Variant
    load_ms: float
    window: Window | None = None
    part_format: PartFormat = PartFormat.BRIEF
    receipt: PatchReceipt | None = None
    guard: Guard | None = None


@dataclass(frozen=True)
class _Input:
    """A transcript ready to be read: its hash, how many tokens it has, and those of them that are read."""

    sha256: str
    count: int
    tokens: tuple[int, ...]
    gap: Gap | None

    def read(self, answer: Answer) -> Read:
        """``answer``, as this transcript's."""
        return Read(answer.logits, self.count, answer.reused, self.sha256, self.gap)


_PREPARING = ThreadPoolExecutor(2, thread_name_prefix="trinity-mlx-tokenizer")
"""Where transcripts become tokens for callers on an event loop: a long one takes seconds."""
_PIECE = 1 << 20
"""Characters after which a long text is looked at, whether it can fit at all."""


class Router:
    """A loaded router. Made by ``load_router``; safe to call from several threads; a context manager.

    A decision depends on the transcript, the artifact, the profile, the number type and the variant alone. A router
    remembers its answers, so the same transcript gives the same logits bit for bit for as long as they are remembered
    (40 MB of them; not at all with ``remember=False``). ``forget`` makes it compute from nothing. Memories, and the
    thread that reads, belong to the model, so all its routers share them.
    """

    def __init__(
        self,
        identity: RouterIdentity,
        tokenizer: Tokenizer,
        reader: Reader,
        release: Callable[[], None] = lambda: None,
        *,
        remember: bool = True,
    ) -> None:
        self.identity = identity
        self._tokenizer = tokenizer
        self._open: Reader | None = reader
        self._remember = remember
        self._whole: Router | None = None
        self._release = weakref.finalize(self, release)

    def route(
        self,
        transcript: TranscriptSource,
        *,
        selection: Selection | None = None,
        allow_slots: Collection[int] | None = None,
    ) -> RouteDecision:
        """Decide who speaks next, and in which role.

        Args:
            transcript: a prompt, a list of messages, or a ``Transcript``.
            selection: how to choose from the logits; argmax by default.
            allow_slots: the slots that may be chosen; all by default.

        Raises:
            TranscriptError: the messages are not a transcript.
            ContextLengthError: it has more tokens than the base has positions.
            SelectionError: no slot is allowed, or one that does not exist.
        """
        started = time.perf_counter()
        prepared = self._prepare(transcript)
        answer = self._reader.read(prepared.tokens, self._remember)
        elapsed = _milliseconds(started)
        return self._decide(prepared.read(answer), selection, allow_slots, elapsed)

    async def read(self, transcript: TranscriptSource) -> Read:
        """The logits of a transcript; what is asked for while others are being read is read together.

        The event loop never waits for tokens or for the model. Cancelled, it is read only if that had begun.

        Raises:
            TranscriptError, ContextLengthError: as ``route``.
        """
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(_PREPARING, self._prepare, transcript)
        return prepared.read(await asyncio.wrap_future(self._reader.submit(prepared.tokens, self._remember)))

    @property
    def queued(self) -> int:
        """How many transcripts wait to be read, of all routers of this model."""
        return self._reader.queued

    def watch_passes(self, observe: Callable[[int], object]) -> Callable[[], None]:
        """Have ``observe`` told how many transcripts each pass of this model reads together, whoever asked for them.

        Returns:
            What ends that. ``observe`` is called on the reading thread, and must neither wait nor raise.
        """
        return self._reader.watch_passes(observe)

    def values(self, transcripts: Iterable[TranscriptSource]) -> list[list[float]]:
        """The hidden vectors that the head projects, [transcripts][hidden]: what a head alone is trained on.

        They are read afresh, in batches, and nothing of them is remembered.

        Raises:
            TranscriptError, ContextLengthError: as ``route``.
        """
        return self._reader.values([self._prepare(transcript).tokens for transcript in transcripts])

    @overload
    def route_many(
        self,
        transcripts: Iterable[TranscriptSource],
        *,
        selection: Selection | None = None,
        allow_slots: Collection[int] | None = None,
        errors: Literal["raise"] = "raise",
    ) -> list[RouteDecision]: ...

    @overload
    def route_many(
        self,
        transcripts: Iterable[TranscriptSource],
        *,
        selection: Selection | None = None,
        allow_slots: Collection[int] | None = None,
        errors: Literal["return"],
    ) -> list[RouteDecision | TrinityError]: ...

    def route_many(
        self,
        transcripts: Iterable[TranscriptSource],
        *,
        selection: Selection | None = None,
        allow_slots: Collection[int] | None = None,
        errors: Literal["raise", "return"] = "raise",
    ) -> Sequence[RouteDecision | TrinityError]:
        """Decide for many transcripts at once, in order; much faster than one by one.

        With ``errors="return"`` a transcript that cannot be routed has its error in its place, and the rest goes on.

        Raises:
            TranscriptError, ContextLengthError, SelectionError: as ``route``, with ``errors="raise"``.
            UsageError: ``transcripts`` is one transcript, not several.
            NonFiniteLogits: the model itself is broken, which no transcript can be blamed for.
        """
        if isinstance(transcripts, str | Transcript):
            raise UsageError("route_many takes a list of transcripts: pass [transcript], or use route")
        started = time.perf_counter()
        prepared = [self._try_prepare(transcript, errors) for transcript in transcripts]
        readable = [item for item in prepared if isinstance(item, _Input)]
        answers = iter(self._reader.read_many([item.tokens for item in readable], self._remember))
        elapsed = _milliseconds(started) / max(len(readable), 1)
        return [
            self._decide(item.read(next(answers)), selection, allow_slots, elapsed)
            if isinstance(item, _Input)
            else item
            for item in prepared
        ]

    def through(self, window: Window | None) -> Router:
        """This router, reading through ``window``, or without one; it shares everything else and keeps this one loaded.

        Raises:
            UsageError: the window is wider than the base.
        """
        check_window(window, self.identity.max_positions, self.identity.artifact.name)
        identity = replace(self.identity, window=window)
        view = Router(identity, self._tokenizer, self._reader, remember=self._remember)
        view._whole = self
        return view

    def forget(self) -> None:
        """Drop what earlier routes with this model left in memory, so that the next one is computed from nothing."""
        if self._remember:
            self._reader.forget()

    def close(self) -> None:
        """Give the model back, and its memories where nobody else uses it; the router cannot be used afterwards."""
        self._open = self._whole = None
        self._release()

    def __enter__(self) -> Router:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _reader(self) -> Reader:
        if self._open is None:
            raise UsageError("this router is closed: load a new one")
        return self._open

    def _prepare(self, source: TranscriptSource) -> _Input:
        transcript = Transcript.of(source)
        tokens = self._encode(self.identity.text_format.render(transcript, self.identity.part_format))
        if not tokens:
            raise TranscriptError("the transcript gives no token at all, so there is nothing to read")
        window = self.identity.window
        gap = window.gap(len(tokens)) if window else None
        shown = tokens[: gap.start] + tokens[gap.stop :] if gap else tokens
        if len(shown) > self.identity.max_positions:
            raise self._too_long(f"{len(tokens)}")
        return _Input(transcript.sha256, len(tokens), shown, gap)

    def _encode(self, text: str) -> tuple[int, ...]:
        """The tokens of ``text``; one that is far too long is refused by its beginning alone."""
        limit = self.identity.max_positions
        size = _PIECE
        while size < len(text) and not self.identity.window:
            if len(self._tokenizer.encode(text[:size])) > 2 * limit:
                raise self._too_long(f"more than {limit}")
            size *= 2
        return self._tokenizer.encode(text)

    def _too_long(self, count: str) -> ContextLengthError:
        return ContextLengthError(
            f"the transcript has {count} tokens, and the base of {self.identity.artifact.name} reads at "
            f"most {self.identity.max_positions}: shorten it, or read it through a window"
        )

    def _try_prepare(self, source: TranscriptSource, errors: Literal["raise", "return"]) -> _Input | TrinityError:
        try:
            return self._prepare(source)
        except TrinityError as error:
            if errors == "raise":
                raise
            return error

    def _decide(
        self,
        read: Read,
        selection: Selection | None,
        allow_slots: Collection[int] | None,
        route_ms: float,
    ) -> RouteDecision:
        choice = choose(read.logits, selection, allow_slots, draw_key=read.transcript_hash, guard=self.identity.guard)
        return RouteDecision(
            choice=choice,
            label=self.identity.labels[choice.slot],
            logits=read.logits,
            token_count=read.token_count,
            reused_tokens=read.reused,
            transcript_hash=read.transcript_hash,
            artifact=self.identity.artifact,
            profile=self.identity.profile,
            timings=Timings(self.identity.load_ms, route_ms),
            gap=read.gap,
        )


def check_window(window: Window | None, max_positions: int, artifact: str) -> None:
    """Refuse a window that gives more tokens than a base can read.

    Raises:
        UsageError: it does.
    """
    if window and window.size > max_positions:
        raise UsageError(
            f"a window of {window.size} tokens is wider than the base of {artifact}, "
            f"which reads {max_positions} at most"
        )


def _milliseconds(started: float) -> float:
    return (time.perf_counter() - started) * 1000

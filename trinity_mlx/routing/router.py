"""The router: transcripts in, decisions out."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, overload

from ..contracts.backend import Variant
from ..contracts.errors import ContextLengthError, TranscriptError, TrinityError, UsageError
from ..contracts.routing import ArtifactIdentity, RouteDecision, Selection, Timings
from ..contracts.text_format import TextFormat
from ..contracts.transcript import Transcript, TranscriptSource
from ..rules.choice import choose
from .reader import Answer, Reader
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


@dataclass(frozen=True)
class _Input:
    """A transcript ready to be read."""

    transcript: Transcript
    tokens: tuple[int, ...]


class Router:
    """A loaded router. Made by ``load_router``; safe to call from several threads; a context manager.

    A decision depends on the transcript, the artifact, the profile, the number type and the variant alone. A router
    remembers its answers, so the same transcript gives the same logits bit for bit for as long as they are remembered
    (a million tokens back; not at all with ``cache_bytes=0``). ``forget`` makes it compute from nothing.
    """

    def __init__(
        self, identity: RouterIdentity, tokenizer: Tokenizer, reader: Reader, release: Callable[[], None]
    ) -> None:
        self.identity = identity
        self._tokenizer = tokenizer
        self._reader: Reader | None = reader
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
        answer = self._open_reader().read(prepared.tokens)
        elapsed = _milliseconds(started)
        return self._decide(prepared, answer, selection, allow_slots, elapsed)

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
        answers = iter(self._open_reader().read_many([item.tokens for item in readable]))
        elapsed = _milliseconds(started) / max(len(readable), 1)
        return [
            self._decide(item, next(answers), selection, allow_slots, elapsed) if isinstance(item, _Input) else item
            for item in prepared
        ]

    def forget(self) -> None:
        """Drop what earlier routes left in memory, so that the next one is computed from nothing."""
        self._open_reader().forget()

    def close(self) -> None:
        """Give the model back and drop the caches; the router cannot be used afterwards."""
        self._reader = None
        self._release()

    def __enter__(self) -> Router:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_reader(self) -> Reader:
        if self._reader is None:
            raise UsageError("this router is closed: load a new one")
        return self._reader

    def _prepare(self, source: TranscriptSource) -> _Input:
        transcript = Transcript.of(source)
        tokens = self._tokenizer.encode(self.identity.text_format.render(transcript))
        if not tokens:
            raise TranscriptError("the transcript gives no token at all, so there is nothing to read")
        limit = self.identity.max_positions
        if len(tokens) > limit:
            raise ContextLengthError(
                f"the transcript has {len(tokens)} tokens, and the base of {self.identity.artifact.name} reads at "
                f"most {limit}: shorten it"
            )
        return _Input(transcript, tokens)

    def _try_prepare(self, source: TranscriptSource, errors: Literal["raise", "return"]) -> _Input | TrinityError:
        try:
            return self._prepare(source)
        except TrinityError as error:
            if errors == "raise":
                raise
            return error

    def _decide(
        self,
        prepared: _Input,
        answer: Answer,
        selection: Selection | None,
        allow_slots: Collection[int] | None,
        route_ms: float,
    ) -> RouteDecision:
        transcript_hash = prepared.transcript.sha256
        choice = choose(answer.logits, selection, allow_slots, draw_key=transcript_hash)
        return RouteDecision(
            choice=choice,
            label=self.identity.labels[choice.slot],
            logits=answer.logits,
            token_count=len(prepared.tokens),
            reused_tokens=answer.reused,
            transcript_hash=transcript_hash,
            artifact=self.identity.artifact,
            profile=self.identity.profile,
            timings=Timings(self.identity.load_ms, route_ms),
        )


def _milliseconds(started: float) -> float:
    return (time.perf_counter() - started) * 1000

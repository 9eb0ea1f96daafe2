"""What a base makes of a table's transcripts: tokens, and hidden vectors that are kept by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..contracts.artifact import Base, ReadPosition
from ..contracts.backend import Backend, LoadedBase, PopulatedBase, Segment
from ..contracts.errors import ContextLengthError, UsageError
from ..contracts.routing import Window
from ..contracts.text_format import TextFormat
from ..contracts.transcript import Transcript
from ..routing.reader import needed_tokens
from ..routing.tokenizer import Tokenizer
from .features import Features, TrunkStore
from .kept_arrays import keep_array, kept_array
from .vector_layout import Layout


@dataclass(frozen=True)
class Reading:
    """How transcripts are read: as a router with the trained bundle will read them.

    Attributes:
        base: the base that is trained on.
        text_format: the text that a transcript becomes.
        window: which tokens of a long one are read; None reads all of them.
        position: the token whose hidden vector routes.
        spare: whether the window was given only for what would not fit: it is then no part of how the router reads
            where it left nothing out.
    """

    base: Base
    text_format: TextFormat = TextFormat.ROLE_LINES
    window: Window | None = None
    position: ReadPosition = ReadPosition.SECOND_TO_LAST
    spare: bool = False

    def segments(self, transcripts: Sequence[Transcript]) -> list[Segment]:
        """The tokens that each transcript's hidden vector depends on.

        Raises:
            ContextLengthError: one is too long for the base, and there is no window.
            UsageError: the window is longer than what the base reads.
        """
        limit = self.base.config.max_positions
        if self.window and self.window.size > limit:
            raise UsageError(f"a window of {self.window.size} tokens, and this base reads at most {limit}")
        tokens = self._tokens(transcripts)
        if any(not each for each in tokens):
            raise UsageError("a transcript of the table gives no token at all")
        long = sum(len(each) > limit for each in tokens)
        if long and not self.window:
            raise ContextLengthError(
                f"{long} of {len(tokens)} transcripts have more than the {limit} tokens that this base reads: "
                "train with a reading window, and route with the same"
            )
        return [Segment(needed_tokens(self._windowed(each), self.position)) for each in tokens]

    def settled(self, transcripts: Sequence[Transcript]) -> Reading:
        """How a router must read that was trained on ``transcripts``: through a spare window only where it was used."""
        if not self.spare or self.window is None:
            return self
        was_used = any(len(each) > self.window.size for each in self._tokens(transcripts))
        return replace(self, window=self.window if was_used else None, spare=False)

    def _tokens(self, transcripts: Sequence[Transcript]) -> list[tuple[int, ...]]:
        tokenizer = Tokenizer(self.base.tokenizer)
        return [tokenizer.encode(self.text_format.render(transcript)) for transcript in transcripts]

    def _windowed(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        gap = self.window.gap(len(tokens)) if self.window else None
        return tokens if gap is None else tokens[: gap.start] + tokens[gap.stop :]


@dataclass(frozen=True)
class Engine:
    """Where tensor work runs, and the folder for what it makes that can be made again."""

    backend: Backend
    device: str = "cpu"
    dtype: str = "float32"
    cache: Path | None = None

    def load(self, base: Base) -> LoadedBase:
        """``base`` in memory."""
        return self.backend.load_base(base, device=self.device, dtype=self.dtype)

    def key(self, base: Base) -> str:
        """What hidden states depend on besides tokens and layers."""
        info = self.backend.info()
        return f"{info.backend_id}|{info.versions}|{self.device}|{self.dtype}|{base.ref}"

    def features(self, base: Base, layout: Layout, segments: Sequence[Segment]) -> Features:
        """Hidden vectors of ``segments`` as the offsets of ``layout`` change.

        Raises:
            UsageError: the backend cannot evaluate many candidates at once.
        """
        loaded = self.load(base)
        if not isinstance(loaded, PopulatedBase):
            raise UsageError(f"backend {self.backend.info().backend_id} cannot evaluate candidates: use mlx or torch")
        population = loaded.population({name: spectrum.vectors for name, spectrum in layout.spectra.items()})
        folder = self.cache / "trunks" if self.cache else None
        store = TrunkStore(folder, f"{self.key(base)}|{population.first_layer}")
        return Features(population, segments, store)


def base_hidden(
    features: Features, layout: Layout, engine: Engine, base: Base, tick: Callable[[int], None] | None = None
) -> np.ndarray:
    """Hidden vectors of all rows without offsets, float32 [rows, hidden]; kept in the engine's cache by content."""
    tokens = hashlib.sha256()
    for segment in features.segments:
        tokens.update(np.array([len(segment.tokens), *segment.tokens], dtype="<i8").tobytes())
    name = hashlib.sha256(f"{engine.key(base)}|{tokens.hexdigest()}".encode()).hexdigest()
    path = engine.cache / "hidden" / f"{name}.npy" if engine.cache else None
    known = kept_array(path, len(features.segments)) if path else None
    if known is not None:
        return known
    hidden: np.ndarray = features.hidden(np.arange(len(features.segments)), layout.gains(layout.zero()), tick)[0]
    if path:
        keep_array(path, hidden)
    return hidden

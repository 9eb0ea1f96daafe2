"""Hidden vectors of a table's transcripts, as gains change: what does not change is read once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..contracts.backend import Population, Segment
from .kept_arrays import keep_array, kept_array

MEMORY_BYTES = 2 * 1024**3
BATCH_TOKENS = 4096
KEPT_READINGS = 4
"""Readings under one candidate's gains that are kept: the best candidate's are asked for by every stage after it."""
Slopes = dict[str, np.ndarray]


class TrunkStore:
    """Trunks by content: in memory up to a bound, beyond it as files in ``folder``, where there is one.

    A file's name is the hash of all that its content depends on, so an old one is never taken for another's.
    """

    def __init__(self, folder: Path | None, key: str, memory_bytes: int = MEMORY_BYTES) -> None:
        self._folder = folder
        self._key = key
        self._memory: dict[Segment, np.ndarray] = {}
        self._left = memory_bytes

    def get(self, segment: Segment) -> np.ndarray | None:
        """The trunk of ``segment`` [tokens, hidden], or None."""
        if segment in self._memory:
            return self._memory[segment]
        path = self._path(segment)
        return kept_array(path, len(segment.tokens)) if path else None

    def put(self, segment: Segment, trunk: np.ndarray) -> None:
        """Keep the trunk of ``segment``, if there is a place left for it."""
        if trunk.nbytes <= self._left:
            self._left -= trunk.nbytes
            self._memory[segment] = trunk
            return
        path = self._path(segment)
        if path is not None and not path.exists():
            keep_array(path, trunk)

    def _path(self, segment: Segment) -> Path | None:
        if self._folder is None:
            return None
        tokens = np.array(segment.tokens, dtype="<i8").tobytes()
        return self._folder / f"{hashlib.sha256(self._key.encode() + b'|' + tokens).hexdigest()}.npy"


class Features:
    """Hidden vectors of fixed segments."""

    def __init__(self, population: Population, segments: Sequence[Segment], store: TrunkStore) -> None:
        self.segments = tuple(segments)
        self._population = population
        self._store = store
        self._readings: dict[bytes, np.ndarray] = {}

    def hidden(
        self,
        rows: np.ndarray,
        gains: Mapping[str, np.ndarray],
        tick: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Hidden vectors of ``rows`` for each candidate, float32 [candidates, rows, hidden].

        Args:
            rows: indices into the segments.
            gains: by tensor [candidates, side].
            tick: told how many rows have just been read.
        """
        key = _digest(rows, gains)
        if key in self._readings:
            if tick:
                tick(len(rows))
            return self._readings[key].copy()
        parts: dict[int, np.ndarray] = {}
        for batch in self._batches(rows):
            segments = [self.segments[index] for index in batch]
            vectors = self._population.hidden(segments, self._trunk(segments), gains)
            parts |= zip(batch, vectors.swapaxes(0, 1), strict=True)
            if tick:
                tick(len(batch))
        hidden = np.stack([parts[index] for index in rows.tolist()], axis=1)
        if len(hidden) == 1:
            self._keep(key, hidden)
        return hidden

    def _keep(self, key: bytes, hidden: np.ndarray) -> None:
        if len(self._readings) == KEPT_READINGS:
            del self._readings[next(iter(self._readings))]
        self._readings[key] = hidden.copy()

    def pullback(
        self,
        rows: np.ndarray,
        gains: Mapping[str, np.ndarray],
        slopes_of: Callable[[np.ndarray, list[int]], np.ndarray],
    ) -> Slopes:
        """The gradient of a sum over ``rows`` with respect to one candidate's ``gains`` [side], float64 by tensor.

        ``slopes_of`` gives the slope at the hidden vectors [batch, hidden] of the rows whose indices it is told.
        """
        total = {name: np.zeros(len(row)) for name, row in gains.items()}
        for batch in self._batches(rows):
            segments = [self.segments[index] for index in batch]
            pull = _for_batch(slopes_of, batch)
            for name, slope in self._population.pullback(segments, self._trunk(segments), gains, pull).items():
                total[name] += slope
        return total

    def _batches(self, rows: np.ndarray) -> Iterator[list[int]]:
        """Indices in runs of about equal lengths, each of some thousand tokens."""
        batch: list[int] = []
        tokens = 0
        for index in sorted(rows.tolist(), key=lambda index: len(self.segments[index].tokens)):
            length = len(self.segments[index].tokens)
            if batch and tokens + length > BATCH_TOKENS:
                yield batch
                batch, tokens = [], 0
            batch.append(index)
            tokens += length
        if batch:
            yield batch

    def _trunk(self, segments: Sequence[Segment]) -> np.ndarray:
        trunks = [self._store.get(segment) for segment in segments]
        unread = [segment for segment, trunk in zip(segments, trunks, strict=True) if trunk is None]
        read = dict(zip(unread, self._read(unread), strict=True)) if unread else {}
        return np.concatenate(
            [read[segment] if trunk is None else trunk for segment, trunk in zip(segments, trunks, strict=True)]
        )

    def _read(self, segments: Sequence[Segment]) -> list[np.ndarray]:
        ends = np.cumsum([len(segment.tokens) for segment in segments])[:-1]
        parts = [part.copy() for part in np.split(self._population.trunk(segments), ends)]
        for segment, part in zip(segments, parts, strict=True):
            self._store.put(segment, part)
        return parts


def _digest(rows: np.ndarray, gains: Mapping[str, np.ndarray]) -> bytes:
    """What a reading depends on: rows, and the gains of each tensor."""
    digest = hashlib.sha256(rows.astype(np.int64).tobytes())
    for name, values in gains.items():
        digest.update(name.encode())
        digest.update(values.astype(np.float64).tobytes())
    return digest.digest()


def _for_batch(
    slopes_of: Callable[[np.ndarray, list[int]], np.ndarray], batch: list[int]
) -> Callable[[np.ndarray], np.ndarray]:
    return lambda hidden: slopes_of(hidden, batch)

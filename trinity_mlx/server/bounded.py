"""A memory that cannot grow: so many entries, each for so long, the least recently used goes first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Bounded(Generic[K, V]):
    """A mapping of at most ``entries`` entries that together weigh at most ``weight``; each lives ``ttl_s`` seconds.

    ``weigh`` gives the weight of a value, such as its bytes. What weighs more than all room is not kept.
    """

    def __init__(
        self,
        entries: int,
        ttl_s: float,
        *,
        weight: int | None = None,
        weigh: Callable[[V], int] = lambda _: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entries: OrderedDict[K, tuple[float, int, V]] = OrderedDict()
        self._most, self._ttl_s, self._clock = entries, ttl_s, clock
        self._room, self._weigh, self._weight = weight, weigh, 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The value, which becomes the most recently used; None where there is none, or none any more."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() >= entry[0]:
            self.pop(key)
            return None
        self._entries.move_to_end(key)
        return entry[2]

    def put(self, key: K, value: V) -> None:
        """Keep ``value``, in place of what stood there."""
        self.pop(key)
        weight = self._weigh(value)
        if self._room is not None and weight > self._room:
            return
        self._entries[key] = (self._clock() + self._ttl_s, weight, value)
        self._weight += weight
        while len(self._entries) > self._most or (self._room is not None and self._weight > self._room):
            self._drop(next(iter(self._entries)))

    def pop(self, key: K) -> V | None:
        """Take the value out."""
        return self._drop(key) if key in self._entries else None

    def items(self) -> list[tuple[K, V]]:
        """What is kept and still lives with its keys, least recently used first."""
        now = self._clock()
        return [(key, value) for key, (ends, _, value) in self._entries.items() if now < ends]

    def _drop(self, key: K) -> V:
        _, weight, value = self._entries.pop(key)
        self._weight -= weight
        return value

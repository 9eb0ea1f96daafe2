"""Values on lease: the same key gives the same value, counted by its users, least recently used out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock
from typing import Generic, Protocol, TypeVar


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=_Sized)


@dataclass
class _Entry(Generic[V]):
    """A value being loaded or loaded, how many leases are out on it, and what to do when it leaves."""

    loading: Future[V] = field(default_factory=Future)
    users: int = 0

    @property
    def idle_bytes(self) -> int:
        return 0 if self.users else self.loading.result().nbytes


class Lease(Generic[V]):
    """The right to use a shared value until ``release``; releasing twice does nothing."""

    def __init__(self, value: V, release: Callable[[], None]) -> None:
        self.value = value
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Give the value back."""
        release, self._release = self._release, None
        if release:
            release()


class SharedPool(Generic[K, V]):
    """Values by key, loaded once however many ask at a time, kept while used.

    What nobody uses stays while all idle values together take at most ``max_idle_bytes``; the least recently used goes
    first, through ``dispose``. ``beside`` tells how many bytes are kept elsewhere on their account: they count with the
    idle ones. A failed load reaches everyone who waited for it and leaves nothing behind.

    A lease may be released by the garbage collector, in whatever thread it runs and in the middle of anything, also in
    here. So a release only says that a value was returned; it is taken back at once where nobody holds the lock, else
    by whoever holds it.
    """

    def __init__(
        self,
        max_idle_bytes: int,
        dispose: Callable[[V], None] = lambda value: None,
        beside: Callable[[], int] = lambda: 0,
    ) -> None:
        self._max_idle_bytes = max_idle_bytes
        self._beside = beside
        self._dispose = dispose
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._returned: SimpleQueue[_Entry[V]] = SimpleQueue()
        self._lock = Lock()

    def lease(self, key: K, load: Callable[[], V]) -> Lease[V]:
        """A lease on the value of ``key``, which ``load`` makes where there is none."""
        with self._lock:
            is_first = key not in self._entries
            entry = self._entries.setdefault(key, _Entry())
            entry.users += 1
            self._entries.move_to_end(key)
        self._settle()
        if is_first:
            self._load(key, entry, load)
        return Lease(entry.loading.result(), lambda: self._release(entry))

    def clear(self) -> None:
        """Dispose of everything that nobody uses."""
        with self._lock:
            evicted = self._evict(max_bytes=0)
        self._dispose_of(evicted)
        self._settle()

    def __len__(self) -> int:
        return len(self._entries)

    def _load(self, key: K, entry: _Entry[V], load: Callable[[], V]) -> None:
        try:
            entry.loading.set_result(load())
        except BaseException as error:
            with self._lock:
                del self._entries[key]
            entry.loading.set_exception(error)
            self._settle()

    def _release(self, entry: _Entry[V]) -> None:
        self._returned.put(entry)
        self._settle()

    def _settle(self) -> None:
        """Take back what was returned, unless somebody holds the lock, who does so afterwards."""
        while not self._returned.empty() and self._lock.acquire(blocking=False):
            try:
                while not self._returned.empty():
                    self._returned.get().users -= 1
                evicted = self._evict(max(0, self._max_idle_bytes - self._beside()))
            finally:
                self._lock.release()
            self._dispose_of(evicted)

    def _evict(self, max_bytes: int) -> list[V]:
        """What goes, so that idle values take at most ``max_bytes``; with 0, all of them."""
        idle = [(key, entry) for key, entry in self._entries.items() if not entry.users]
        idle_bytes = sum(entry.idle_bytes for _, entry in idle)
        evicted = []
        for key, entry in idle:
            if idle_bytes > max_bytes or max_bytes == 0:
                idle_bytes -= entry.idle_bytes
                evicted.append(self._entries.pop(key).loading.result())
        return evicted

    def _dispose_of(self, values: list[V]) -> None:
        for value in values:
            self._dispose(value)

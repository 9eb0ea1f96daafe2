"""Loaded models, shared: the same key gives the same model, counted by its users, least recently used out.

A model is found by ``(backend_id, base_ref, adapter_ref)``, where the backend's id carries device and number type,
by the variant that the base is loaded in, and by how the adapter is applied and read out. Each model holds a lease on
its base, so two adapters on one base share the base's memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock
from typing import Generic, NamedTuple, Protocol, TypeVar

from ..contracts.artifact import Adapter, Base, Head
from ..contracts.backend import DEFAULT_VARIANT, Backend, LoadedBase, RoutingModel, Variant

MEMORY_LIMIT = 2 * 1024**3


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
    first, through ``dispose``. A failed load reaches everyone who waited for it and leaves nothing behind.
    """

    def __init__(self, max_idle_bytes: int, dispose: Callable[[V], None] = lambda value: None) -> None:
        self._max_idle_bytes = max_idle_bytes
        self._dispose = dispose
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._lock = Lock()

    def lease(self, key: K, load: Callable[[], V]) -> Lease[V]:
        """A lease on the value of ``key``, which ``load`` makes where there is none."""
        with self._lock:
            is_first = key not in self._entries
            entry = self._entries.setdefault(key, _Entry())
            entry.users += 1
            self._entries.move_to_end(key)
        if is_first:
            self._load(key, entry, load)
        return Lease(entry.loading.result(), lambda: self._release(entry))

    def clear(self) -> None:
        """Dispose of everything that nobody uses."""
        self._evict(max_bytes=0)

    def __len__(self) -> int:
        return len(self._entries)

    def _load(self, key: K, entry: _Entry[V], load: Callable[[], V]) -> None:
        try:
            entry.loading.set_result(load())
        except BaseException as error:
            with self._lock:
                del self._entries[key]
            entry.loading.set_exception(error)

    def _release(self, entry: _Entry[V]) -> None:
        with self._lock:
            entry.users -= 1
        self._evict(self._max_idle_bytes)

    def _evict(self, max_bytes: int) -> None:
        with self._lock:
            idle = [(key, entry) for key, entry in self._entries.items() if not entry.users]
            held = sum(entry.idle_bytes for _, entry in idle)
            gone = []
            for key, entry in idle:
                if held > max_bytes or max_bytes == 0:
                    held -= entry.idle_bytes
                    gone.append(self._entries.pop(key).loading.result())
        for value in gone:
            self._dispose(value)


class BaseKey(NamedTuple):
    """What makes two loaded bases the same."""

    backend_id: str
    base_ref: str
    variant: Variant


class ModelKey(NamedTuple):
    """What makes two loaded models the same: the adapter with the way it is applied, and the head it is read by."""

    backend_id: str
    base_ref: str
    variant: Variant
    adapter_ref: str
    head_ref: str
    merged: bool


@dataclass(frozen=True)
class LeasedModel:
    """A model together with its hold on the base that it runs on."""

    model: RoutingModel
    base: Lease[LoadedBase]

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps alive, its base among them: models that share a base count it once each."""
        return self.model.nbytes + self.base.value.nbytes


class ModelRegistry:
    """Bases and models of one process. Safe to use from several threads."""

    def __init__(self, max_idle_bytes: int = MEMORY_LIMIT) -> None:
        self._bases: SharedPool[BaseKey, LoadedBase] = SharedPool(max_idle_bytes=0)
        self._models: SharedPool[ModelKey, LeasedModel] = SharedPool(
            max_idle_bytes, dispose=lambda leased: leased.base.release()
        )

    def lease(
        self,
        backend: Backend,
        base: Base,
        adapter: Adapter,
        head: Head,
        *,
        device: str,
        dtype: str,
        merged: bool,
        variant: Variant = DEFAULT_VARIANT,
    ) -> Lease[LeasedModel]:
        """A lease on ``base`` with ``adapter`` and ``head``, loaded where it is not.

        Raises:
            TensorFileInvalid: a file cannot be read.
            ProfileUnavailable: the backend does not have ``variant`` on ``device``.
            UsageError: the shapes of this base cannot be quantised.
        """
        backend_id = f"{backend.info().backend_id}:{device}:{dtype}"
        base_key = BaseKey(backend_id, base.ref, variant)
        model_key = ModelKey(backend_id, base.ref, variant, adapter.ref, head.ref, merged)

        def load() -> LeasedModel:
            held = self._bases.lease(
                base_key, lambda: backend.load_base(base, device=device, dtype=dtype, variant=variant)
            )
            try:
                return LeasedModel(held.value.attach(adapter, head, merged=merged), held)
            except BaseException:
                held.release()
                raise

        return self._models.lease(model_key, load)

    def clear(self) -> None:
        """Let go of every model that nobody uses, and so of every base that none of the rest needs."""
        self._models.clear()


REGISTRY = ModelRegistry()
"""The registry of this process."""

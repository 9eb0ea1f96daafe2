"""Loaded models, shared: the same key gives the same model, counted by its users, least recently used out.

A model is found by ``(backend_id, base_ref, adapter_ref)``, where the backend's id carries device and number type,
by the variant that the base is loaded in, and by how the adapter is applied and read out. Each model holds a lease on
its base, so two adapters on one base share the base's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..contracts.artifact import Adapter, Base, Head
from ..contracts.backend import DEFAULT_VARIANT, Backend, LoadedBase, RoutingModel, TellsMemory, Variant
from ..profiles.memory import available_on
from ..sharing.leases import Lease, SharedPool
from ..sharing.shortage import within_memory_of
from .demand import Demand
from .reader import Reader

MEMORY_LIMIT = 2 * 1024**3

_within_memory = within_memory_of("the host", lambda error: False, lambda: None)
"""For backends that do not say themselves that memory ran out."""


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
    """A model together with what reads for all its routers, and its hold on the base that it runs on."""

    model: RoutingModel
    reader: Reader
    base: Lease[LoadedBase]

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps alive, its base among them: models that share a base count it once each."""
        return self.model.nbytes + self.base.value.nbytes

    def dispose(self) -> None:
        """Let go of the base; may run in the middle of anything, so it waits for nothing."""
        self.base.release()


class ModelRegistry:
    """Bases and models of one process. Safe to use from several threads.

    Args:
        max_idle_bytes: what models that nobody uses may take, together with what frameworks keep of freed memory.
        free_bytes: how much memory a backend's device has to give; by default it is measured.
    """

    def __init__(
        self, max_idle_bytes: int = MEMORY_LIMIT, free_bytes: Callable[[Backend, str], int] = available_on
    ) -> None:
        self._free_bytes = free_bytes
        self._bases: SharedPool[BaseKey, LoadedBase] = SharedPool(max_idle_bytes=0)
        self._models: SharedPool[ModelKey, LeasedModel] = SharedPool(
            max_idle_bytes, dispose=LeasedModel.dispose, beside=self._kept_bytes
        )
        self._backends: dict[int, Backend] = {}

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
            NotEnoughMemory: the device has too little, also without the models that nobody uses, or ran out of it.
        """
        self._backends[id(backend)] = backend
        backend_id = f"{backend.info().backend_id}:{device}:{dtype}"
        base_key = BaseKey(backend_id, base.ref, variant)
        model_key = ModelKey(backend_id, base.ref, variant, adapter.ref, head.ref, merged)

        demand = Demand.of(base, adapter, dtype=dtype, merged=merged, variant=variant)

        def make_room(needed: int) -> None:
            if needed > self._free_bytes(backend, device):
                self.clear()
                demand.check(needed, self._free_bytes(backend, device), device, dtype)

        def load_base() -> LoadedBase:
            make_room(demand.base + demand.adapter)
            return backend.load_base(base, device=device, dtype=dtype, variant=variant)

        def load() -> LeasedModel:
            lease = self._bases.lease(base_key, load_base)
            try:
                make_room(demand.adapter)
                model = lease.value.attach(adapter, head, merged=merged)
                return LeasedModel(model, Reader(model, position=head.position, measured=head.kinds is not None), lease)
            except BaseException:
                lease.release()
                raise

        return self._models.lease(model_key, _within_memory(load))

    def _kept_bytes(self) -> int:
        """What frameworks keep of freed memory; may be asked in the middle of anything."""
        return sum(each.kept_bytes() for each in list(self._backends.values()) if isinstance(each, TellsMemory))

    def clear(self) -> None:
        """Let go of every model that nobody uses, and so of every base that none of the rest needs."""
        self._models.clear()


REGISTRY = ModelRegistry()
"""The registry of this process."""

"""Backends of a third party, each with one fault, around the real one for MLX; ``evaluation_cases`` installs them."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import count
from multiprocessing import parent_process
from typing import Any

from trinity_mlx.contracts.backend import BackendInfo, DeviceMemory, Variant
from trinity_mlx.contracts.errors import EnvironmentUnavailable, ProfileUnavailable
from trinity_mlx.factorization.host import HostFactorizer
from trinity_mlx.profiles.backends import load_backend

Row = tuple[float, ...]


class Odd:
    """The real backend; ``change`` is put on every row of logits."""

    def __init__(self) -> None:
        self._inner = load_backend("mlx")

    def info(self) -> BackendInfo:
        return replace(self._inner.info(), backend_id=type(self).__name__)

    def load_base(self, base: Any, *, device: str, dtype: str, variant: Variant) -> Any:
        return _Base(self._inner.load_base(base, device=device, dtype=dtype, variant=variant), self)

    def change(self, row: Row) -> Row:
        return row


class Wavering(Odd):
    """Gives a little more to the first slot each time that it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = count()

    def change(self, row: Row) -> Row:
        return (row[0] + 1e-3 * next(self._asked), *row[1:])


class Estranged(Odd):
    """Gives other logits in a process that another one started."""

    def change(self, row: Row) -> Row:
        return row if parent_process() is None else (row[0] + 1e-3, *row[1:])


class Mortal(Odd):
    """Ends every process that another one started."""

    def change(self, row: Row) -> Row:
        if parent_process() is not None:
            os._exit(9)
        return row


class Tiring(Odd):
    """Answers every other time."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = count()

    def change(self, row: Row) -> Row:
        if next(self._asked) % 2:
            raise EnvironmentUnavailable("the device is gone: plug it in again")
        return row


class Overflowing(Odd):
    """Gives no number."""

    def change(self, row: Row) -> Row:
        return (float("nan"), *row[1:])


class Plain(Odd):
    """Has no kernels but the usual ones."""

    def load_base(self, base: Any, *, device: str, dtype: str, variant: Variant) -> Any:
        if variant != Variant():
            raise ProfileUnavailable(f"this backend has no {variant.label} kernels")
        return super().load_base(base, device=device, dtype=dtype, variant=variant)


class OnlyFull(Odd):
    """Decomposes by numpy, and holds all of the larger side's vectors, as it says."""

    def factorizer(self, _: str) -> HostFactorizer:
        factorizer = HostFactorizer()
        factorizer.thin_svd = False
        return factorizer


class Tight(Odd):
    """Has no memory to speak of."""

    def device_memory(self, _: str) -> DeviceMemory:
        return DeviceMemory(1000, is_host=False)

    def kept_bytes(self) -> int:
        return 0


class _Base:
    def __init__(self, inner: Any, owner: Odd) -> None:
        self._inner, self._owner = inner, owner
        self.nbytes = inner.nbytes

    def attach(self, *parts: Any, **options: Any) -> _Model:
        return _Model(self._inner.attach(*parts, **options), self._owner)


class _Model:
    def __init__(self, inner: Any, owner: Odd) -> None:
        self._owner = owner
        self._inner = inner
        self.nbytes, self.batch_tokens = inner.nbytes, inner.batch_tokens
        self.read, self.values = inner.read, inner.values

    def logits(self, segments: Any) -> tuple[list[Row], tuple[Any, ...]]:
        rows, pasts = self._inner.logits(segments)
        return [self._owner.change(row) for row in rows], pasts

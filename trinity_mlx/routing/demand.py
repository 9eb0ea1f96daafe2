"""How much memory a model takes, told before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..contracts.artifact import Adapter, AdapterEntry, Base
from ..contracts.backend import Variant
from ..contracts.errors import NotEnoughMemory
from ..profiles.memory import in_bytes

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
GROUP = 32
"""The fewest weights that share a scale and a bias of two bytes each, where matrices are quantised."""


@dataclass(frozen=True, slots=True)
class Demand:
    """About what a model takes while it is loaded, in bytes; weights that stay memory-mapped are counted too.

    ``base`` holds every tensor that a route reads in the number type asked for, and the largest once more as it is read
    and before it is quantised. ``adapter`` holds the factors, and with ``merged`` copies of the matrices that they
    change.
    """

    base: int
    adapter: int

    @classmethod
    def of(cls, base: Base, adapter: Adapter, *, dtype: str, merged: bool, variant: Variant) -> Demand:
        """What ``base`` with ``adapter`` takes."""
        shapes, item = base.config.backbone_shapes(), ITEM_BYTES[dtype]
        held = sum(_held(shape, item, variant) for shape in shapes.values())
        largest = max(shapes, key=lambda name: base.tensors[name].nbytes)
        once_more = base.tensors[largest].nbytes + (prod(shapes[largest]) * item if variant.quantize else 0)
        changes = [entry for entry in adapter.entries if entry.source in shapes]
        copies = [_change(entry, shapes[entry.source], item, merged, variant) for entry in changes]
        return cls(held + once_more, sum(copies))

    def check(self, needed: int, free: int, device: str, dtype: str) -> None:
        """Make sure that ``needed`` bytes of it are free.

        Raises:
            NotEnoughMemory: they are not.
        """
        if needed <= free:
            return
        raise NotEnoughMemory(
            f"this model needs about {in_bytes(needed)} on {device} (in {dtype} its base takes {in_bytes(self.base)}, "
            f"its adapter {in_bytes(self.adapter)}), and {in_bytes(free)} are free: free some, load it in a shorter "
            "number type or quantised, or use another device"
        )


def _held(shape: tuple[int, ...], item: int, variant: Variant) -> int:
    """Bytes of one tensor of the base as models run it."""
    if variant.quantize is None or len(shape) == 1:
        return prod(shape) * item
    return prod(shape) * variant.quantize // 8 + prod(shape) // GROUP * 4


def _change(entry: AdapterEntry, shape: tuple[int, ...], item: int, merged: bool, variant: Variant) -> int:
    """Bytes of what an adapter puts beside or in place of one tensor."""
    own = prod(entry.tensor.shape) * item
    return own + _held(shape, item, variant) if merged else own

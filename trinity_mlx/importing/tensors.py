"""The tensors of a new adapter's file, as values at hand or as a copy that is never held whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..contracts.artifact import AdapterEntry
from ..files.safetensors import ITEM_BYTES
from ..files.safetensors_writer import SafetensorsWriter, TensorSpec

_TILE_ROWS = 4096


@dataclass(frozen=True)
class NewTensor:
    """A tensor to write, and its values' bytes in row order, in pieces."""

    spec: TensorSpec
    tiles: Iterable[bytes]


def float32_tensor(name: str, values: np.ndarray) -> NewTensor:
    """``values`` rounded to float32."""
    return NewTensor(TensorSpec(name, "F32", values.shape), [values.astype("<f4").tobytes()])


def copied_tensor(entry: AdapterEntry) -> NewTensor:
    """An entry's tensor bit by bit, turned as its source lies; read from the memory map a tile at a time."""
    tensor = entry.tensor
    bits = np.memmap(
        tensor.path, dtype=f"<u{ITEM_BYTES[tensor.dtype]}", mode="r", offset=tensor.start, shape=tensor.shape
    )
    turned = bits.T if entry.transposed else bits
    tiles = (turned[start : start + _TILE_ROWS].tobytes() for start in range(0, len(turned), _TILE_ROWS))
    return NewTensor(TensorSpec(entry.source, tensor.dtype, turned.shape), tiles)


def write_tensors(path: Path, tensors: Sequence[NewTensor]) -> None:
    """A safetensors file at ``path``, flushed to the disk.

    Raises:
        OSError: it cannot be written.
    """
    writer = SafetensorsWriter(path, [tensor.spec for tensor in tensors])
    for tensor in tensors:
        writer.write(tensor.spec.name, tensor.tiles)

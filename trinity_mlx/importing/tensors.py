"""The tensors of a new adapter's file, as values at hand or as a copy that is never held whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ..contracts.artifact import AdapterEntry
from ..factorization.tiles import spans
from ..files.safetensors import map_tensor
from ..files.safetensors_writer import Buffer, TensorSpec


class NewTensor(NamedTuple):
    """A tensor to write, and its values' bytes in row order, in pieces."""

    spec: TensorSpec
    tiles: Iterable[Buffer]


def float32_tensor(name: str, values: np.ndarray) -> NewTensor:
    """``values`` rounded to float32."""
    return NewTensor(TensorSpec(name, "F32", values.shape), [values.astype("<f4").tobytes()])


def copied_tensor(entry: AdapterEntry) -> NewTensor:
    """An entry's tensor bit by bit, turned as its source lies; read from the memory map a tile at a time."""
    stored = map_tensor(entry.tensor)
    turned = stored.T if entry.transposed else stored
    tiles = (turned[rows].tobytes() for rows in spans(*turned.shape))
    return NewTensor(TensorSpec(entry.source, entry.tensor.dtype, turned.shape), tiles)

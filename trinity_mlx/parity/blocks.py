"""Safetensors files larger than memory: read through a memory map, written block by block in any order."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from ..contracts.artifact import TensorLocation
from ..contracts.errors import FolderUnavailable
from ..factorization.stages import Block, from_bfloat16
from ..files.safetensors import ITEM_BYTES

_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
FLOAT_TYPES = tuple(_NUMPY)
"""Number types that can be read here."""
WHOLE: Block = (slice(None), slice(None))


@dataclass(frozen=True)
class TensorSpec:
    """Number type and shape of a tensor that is to be written; BF16 takes uint16 bit patterns."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


class MappedTensor:
    """A float tensor in a file; only what is asked for comes into memory."""

    def __init__(self, location: TensorLocation) -> None:
        self.location = location
        self.shape = location.shape
        self._is_bfloat16 = location.dtype == "BF16"
        self._raw: np.ndarray = (
            np.memmap(location.path, _NUMPY[location.dtype], "r", location.start, location.shape)
            if location.nbytes
            else np.empty(location.shape, _NUMPY[location.dtype])
        )

    def __getitem__(self, block: Block | slice) -> np.ndarray:
        """A part as numbers: bfloat16 and float16 widened to float32, float32 and float64 as they are."""
        part = self.bits(block)
        if self._is_bfloat16:
            return from_bfloat16(part)
        return np.array(part, dtype=np.promote_types(part.dtype, np.float32))

    def bits(self, block: Block | slice) -> np.ndarray:
        """A part as the file has it, bfloat16 as uint16; vectors and single numbers are always taken whole."""
        return self._raw[block] if self._raw.ndim == 2 else self._raw


class BlockFile:
    """A new safetensors file whose tensors are filled block by block, in any order.

    It grows under a temporary name, and takes its own when the ``with`` block ends well; else nothing is left of it.
    What a killed process left goes when the next one begins.

    Raises:
        FolderUnavailable: the folder cannot be written to, or has no room.
        ValueError: the ``with`` block ended, and not every byte was written just once.
    """

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec]) -> None:
        self._path = path
        self._specs = dict(specs)
        self._missing = sum(spec.nbytes for spec in specs.values())
        header, self._starts = _layout(self._specs)
        self._partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for abandoned in path.parent.glob(f".{path.name}.*"):
                abandoned.unlink()
            self._file = self._partial.open("w+b")
        except OSError as error:
            raise _unwritable(path, error) from None
        self._put(0, header)

    def write(self, name: str, values: np.ndarray, block: Block = WHOLE) -> None:
        """Put ``values``, shaped as ``block`` of the tensor ``name``, in their place."""
        spec = self._specs[name]
        dtype = np.dtype(_NUMPY[spec.dtype])
        values = np.ascontiguousarray(values, dtype=dtype)
        self._missing -= values.nbytes
        start = self._starts[name]
        if len(spec.shape) < 2 or values.shape[1] == spec.shape[1]:
            row_bytes = dtype.itemsize * math.prod(spec.shape[1:])
            self._put(start + (block[0].start or 0) * row_bytes, values.data)
            return
        for index, row in enumerate(values, start=block[0].start or 0):
            self._put(start + (index * spec.shape[1] + block[1].start) * dtype.itemsize, row.data)

    def __enter__(self) -> BlockFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._publish()
        except OSError as failure:
            raise _unwritable(self._path, failure) from None
        finally:
            self._file.close()
            self._partial.unlink(missing_ok=True)

    def _publish(self) -> None:
        if self._missing:
            raise ValueError(f"{self._path}: {self._missing} bytes of its tensors were not written")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._partial.replace(self._path)

    def _put(self, position: int, content: bytes | memoryview) -> None:
        try:
            self._file.seek(position)
            self._file.write(content)
        except OSError as error:
            raise _unwritable(self._path, error) from None


def _layout(specs: Mapping[str, TensorSpec]) -> tuple[bytes, dict[str, int]]:
    """The file's first bytes, and where each tensor starts: wide number types first, so that all lie aligned."""
    header: dict[str, object] = {}
    begins: dict[str, int] = {}
    position = 0
    for name, spec in sorted(specs.items(), key=lambda item: -ITEM_BYTES[item[1].dtype]):
        begins[name] = position
        offsets = [position, position + spec.nbytes]
        header[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": offsets}
        position += spec.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: data + begin for name, begin in begins.items()}


def _unwritable(path: Path, error: OSError) -> FolderUnavailable:
    return FolderUnavailable(f"{path} cannot be written: {error.strerror or error}")

"""Safetensors files without a tensor framework: checked headers, tensors mapped and as numbers.

A file is 8 bytes of header length (little-endian), a JSON header, then the tensors' bytes, gap-free.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..contracts.artifact import TensorLocation
from ..contracts.canonical import unique_keys
from ..contracts.errors import TensorFileInvalid
from .regular import open_regular

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOAT_TYPES = ("F32", "BF16", "F16")
STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""numpy's names of the float types; it has no BF16, whose bits are taken as whole numbers."""

_MAX_HEADER_BYTES = 100_000_000


def read_header(path: Path) -> dict[str, TensorLocation]:
    """Every tensor of a file by name, after checking that the header and the file's size agree.

    Raises:
        TensorFileInvalid: the file is missing, truncated, or its header is not one.
    """
    try:
        with open_regular(path) as (file, status):
            return header_of(file, status.st_size, path)
    except OSError as error:
        raise _invalid(path, f"cannot be read: {error.strerror or error}") from None


def header_of(file: BinaryIO, size: int, path: Path) -> dict[str, TensorLocation]:
    """The same of an open file of ``size`` bytes, which is called ``path``.

    Raises:
        TensorFileInvalid: it is truncated, or its header is not one.
        OSError: it cannot be read.
    """
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
        raise _invalid(path, f"is truncated or no safetensors file: {size} bytes, header of {length}")
    header = _parse_header(path, file.read(length))
    tensors = {name: _locate(path, name, entry, 8 + length) for name, entry in header.items()}
    _check_coverage(path, tensors, 8 + length, size)
    return tensors


def require(tensors: Mapping[str, TensorLocation], name: str, shape: tuple[int, ...], path: Path) -> TensorLocation:
    """The tensor ``name``, of ``shape`` and a float type.

    Raises:
        TensorFileInvalid: it is missing, has another shape, or holds no floats.
    """
    tensor = find(tensors, name, path)
    if tensor.shape != shape:
        raise _invalid(tensor.path, f"tensor {name!r} is shaped {list(tensor.shape)}, and {list(shape)} is needed")
    if tensor.dtype not in FLOAT_TYPES:
        raise _invalid(tensor.path, f"tensor {name!r} is {tensor.dtype}: one of {', '.join(FLOAT_TYPES)} is needed")
    return tensor


def find(tensors: Mapping[str, TensorLocation], name: str, path: Path) -> TensorLocation:
    """The tensor ``name`` among the ``tensors`` of ``path``.

    Raises:
        TensorFileInvalid: there is none.
    """
    if name not in tensors:
        raise _invalid(path, f"has no tensor {name!r}")
    return tensors[name]


def map_tensor(tensor: TensorLocation) -> np.ndarray:
    """``tensor`` as it is stored [*shape], BF16 as ``uint16`` bits; its pages are the file's own.

    Writing to the array changes no file.
    """
    if not tensor.nbytes:
        return np.empty(tensor.shape, STORED[tensor.dtype])
    return np.memmap(tensor.path, STORED[tensor.dtype], mode="c", offset=tensor.start, shape=tensor.shape)


def read_float32(tensor: TensorLocation) -> np.ndarray:
    """A whole tensor as float32 [*shape]; the file is memory-mapped, so a float32 tensor costs no copy."""
    return as_floats(map_tensor(tensor)).astype(np.float32, copy=False)


def as_floats(stored: np.ndarray) -> np.ndarray:
    """Numbers as a file stores them, in at least float32, exactly; ``uint16`` always means BF16 bits."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.promote_types(stored.dtype, np.float32), copy=False)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 values rounded to the nearest bfloat16, ties to even, as ``uint16`` bits; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    quiet_nan = ((bits >> 16) | 0x40).astype(np.uint16)
    return np.where(np.isnan(values), quiet_nan, rounded)


def _parse_header(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise _invalid(path, f"has a header that is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise _invalid(path, "has a header that is no JSON object")
    header.pop("__metadata__", None)
    return header


def _locate(path: Path, name: str, entry: Any, data_start: int) -> TensorLocation:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end]} if dtype in ITEM_BYTES and all(
            type(number) is int and number >= 0 for number in [*shape, begin, end]
        ):
            nbytes = math.prod(shape) * ITEM_BYTES[dtype]
        case _:
            raise _invalid(path, f"has a header that does not describe tensor {name!r}: {str(entry)[:200]}")
    if end - begin != nbytes:
        raise _invalid(path, f"tensor {name!r} {dtype}{shape} takes {nbytes} bytes, and its header gives {end - begin}")
    return TensorLocation(path, name, dtype, tuple(shape), data_start + begin, nbytes)


def _check_coverage(path: Path, tensors: Mapping[str, TensorLocation], data_start: int, size: int) -> None:
    position = data_start
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.nbytes)):
        if tensor.start != position:
            raise _invalid(path, f"tensor {tensor.name!r} starts at byte {tensor.start}, and {position} is expected")
        position += tensor.nbytes
        if position > size:
            raise _invalid(path, f"is truncated at {size} bytes: tensor {tensor.name!r} ends at byte {position}")
    if position != size:
        raise _invalid(path, f"has {size - position} bytes that belong to no tensor")


def _invalid(path: Path, what: str) -> TensorFileInvalid:
    return TensorFileInvalid(f"{os.fspath(path)} {what}")

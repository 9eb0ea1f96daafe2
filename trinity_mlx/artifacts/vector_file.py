"""The file of a trained vector, read and checked number by number."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..contracts.artifact import TensorLocation
from ..contracts.errors import VectorInvalid
from ..files.safetensors import FLOAT_TYPES, read_float32, read_header
from .vector import VECTOR_TENSOR


def read_vector(path: Path) -> np.ndarray:
    """The numbers of a ``.safetensors`` or ``.npy`` file, float32 or float64 [n].

    A safetensors file holds one tensor, or several of which one is named ``trinity_router_es_vector``.

    Raises:
        VectorInvalid: the file has neither ending, is malformed, or its numbers are no finite vector.
        TensorFileInvalid: the safetensors file is missing, truncated or malformed.
    """
    readers = {".safetensors": _read_safetensors, ".npy": _read_npy}
    if path.suffix not in readers:
        raise VectorInvalid(f"{path}: a vector is a .safetensors or .npy file, and this one ends in {path.suffix!r}")
    vector = readers[path.suffix](path)
    if vector.ndim != 1 or vector.dtype not in (np.float32, np.float64):
        raise VectorInvalid(f"{path} holds {vector.dtype} {list(vector.shape)}, and a vector is float32 or float64 [n]")
    wrong = np.flatnonzero(~np.isfinite(vector))
    if wrong.size:
        raise VectorInvalid(f"{path}: {wrong.size} of {vector.size} numbers are not finite; the first is at {wrong[0]}")
    return vector


def _read_safetensors(path: Path) -> np.ndarray:
    tensor = _only_tensor(path, read_header(path))
    if tensor.dtype == "F64":
        return np.fromfile(tensor.path, dtype="<f8", count=tensor.nbytes // 8, offset=tensor.start).reshape(
            tensor.shape
        )
    if tensor.dtype not in FLOAT_TYPES:
        raise VectorInvalid(f"{path}: tensor {tensor.name!r} is {tensor.dtype}, and a vector is F32 or F64")
    return read_float32(tensor)


def _only_tensor(path: Path, tensors: dict[str, TensorLocation]) -> TensorLocation:
    if VECTOR_TENSOR in tensors:
        return tensors[VECTOR_TENSOR]
    if len(tensors) != 1:
        held = ", ".join(sorted(tensors)) or "no tensor"
        raise VectorInvalid(f"{path} holds {held}: a vector's file holds {VECTOR_TENSOR!r}, or one tensor alone")
    return next(iter(tensors.values()))


def _read_npy(path: Path) -> np.ndarray:
    try:
        held = np.load(path, allow_pickle=False)
    except OSError as error:
        raise VectorInvalid(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, SyntaxError) as error:
        raise VectorInvalid(f"{path} is not a .npy file of numbers: {error}") from None
    if not isinstance(held, np.ndarray):
        raise VectorInvalid(f"{path} is an archive of arrays, and a vector is one array")
    return held.astype(held.dtype.newbyteorder("="), copy=False)

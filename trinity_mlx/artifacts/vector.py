"""The trained vector: singular-value offsets of each adapted tensor, then the head (docs/method.md, section 2)."""

from __future__ import annotations

import ast
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts.artifact import BackboneConfig, ReadPosition, TensorLocation
from ..contracts.errors import VectorInvalid
from ..factorization.adapted import EMBEDDING, LAYER_MATRICES
from ..files.paths import existing_file, exists
from ..files.regular import read_regular
from ..files.safetensors import STORED, as_floats, header_of
from .manifest import MANIFEST_NAME, read_manifest
from .published_manifest import is_published

VECTOR_TENSOR = "trinity_router_es_vector"
LM_HEAD = "lm_head.weight"
"""Adapted by the published vector, and without effect on a route: no logit over the vocabulary is computed."""

_NPY = re.compile(rb"\x93NUMPY(?:\x01.(?P<short>..)|[\x02\x03].(?P<long>....))", re.DOTALL)
_NPY_HEADER_BYTES = 4096


@dataclass(frozen=True)
class VectorFile:
    """The numbers of a vector's file, float32 or float64 [n], and the sha256 of its bytes."""

    values: np.ndarray
    sha256: str


@dataclass(frozen=True)
class TrainedVector:
    """The parts of a trained vector: offsets by source tensor, in order, and the head [slots + 3, hidden]."""

    offsets: dict[str, np.ndarray]
    head: np.ndarray


def adapted_shapes(config: BackboneConfig, layers: Sequence[int] | None = None) -> dict[str, tuple[int, int]]:
    """Shapes of the tensors that a vector adapts, in its order: embedding, layers' matrices, ``lm_head``.

    ``layers`` are the decoder layers; the second-to-last alone by default.
    """
    shapes = config.backbone_shapes() | {LM_HEAD: (config.vocab_size, config.hidden_size)}
    chosen = [config.num_layers - 2] if layers is None else layers
    names = [f"model.layers.{layer}.{matrix}" for layer in chosen for matrix in LAYER_MATRICES.values()]
    return {name: (shapes[name][0], shapes[name][1]) for name in [EMBEDDING, *names, LM_HEAD]}


def offset_entries(shapes: Mapping[str, tuple[int, int]]) -> list[dict[str, object]]:
    """Where the offsets of each tensor of ``shapes`` lie in a vector, as a manifest's ``OffsetsEntry`` says it."""
    ends = np.cumsum([min(shape) for shape in shapes.values()]).tolist()
    return [
        {"source": name, "shape": list(shape), "start": end - min(shape), "end": end}
        for (name, shape), end in zip(shapes.items(), ends, strict=True)
    ]


def split_vector(vector: np.ndarray, shapes: dict[str, tuple[int, int]], hidden: int) -> TrainedVector:
    """Cut ``vector`` [n] into offsets of ``min(shape)`` for each tensor, in order, and the head's rows.

    Raises:
        VectorInvalid: what remains for the head is not a whole number of rows, with the arithmetic in the message.
    """
    counts = {name: min(shape) for name, shape in shapes.items()}
    scale_count = sum(counts.values())
    rest = vector.size - scale_count
    if vector.ndim != 1 or rest <= 0 or rest % hidden:
        raise VectorInvalid(
            f"the vector is shaped {list(vector.shape)}: {len(counts)} tensors take {scale_count} offsets, "
            f"{vector.size} - {scale_count} = {rest} are left for the head, and that is no multiple of {hidden}"
        )
    starts = np.cumsum([0, *counts.values()])[:-1]
    offsets = {name: vector[start : start + counts[name]] for name, start in zip(counts, starts, strict=True)}
    return TrainedVector(offsets, vector[scale_count:].reshape(-1, hidden))


def read_vector(path: Path) -> VectorFile:
    """The numbers of a ``.safetensors`` or ``.npy`` file, which is read once.

    A safetensors file holds one tensor, or several of which one is named ``trinity_router_es_vector``.

    Raises:
        VectorInvalid: the file cannot be read, has neither ending, is malformed, or its numbers are no finite vector.
        TensorFileInvalid: the safetensors file is truncated or malformed.
        BundleInvalid: it is not there, and the bundle where it should lie has no valid manifest.
    """
    readers = {".safetensors": _safetensors, ".npy": _npy}
    if path.suffix not in readers:
        raise VectorInvalid(f"{path}: a vector is a .safetensors or .npy file, and this one ends in {path.suffix!r}")
    try:
        content = read_regular(path)
    except OSError as error:
        raise VectorInvalid(f"{path} cannot be read: {error.strerror or error}{_hint(path)}") from None
    vector = readers[path.suffix](path, content)
    if vector.ndim != 1 or vector.dtype not in (np.float32, np.float64):
        raise VectorInvalid(f"{path} holds {vector.dtype} {list(vector.shape)}, and a vector is float32 or float64 [n]")
    wrong = np.flatnonzero(~np.isfinite(vector))
    if wrong.size:
        raise VectorInvalid(f"{path}: {wrong.size} of {vector.size} numbers are not finite; the first is at {wrong[0]}")
    return VectorFile(vector, hashlib.sha256(content).hexdigest())


def _hint(path: Path) -> str:
    """Why a bundle that lies there has no vector, where its manifest says so."""
    folder = path.parent
    if exists(path) or existing_file(folder / MANIFEST_NAME) is None or is_published(folder):
        return ""
    manifest = read_manifest(folder)
    if manifest.head.elu is None and manifest.read_position is ReadPosition.SECOND_TO_LAST:
        return ""
    head = "is low-rank" if manifest.head.elu else f"reads the {manifest.read_position} token"
    return (
        f"; the head of the bundle there {head}, and a vector of the published layout holds linear heads of the "
        f"second-to-last token alone: its matrices are in {manifest.head.file}"
    )


def _safetensors(path: Path, content: bytes) -> np.ndarray:
    tensor = _only_tensor(path, header_of(io.BytesIO(content), len(content), path))
    if tensor.dtype not in STORED:
        raise VectorInvalid(f"{path}: tensor {tensor.name[:80]!r} is {tensor.dtype}, and a vector is F32 or F64")
    raw = content[tensor.start : tensor.start + tensor.nbytes]
    return as_floats(np.frombuffer(raw, STORED[tensor.dtype])).reshape(tensor.shape)


def _only_tensor(path: Path, tensors: dict[str, TensorLocation]) -> TensorLocation:
    if VECTOR_TENSOR in tensors:
        return tensors[VECTOR_TENSOR]
    if len(tensors) != 1:
        names = ", ".join(sorted(tensors)[:4]) or "no tensor"
        raise VectorInvalid(f"{path} holds {names[:200]}: a vector's file holds {VECTOR_TENSOR!r}, or one tensor alone")
    return next(iter(tensors.values()))


def _npy(path: Path, content: bytes) -> np.ndarray:
    """The array of a ``.npy`` file. Its header is held against the bytes that are there, which numpy does not do."""
    try:
        dtype, shape, start = _npy_header(content)
    except (ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError) as error:
        raise VectorInvalid(f"{path} is not a .npy file of numbers: {str(error)[:200]}") from None
    if dtype.newbyteorder("=") not in (np.float32, np.float64) or len(shape) != 1:
        raise VectorInvalid(f"{path} holds {dtype} {list(shape)!s:.80}, and a vector is float32 or float64 [n]")
    if shape[0] * dtype.itemsize != len(content) - start:
        raise VectorInvalid(
            f"{path} is not a .npy file of numbers that is whole: {str(shape[0])[:40]} of {dtype} do not take "
            f"{len(content) - start} bytes"
        )
    return np.frombuffer(content, dtype, offset=start).astype(dtype.newbyteorder("="), copy=False)


def _npy_header(content: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Number type and shape, and where the numbers begin."""
    begin = _NPY.match(content)
    if begin is None:
        raise ValueError("it is an archive of arrays" if content[:2] == b"PK" else "it does not begin like one")
    length = int.from_bytes(begin["short"] or begin["long"], "little")
    if length > _NPY_HEADER_BYTES:
        raise ValueError(f"its header takes {length} bytes")
    end = begin.end() + length
    header = ast.literal_eval(content[begin.end() : end].decode("utf-8").strip())
    kind, shape = header["descr"], header["shape"]
    if not isinstance(kind, str) or not isinstance(shape, tuple) or not all(type(side) is int for side in shape):
        raise ValueError("its header does not say what numbers there are, and how many")
    dtype = np.dtype(kind)
    if dtype.hasobject:
        raise ValueError("it holds objects, and what they are is never run")
    return dtype, shape, end

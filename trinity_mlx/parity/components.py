"""Decompositions on disk: made once by the reference, read by everyone who is to start from the same U, S and V.

The file is the component file of the Python tools, ``trinity_svf_components.safetensors``, with ``svd.U.<source name>``
[rows, k], ``svd.S.<source name>`` [k] and ``svd.V.<source name>`` [columns, k]: ``V`` as columns, not ``V^T``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..contracts.artifact import TensorLocation
from ..contracts.backend import ThinSvd
from ..contracts.errors import BaseInvalid, ParitySetupError, ProfileUnavailable
from ..factorization.stages import Components
from ..factorization.tiles import blocks, spans
from ..files.paths import is_file
from ..files.safetensors import as_floats, map_tensor, read_header
from ..files.safetensors_writer import SafetensorsWriter, TensorSpec, new_safetensors
from ..profiles.backends import load_backend
from .progress import Progress
from .stages import Subject

COMPONENTS_FILE = "trinity_svf_components.safetensors"
_STORED = {"float32": "F32", "float64": "F64"}


@dataclass(frozen=True)
class Decomposer:
    """A thin decomposition of a whole float32 or float64 matrix, and the name by which reports call it."""

    name: str
    version: str
    decompose: Callable[[np.ndarray], Components]


def reference_decomposer() -> Decomposer:
    """``torch.linalg.svd`` on the CPU where torch is installed, else numpy's."""
    in_numpy = Decomposer("numpy.linalg.svd", np.__version__, _numpy_svd)
    try:
        backend = load_backend("torch")
    except ProfileUnavailable:
        return in_numpy
    if not isinstance(backend, ThinSvd):
        return in_numpy
    svd = backend.thin_svd
    return Decomposer("torch.linalg.svd", backend.info().versions["torch"], lambda matrix: Components(*svd(matrix)))


def write_components(
    folder: Path, subjects: Sequence[Subject], dtype: str, decomposer: Decomposer, progress: Progress
) -> None:
    """Decompose every subject's source in ``dtype`` (``float32`` or ``float64``); a shared source once.

    A whole matrix, its factors and what the decomposition needs are held at a time.

    Raises:
        BaseInvalid: a source holds NaN or infinity.
        FolderUnavailable: ``folder`` cannot be written to.
    """
    sharing: dict[TensorLocation, list[Subject]] = {}
    for subject in subjects:
        sharing.setdefault(subject.source, []).append(subject)
    specs = [spec for subject in subjects for spec in _specs(subject, _STORED[dtype])]
    with new_safetensors(folder / COMPONENTS_FILE, specs) as file:
        for shared in sharing.values():
            progress.begin(f"decompose {shared[0].name}", None)
            components = decomposer.decompose(_whole(shared[0], np.dtype(dtype)))
            for subject in shared:
                _write(file, subject.name, components)


def add_to_digest(digest: hashlib._Hash, components: Components) -> None:
    """Let ``digest`` take in S, U and V, each row by row."""
    for part in (components.s, components.u, components.v):
        for rows in spans(len(part), part[0].size):
            digest.update(np.ascontiguousarray(part[rows]).data)


class ComponentStore:
    """The components in a folder, memory-mapped.

    Raises:
        ParitySetupError: the folder has no component file.
        TensorFileInvalid: the file is truncated or corrupt.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / COMPONENTS_FILE
        if not is_file(self.path):
            raise ParitySetupError(f"{folder} has no {COMPONENTS_FILE}: a reference makes it")
        self._tensors = read_header(self.path)

    def get(self, subject: Subject) -> Components:
        """U, S and V of the subject's source, of one number type; U and V are read as they are needed.

        Raises:
            ParitySetupError: one is missing, or has another shape or number type.
        """
        (rows, columns), rank = subject.shape, min(subject.shape)
        shapes = {"U": (rows, rank), "S": (rank,), "V": (columns, rank)}
        u, s, v = (map_tensor(self._locate(subject, part, shape)) for part, shape in shapes.items())
        if not u.dtype == s.dtype == v.dtype:
            raise ParitySetupError(f"{self.path}: U, S and V of {subject.name} must have one number type")
        return Components(u, np.array(s), v)

    def _locate(self, subject: Subject, part: str, shape: tuple[int, ...]) -> TensorLocation:
        key = f"svd.{part}.{subject.name}"
        tensor = self._tensors.get(key)
        if tensor is None:
            raise ParitySetupError(f"{self.path} has no {key}: make the reference of this tensor, or of all")
        if tensor.shape != shape or tensor.dtype not in _STORED.values():
            raise ParitySetupError(
                f"{self.path}: {key} is {tensor.dtype}{list(tensor.shape)}, and {list(shape)} of F32 or F64 is needed "
                "(V as columns, not transposed)"
            )
        return tensor


def _whole(subject: Subject, dtype: np.dtype[np.floating]) -> np.ndarray:
    source, whole = map_tensor(subject.source), np.empty(subject.shape, dtype)
    for block in blocks(subject.shape):
        whole[block] = as_floats(source[block])
        if not np.isfinite(whole[block]).all():
            raise BaseInvalid(
                f"{subject.source.path}: {subject.name} holds NaN or infinity: there is nothing to decompose"
            )
    return whole


def _specs(subject: Subject, dtype: str) -> list[TensorSpec]:
    (rows, columns), rank = subject.shape, min(subject.shape)
    shapes: dict[str, tuple[int, ...]] = {"U": (rows, rank), "S": (rank,), "V": (columns, rank)}
    return [TensorSpec(f"svd.{part}.{subject.name}", dtype, shape) for part, shape in shapes.items()]


def _write(file: SafetensorsWriter, name: str, components: Components) -> None:
    file.write_block(f"svd.S.{name}", components.s)
    for part, vectors in (("U", components.u), ("V", components.v)):
        for block in blocks(vectors.shape):
            file.write_block(f"svd.{part}.{name}", vectors[block], block)


def _numpy_svd(matrix: np.ndarray) -> Components:
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    return Components(u, s, vh.T)

"""Decompositions on disk: made once by the reference, read by everyone who is to start from the same U, S and V.

The file is the component file of the Python tools, ``trinity_svf_components.safetensors``, with ``svd.U.<source name>``
[rows, k], ``svd.S.<source name>`` [k] and ``svd.V.<source name>`` [columns, k]: ``V`` as columns, not ``V^T``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from ..artifacts.component_files import COMPONENTS, component_key
from ..contracts.artifact import TensorLocation
from ..contracts.backend import ThinSvd
from ..contracts.errors import BaseInvalid, ParitySetupError, ProfileUnavailable
from ..factorization.stages import Components
from ..factorization.tiles import blocks, spans
from ..files.hashing import FileHashes
from ..files.paths import is_file
from ..files.safetensors import as_floats, map_tensor, read_header
from ..files.safetensors_writer import SafetensorsWriter, TensorSpec, new_safetensors
from ..profiles.backends import load_backend, svd_weights_reader
from .progress import Progress
from .stages import Subject

_STORED = {"float32": "F32", "float64": "F64"}


class ComponentSource(Protocol):
    """Where a reference has its components from, and how reports call that."""

    @property
    def name(self) -> str:
        """Of the program or the file."""

    @property
    def version(self) -> str:
        """Its version, or its hash."""

    def components(self, subject: Subject, dtype: np.dtype[np.floating]) -> Components:
        """U, S and V of the subject's source, as far as possible in ``dtype``.

        Raises:
            BaseInvalid: the source holds NaN or infinity.
            ParitySetupError: there are none for this subject, or they lie otherwise than ``V`` as columns.
        """


@dataclass(frozen=True)
class Decomposer:
    """A thin decomposition of a whole float32 or float64 matrix, and the name by which reports call it."""

    name: str
    version: str
    decompose: Callable[[np.ndarray], Components]

    def components(self, subject: Subject, dtype: np.dtype[np.floating]) -> Components:
        """See ``ComponentSource``."""
        return self.decompose(_whole(subject, dtype))


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
    folder: Path, subjects: Sequence[Subject], dtype: str, source: ComponentSource, progress: Progress
) -> int:
    """Write the components of every subject in ``dtype`` (``float32`` or ``float64``); those of a shared source once.

    Where ``source`` decomposes, a whole matrix, its factors and what that needs are held at a time. What was written is
    read back and compared; gives how many blocks that were.

    Raises:
        BaseInvalid: a source holds NaN or infinity.
        ParitySetupError: ``source`` has no components of a subject, or they are of no use.
        FolderUnavailable: ``folder`` cannot be written to.
    """
    sharing: dict[TensorLocation, list[Subject]] = {}
    for subject in subjects:
        sharing.setdefault(subject.source, []).append(subject)
    specs = [spec for subject in subjects for spec in _specs(subject, _STORED[dtype])]
    with new_safetensors(folder / COMPONENTS, specs) as file:
        for shared in sharing.values():
            progress.begin(f"components of {shared[0].name}", None)
            components = source.components(shared[0], np.dtype(dtype))
            for subject in shared:
                _write(file, subject.name, components)
    return file.blocks_read_back


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
        self.path = folder / COMPONENTS
        if not is_file(self.path):
            raise ParitySetupError(f"{folder} has no {COMPONENTS}: a reference makes it")
        self._tensors = read_header(self.path)

    def get(self, subject: Subject) -> Components:
        """U, S and V of the subject's source, of one number type; U and V are read as they are needed.

        Raises:
            ParitySetupError: one is missing, or has another shape or number type.
        """
        u, s, v = (map_tensor(self._locate(subject, part)) for part in "USV")
        if not u.dtype == s.dtype == v.dtype:
            raise ParitySetupError(f"{self.path}: U, S and V of {subject.name} must have one number type")
        return with_v_as_columns(Components(u, np.array(s), v), subject, str(self.path))

    def _locate(self, subject: Subject, part: str) -> TensorLocation:
        key = component_key(part, subject.name)
        tensor = self._tensors.get(key)
        if tensor is None:
            raise ParitySetupError(f"{self.path} has no {key}: make the reference of this tensor, or of all")
        if tensor.dtype not in _STORED.values():
            raise ParitySetupError(f"{self.path}: {key} is {tensor.dtype}, and F32 or F64 is needed")
        return tensor


class SavedComponents:
    """The decompositions in an ``svd_weights.pt``, memory-mapped: a ``ComponentSource`` that computes nothing.

    Raises:
        EnvironmentUnavailable: torch is not installed.
        TensorFileInvalid: the file cannot be read, or needs more than weights.
    """

    name = "svd_weights.pt"

    def __init__(self, file: Path) -> None:
        self._file = file
        self._weights = svd_weights_reader().read_svd_weights(file)
        self.version = FileHashes().sha256(file)

    def components(self, subject: Subject, dtype: np.dtype[np.floating]) -> Components:
        """See ``ComponentSource``."""
        parts = [self._weights.get(f"{subject.name}.{part}") for part in "USV"]
        u, s, v = parts
        if u is None or s is None or v is None:
            raise ParitySetupError(f"{self._file} has no U, S and V of {subject.name}: leave the tensor out")
        return with_v_as_columns(Components(u, s, v), subject, str(self._file))


def with_v_as_columns(given: Components, subject: Subject, origin: str) -> Components:
    """``given``, if its ``V`` holds vectors as columns (``torch_v``), not as rows (``vh`` or ``nx``, which are one).

    Raises:
        ParitySetupError: it lies as ``vh``, or shapes are not those of a thin decomposition of the subject.
    """
    if v_layout(given, subject, origin) != "torch_v":
        rank, columns = min(subject.shape), subject.shape[1]
        raise ParitySetupError(
            f"{origin}: V of {subject.name} is vh, which is called nx too: vectors as rows [{rank}, {columns}], as "
            f"numpy and Nx give it; torch_v, vectors as columns [{columns}, {rank}], is needed: transpose it"
        )
    return given


def v_layout(given: Components, subject: Subject, origin: str) -> Literal["torch_v", "vh"]:
    """How ``V`` lies: ``torch_v`` [columns, k], or ``vh`` [k, columns], which is ``nx`` under another name.

    A square ``V`` tells only by what the product gives: whichever is nearer to the source's first rows.

    Raises:
        ParitySetupError: shapes are not those of a thin decomposition of the subject.
    """
    (rows, columns), rank = subject.shape, min(subject.shape)
    shapes = given.u.shape, given.s.shape, given.v.shape
    as_columns, as_rows = (((rows, rank), (rank,), v) for v in ((columns, rank), (rank, columns)))
    if shapes not in (as_columns, as_rows):
        raise ParitySetupError(
            f"{origin}: U, S and V of {subject.name} are {shapes}, of {[rows, columns]} not thin ones"
        )
    is_vh = _is_vh(given, subject) if as_columns == as_rows else shapes == as_rows
    return "vh" if is_vh else "torch_v"


def _is_vh(given: Components, subject: Subject) -> bool:
    rows = slice(0, min(64, subject.shape[0]))
    source = as_floats(map_tensor(subject.source)[rows]).astype(np.float64)
    scaled = given.u[rows].astype(np.float64) * given.s
    as_torch, as_vh = (np.abs(scaled @ each - source).max() for each in (given.v.T, given.v))
    return bool(as_vh < as_torch / 10)


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
    return [TensorSpec(component_key(part, subject.name), dtype, shape) for part, shape in shapes.items()]


def _write(file: SafetensorsWriter, name: str, components: Components) -> None:
    file.write_block(component_key("S", name), components.s)
    for part, vectors in (("U", components.u), ("V", components.v)):
        for block in blocks(vectors.shape):
            file.write_block(component_key(part, name), vectors[block], block)


def _numpy_svd(matrix: np.ndarray) -> Components:
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    return Components(u, s, vh.T)

"""What an export would cost, told before any work: arithmetic, memory, and whether it fits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..contracts.errors import FolderUnavailable, NotEnoughMemory
from ..factorization.host import factorizer_of
from ..factorization.tiles import TILE_ELEMENTS
from ..files.safetensors import ITEM_BYTES
from ..files.safetensors_writer import TensorSpec
from ..profiles.memory import available_bytes, available_on, in_bytes
from .request import ExportRequest, Method, Write
from .targets import Target, Work, work_for


@dataclass(frozen=True)
class Flops:
    """Floating-point operations for one tensor, by step."""

    decompose: int
    """0 where another name's is reused.

    ``m n^2`` for a symmetric Gram sum and ``9 n^3`` for its eigenpairs; ``6 m n^2 + 20 n^3`` for a thin decomposition
    and ``4 m^2 n + 22 n^3`` for a full one (Golub and Van Loan, R-SVD).
    """
    factor: int
    """``2 n^3``."""
    apply: int
    """``2 m n^2`` where adapted tensors are written."""

    @property
    def total(self) -> int:
        """All steps together."""
        return self.decompose + self.factor + self.apply


@dataclass(frozen=True)
class PeakBytes:
    """Memory that each way to decompose one tensor takes at its peak, beyond the memory-mapped source."""

    gram: int
    thin: int
    full: int


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of an export. ``shares`` names an earlier tensor with the same source, which is decomposed once."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    method: Method
    shares: str | None
    flops: Flops
    peak: PeakBytes
    needed_bytes: int
    output_bytes: int
    fits: bool


@dataclass(frozen=True)
class ExportPlan:
    """The whole export, and what this machine has."""

    tensors: tuple[TensorPlan, ...]
    write: Write
    available_bytes: int
    output_bytes: int
    free_disk_bytes: int

    @property
    def flops(self) -> int:
        """Floating-point operations of all tensors."""
        return sum(tensor.flops.total for tensor in self.tensors)

    def check(self, out: Path) -> None:
        """Make sure that it can be carried out here.

        Raises:
            NotEnoughMemory: a tensor's method needs more memory than there is.
            FolderUnavailable: the output does not fit the disk.
        """
        for tensor in self.tensors:
            if not tensor.fits:
                raise NotEnoughMemory(
                    f"method {tensor.method} needs {in_bytes(tensor.needed_bytes)} for {tensor.name} "
                    f"{list(tensor.shape)}, and {in_bytes(self.available_bytes)} are available; "
                    f"{_remedy(tensor)}"
                )
        if self.output_bytes > self.free_disk_bytes:
            raise FolderUnavailable(
                f"{out} has {in_bytes(self.free_disk_bytes)} free, and the adapter takes {in_bytes(self.output_bytes)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"flops": self.flops}


def settled(request: ExportRequest) -> ExportRequest:
    """``request`` with the method that runs: the Gram path instead of a full decomposition, unless it is ``strict``.

    A full decomposition holds [larger, larger] for the larger side's vectors, which no export needs.
    """
    if request.method is Method.GRAM or request.strict or factorizer_of(request.backend, request.device).thin_svd:
        return request
    return replace(request, method=Method.GRAM)


def plan_export(request: ExportRequest) -> ExportPlan:
    """What ``request`` would cost as ``settled``. Reads the vector and headers, writes nothing.

    Raises:
        TrinityError: the request does not add up (see ``targets.work_for``).
    """
    return plan_work(settled(request), work_for(request))


def plan_work(request: ExportRequest, work: Work, available: int | None = None) -> ExportPlan:
    """What ``work`` costs under ``request``'s method and way of writing, with ``available`` bytes or what is free."""
    if available is None:  # decompositions run on the device, and their last steps on the host
        available = min(available_bytes(), available_on(request.backend, request.device))
    thin = factorizer_of(request.backend, request.device).thin_svd
    tensors = tuple(_plan_tensors(request, work, available, thin))
    output = work.head.nbytes + sum(tensor.output_bytes for tensor in tensors)
    return ExportPlan(tensors, request.write, available, output, _free_disk(request.out))


def output_specs(work: Work, write: Write) -> list[TensorSpec]:
    """The tensors of the adapter's file."""
    return [_output_spec(target, write) for target in work.targets]


def peak_bytes(shape: tuple[int, ...], dtype: str) -> PeakBytes:
    """Estimates: tiles and square arrays for the Gram path; source, its copy, vectors and work space for the others."""
    m, n = max(shape), min(shape)
    tile = min(TILE_ELEMENTS, m * n)
    return PeakBytes(
        gram=tile * (16 + ITEM_BYTES[dtype]) + 8 * 7 * n**2,
        thin=4 * (4 * m * n + 4 * n**2),
        full=4 * (m**2 + 3 * m * n + 4 * n**2),
    )


def _plan_tensors(request: ExportRequest, work: Work, available: int, thin: bool) -> Iterator[TensorPlan]:
    first: dict[object, str] = {}
    for target in work.targets:
        shares = first.get(target.source)
        first.setdefault(target.source, target.name)
        peak = peak_bytes(target.source.shape, target.source.dtype)
        svd = peak.thin if thin else peak.full
        needed = peak.gram if request.method is Method.GRAM or shares else svd
        yield TensorPlan(
            name=target.name,
            shape=target.source.shape,
            dtype=target.source.dtype,
            method=request.method,
            shares=shares,
            flops=_flops(target, request, thin, shares is not None),
            peak=peak,
            needed_bytes=needed,
            output_bytes=_output_spec(target, request.write).nbytes,
            fits=needed <= available,
        )


def _flops(target: Target, request: ExportRequest, thin: bool, shared: bool) -> Flops:
    m, n = max(target.source.shape), target.side
    decompose = {
        Method.GRAM: m * n**2 + 9 * n**3,
        Method.SVD: 6 * m * n**2 + 20 * n**3 if thin else 4 * m**2 * n + 22 * n**3,
    }[request.method]
    return Flops(0 if shared else decompose, 2 * n**3, 2 * m * n**2 if request.write is Write.MERGED else 0)


def _output_spec(target: Target, write: Write) -> TensorSpec:
    if write is Write.MERGED:
        return TensorSpec(target.name, target.source.dtype, target.source.shape)
    return TensorSpec(target.name, "F32", (target.side, target.side))


def _remedy(tensor: TensorPlan) -> str:
    if tensor.method is Method.GRAM:
        return "free some, or use a larger machine"
    return f"the method gram needs {in_bytes(tensor.peak.gram)}"


def _free_disk(out: Path) -> int:
    """Bytes free where ``out`` lies or will lie."""
    return shutil.disk_usage(next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())).free

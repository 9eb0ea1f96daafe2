"""The export itself: inputs checked first, tensors one at a time, each finished one kept, the manifest last."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..artifacts.bundle import ADAPTER_FILE, HEAD_FILE, HEAD_TENSOR, BundleDraft, open_bundle, seal_bundle
from ..artifacts.manifest import MANIFEST_NAME
from ..artifacts.vector import offset_entries
from ..contracts.artifact import Bundle
from ..contracts.backend import Tick
from ..contracts.errors import FolderUnavailable, TensorFileInvalid, UsageError, VectorInvalid
from ..factorization.gram import Spectrum, spectrum_of
from ..factorization.host import factorizer_of
from ..factorization.svf import change_of, gains
from ..files.safetensors import ITEM_BYTES
from ..files.safetensors_writer import write_float32
from .card import card
from .event_log import EventLog
from .plan import ExportPlan, output_specs, plan_work, settled
from .request import ExportRequest, Method, Progress, Write
from .targets import Target, Work, work_for
from .workspace import CARD_NAME, Workspace, claim, differences, is_finished, refuse_differences, tidy


def export(request: ExportRequest, progress: Progress | None = None) -> Bundle:
    """Make the bundle that ``request`` describes in its output folder, and open it.

    The same request gives the same bytes, however often it is broken off and resumed.

    Args:
        request: what to export; with ``resume`` a finished bundle of the same request is verified and given back.
        progress: called with each event, and with ``tile`` events that count ``flops`` of work just done.

    Raises:
        UsageError: the request does not fit its base, or ``resume`` and ``force`` are both set.
        OutputExists, ResumeRefused: the output folder holds something else (see ``workspace.claim``).
        NotEnoughMemory, FolderUnavailable: this machine lacks memory or disk, or the folder cannot be written.
        VectorInvalid, BundleInvalid: the vector is malformed or does not add up.
        TensorFileInvalid: a source tensor is missing, malformed or not finite.
    """
    if request.resume and request.force:
        raise UsageError("to resume goes on with what is there, and to force replaces it: choose one of them")
    asked, request = request.method, settled(request)
    work = work_for(request)
    draft = _draft(request, work, asked)
    with folder_errors(request.out):
        if request.resume and is_finished(request.out):
            return _finished(request.out, draft)
        plan = plan_work(request, work)
        plan.check(request.out)
        specs = output_specs(work, request.write)
        with claim(request.out, draft.describe(), specs, resume=request.resume, force=request.force) as workspace:
            return _Run(request, work, workspace, EventLog(request.out, progress), plan).carry_out(draft)


class _Run:
    """One export under way."""

    def __init__(
        self, request: ExportRequest, work: Work, workspace: Workspace, log: EventLog, plan: ExportPlan
    ) -> None:
        self._request = request
        self._work = work
        self._workspace = workspace
        self._log = log
        self._plan = plan
        self._factorizer = factorizer_of(request.backend, request.device)
        self._spectra: dict[object, Spectrum] = {}

    def carry_out(self, draft: BundleDraft) -> Bundle:
        """Every tensor, then the head, the card and the manifest."""
        names = [target.name for target in self._work.targets]
        self._log("export_started", name=draft.name, tensors=names, flops=self._plan.flops, made=draft.made)
        try:
            for index, target in enumerate(self._work.targets):
                self._export_tensor(index, target)
            bundle = self._seal(draft)
        except BaseException as error:
            self._log("export_failed", error=f"{type(error).__name__}: {error}")
            raise
        self._log("export_finished", adapter_ref=bundle.adapter.ref)
        self._workspace.close()
        return bundle

    def _export_tensor(self, index: int, target: Target) -> None:
        about = {"tensor": target.name, "index": index, "flops": self._plan.tensors[index].flops.total}
        if target.name in self._workspace.finished:
            self._log("tensor_reused", **about)
            return
        self._log("tensor_started", **about)
        started = time.perf_counter()
        spectrum = self._spectrum(target, self._work.targets[index + 1 :])
        decomposed = time.perf_counter()
        sha256 = self._workspace.adapter.write(target.name, self._values(target, spectrum))
        written = time.perf_counter()
        self._workspace.record(target.name, sha256)
        seconds = {"decompose_s": round(decomposed - started, 4), "write_s": round(written - decomposed, 4)}
        self._log("tensor_finished", **about, **seconds, sha256=sha256)

    def _spectrum(self, target: Target, later: tuple[Target, ...]) -> Spectrum:
        """The target's singular values and vectors, kept as long as a later target shares its source."""
        spectrum = self._spectra.pop(target.source, None) or self._decompose(target)
        if any(each.source == target.source for each in later):
            self._spectra[target.source] = spectrum
        return spectrum

    def _decompose(self, target: Target) -> Spectrum:
        with _blaming(TensorFileInvalid, f"{target.source.path}: tensor {target.source.name!r}"):
            if self._request.method is Method.SVD:
                return Spectrum(*self._factorizer.svd(target.source))
            tick = self._ticking(target.side)
            return spectrum_of(self._factorizer.gram(target.source, tick))

    def _values(self, target: Target, spectrum: Spectrum) -> Iterator[memoryview]:
        """The bytes that the adapter's file holds for ``target``."""
        with _blaming(VectorInvalid, f"{self._request.vector}: the offsets of {target.name}"):
            change = change_of(spectrum, gains(spectrum.singular, *target.offsets))
        if self._request.write is Write.FACTORED:
            factor = (np.eye(target.side) + change).astype("<f4")
            yield factor.data.cast("B")
            return
        tick, stored = self._ticking(2 * target.side), ITEM_BYTES[target.source.dtype]
        with _blaming(
            VectorInvalid, f"{self._request.vector}: {target.name} cannot be written merged (factored it can)"
        ):
            for tile in self._factorizer.adapted_tiles(target.source, target.execution, change):
                yield tile
                tick(len(tile) // stored)

    def _ticking(self, flops_each: int) -> Tick:
        return lambda entries: self._log("tile", flops=entries * flops_each)

    def _seal(self, draft: BundleDraft) -> Bundle:
        write_float32(self._workspace.stage(HEAD_FILE), {HEAD_TENSOR: self._work.head})
        text = card(self._request, self._work, draft)
        self._workspace.stage(CARD_NAME).write_text(text, encoding="utf-8")
        return self._workspace.publish(lambda folder: seal_bundle(folder, draft))


def _draft(request: ExportRequest, work: Work, asked: Method) -> BundleDraft:
    """The manifest's content as far as it is known beforehand: all that the result depends on."""
    return BundleDraft(
        name=work.name,
        base_id=request.base_id,
        base_ref=request.base.ref,
        base_revision=request.base_revision,
        agents=work.agents,
        executions=work.executions(request.write),
        text_format=request.text_format,
        tied_embedding=str(request.tied_embedding),
        made=_made(request, work, asked),
        lineage={"base": request.base.ref, "vector": work.vector_sha256},
        vector=offset_entries(work.shapes),
        files=(ADAPTER_FILE, HEAD_FILE, CARD_NAME),
    )


def _made(request: ExportRequest, work: Work, asked: Method) -> dict[str, str]:
    info = request.backend.info()
    steps = factorizer_of(request.backend, request.device).computes
    used = [str(request.method), *(["adapted"] if request.write is Write.MERGED else [])]
    only = {} if request.only is None else {"only": ",".join(target.name for target in work.targets)}
    return {
        "command": "trinity-mlx export",
        "method": str(request.method),
        **({} if asked is request.method else {"method asked for": f"{asked}, which is a full decomposition there"}),
        "write": str(request.write),
        **only,
        "backend": info.backend_id,
        "device": request.device,
        **{f"{step} computed by": steps[step] for step in used},
        "trinity-mlx": version("trinity-mlx"),
        "numpy": np.__version__,
        **info.versions,
    }


def _finished(out: Path, draft: BundleDraft) -> Bundle:
    """The sealed bundle in ``out``, verified, if it is what ``draft`` describes."""
    bundle = open_bundle(out)
    manifest = json.loads((out / MANIFEST_NAME).read_bytes())
    described = draft.describe()
    changed = differences({key: manifest.get(key) for key in described}, described)
    refuse_differences(out, "a finished bundle", changed)
    tidy(out)
    return bundle


@contextmanager
def folder_errors(out: Path) -> Iterator[None]:
    """Trouble with the disk in words: ``FolderUnavailable``."""
    try:
        yield
    except OSError as error:
        raise FolderUnavailable(
            f"{error.filename or out}: {error.strerror or error}; mend it, then resume the export"
        ) from error


@contextmanager
def _blaming(kind: type[TensorFileInvalid | VectorInvalid], what: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise kind(f"{what}: {error}") from None

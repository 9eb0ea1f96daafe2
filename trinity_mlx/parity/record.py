"""From a base and a trained vector to a stage bundle: by the reference, or by this system."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..artifacts.component_files import MANIFEST
from ..artifacts.vector import LM_HEAD, adapted_shapes, split_vector
from ..contracts.artifact import Base, TensorLocation
from ..contracts.backend import Backend, MatrixProducts
from ..contracts.errors import ParitySetupError, ProfileUnavailable
from ..factorization.adapted import EMBEDDING
from ..factorization.host import factorizer_of
from ..factorization.stages import Stage, relative_gap
from ..files.hashing import FileHashes
from ..files.safetensors import read_header, require
from ..files.safetensors_writer import SafetensorsWriter, new_safetensors
from .component_export import write_component_export
from .components import ComponentSource, ComponentStore, reference_decomposer, write_components
from .foreign_reports import sources_file
from .makers import Engine, GivenComponents, Made, Origin, OwnGram
from .progress import SILENCE, Progress
from .provenance import PUBLISHED, PUBLISHED_TENSOR, RULE, bytes_sha256, is_reproduced, published_sha256
from .report import begin_report, write_report
from .stages import STAGES_FILE, Layout, Subject, stored_source, write_stages


@dataclass(frozen=True)
class Task:
    """What to prove: the subjects of one base and one trained vector. ``is_single`` bundles hold one tensor."""

    base_ref: str
    vector_sha256: str
    subjects: tuple[Subject, ...]
    head: np.ndarray
    """The vector's [slots + 3, hidden]."""
    is_single: bool
    source_stages_sha256: str | None = None
    """Of the stages file that sources come from; None where they come from the base."""


def plan(
    base: Base,
    vector: np.ndarray,
    vector_sha256: str,
    tensor: str | None = None,
    source: str | None = None,
    source_stages: Path | None = None,
) -> Task:
    """The task for every tensor that ``vector`` adapts, for those whose names hold ``source``, or for ``tensor`` alone.

    ``source`` is a regular expression; a bundle of what it matches names its stages as one of all tensors does. Sources
    are the ``source_f32`` of the file ``source_stages`` where that is given (or of the one that a report of another
    system names), and else the base's.

    Raises:
        ParitySetupError: the base has a single layer, the vector does not adapt ``tensor``, or nothing that ``source``
            matches; ``source`` is no regular expression; or ``source_stages`` lacks a source.
        VectorInvalid: the vector's length does not add up.
        TensorFileInvalid: the base has no ``lm_head.weight`` of the right shape, and does not tie it to the embedding.
    """
    if base.config.num_layers < 2:
        raise ParitySetupError("a base of one layer has no second-to-last one, and that is what a vector adapts")
    shapes = adapted_shapes(base.config)
    trained = split_vector(vector, shapes, base.config.hidden_size)
    if tensor is not None and tensor not in shapes:
        raise ParitySetupError(f"the vector does not adapt {tensor!r}: choose one of {', '.join(shapes)}")
    names = _matching(list(shapes), source) if tensor is None else [tensor]
    is_single, digest, stored = tensor is not None, None, None
    if source_stages is not None:
        source_stages = sources_file(source_stages)
        digest, stored = FileHashes().sha256(source_stages), read_header(source_stages)

    def locate(name: str) -> TensorLocation:
        if stored is None or source_stages is None:
            return _source(base, name, shapes[name])
        return stored_source(stored, name, shapes[name], source_stages, is_single=is_single)

    subjects = (Subject(name, locate(name), trained.offsets[name].astype("<f4")) for name in names)
    return Task(base.ref, vector_sha256, tuple(subjects), trained.head, is_single, digest)


def _matching(names: list[str], source: str | None) -> list[str]:
    try:
        matches = [name for name in names if source is None or re.search(source, name)]
    except re.error as error:
        raise ParitySetupError(f"{source!r:.80} is no regular expression: {error}") from None
    if not matches:
        raise ParitySetupError(f"the vector adapts no tensor that {source!r:.80} matches: there are {', '.join(names)}")
    return matches


def decomposition_cost(task: Task) -> tuple[int, int]:
    """Floating-point operations of thin decompositions of all sources, and the bytes that the largest takes in float32.

    ``6 m n^2 + 20 n^3`` each (Golub and Van Loan, R-SVD), for an ``m x n`` source with ``m >= n``.
    """
    sources = {subject.source: (max(subject.shape), min(subject.shape)) for subject in task.subjects}
    flops = sum(6 * m * n**2 + 20 * n**3 for m, n in sources.values())
    return flops, max(4 * (4 * m * n + 4 * n**2) for m, n in sources.values())


def record_reference(
    task: Task,
    folder: Path,
    dtype: str = "float32",
    components: ComponentSource | None = None,
    progress: Progress = SILENCE,
) -> dict[str, Any]:
    """Write components, as an export that can be imported, and every stage, computed by numpy in ``dtype``.

    Gives the report.
    ``components`` are decomposed here in ``dtype`` unless they are given.

    Raises:
        BaseInvalid: a source holds NaN or infinity.
        ParitySetupError: the offsets leave nothing to normalise by, or given components are missing or of no use.
        FolderUnavailable: ``folder`` cannot be written to.
    """
    chosen = components or reference_decomposer()
    begin_report(folder, MANIFEST)
    read_back = write_components(folder, task.subjects, dtype, chosen, progress)
    write_component_export(folder, task.subjects, task.head, task.vector_sha256)
    engine = Engine("numpy", {"numpy": np.__version__}, "cpu", None, np.matmul)
    origin = GivenComponents(ComponentStore(folder), engine.product, f"{chosen.name} {chosen.version}")
    return _record(task, folder, "reference", engine, origin, dtype, progress, read_back)


def record_run(
    task: Task,
    folder: Path,
    backend: Backend,
    device: str,
    profile: str,
    components: Path | None = None,
    progress: Progress = SILENCE,
) -> dict[str, Any]:
    """Write every stage as this system computes it, from ``components`` or from its own Gram matrices.

    Raises:
        ProfileUnavailable: the backend offers no matrix products.
        ParitySetupError: components are missing or lie in ``folder``, or the offsets leave nothing to normalise by.
        BaseInvalid: a source holds NaN or infinity.
        FolderUnavailable: ``folder`` cannot be written to.
    """
    if components and components.resolve() == folder.resolve():
        raise ParitySetupError(f"{folder} holds the components to start from: give the run a folder of its own")
    info = backend.info()
    if not isinstance(backend, MatrixProducts):
        raise ProfileUnavailable(f"backend {info.backend_id!r} offers no matrix products, so its stages cannot be run")
    engine = Engine(info.backend_id, info.versions, device, profile, backend.matrix_product(device))
    origin: Origin = (
        GivenComponents(ComponentStore(components), engine.product)
        if components
        else OwnGram(factorizer_of(backend, device), engine.product)
    )
    begin_report(folder)
    return _record(task, folder, "run", engine, origin, "float32", progress)


def _record(
    task: Task,
    folder: Path,
    kind: str,
    engine: Engine,
    origin: Origin,
    dtype: str,
    progress: Progress,
    components_read_back: int | None = None,
) -> dict[str, Any]:
    layouts = [Layout(subject, task.is_single) for subject in task.subjects]
    specs = [spec for layout in layouts for spec in layout.specs()]
    with new_safetensors(folder / STAGES_FILE, specs) as file:
        tensors = [_record_tensor(file, layout, origin, progress) for layout in layouts]
    stored = read_header(folder / STAGES_FILE)
    published: dict[str, str] = {}
    for entry, layout in zip(tensors, layouts, strict=True):
        final, name = stored[layout.key(Stage.FINAL_BF16)], layout.subject.name
        published[name] = published_sha256(final, None if task.is_single else name)
        entry["final_bf16_sha256"] = bytes_sha256(final)
        entry["final_bf16_published"] = PUBLISHED.get(published[name])
    return write_report(
        folder,
        {
            "kind": kind,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "base_ref": task.base_ref,
            "vector_sha256": task.vector_sha256,
            "source_stages_sha256": task.source_stages_sha256,
            "components": origin.describe(),
            "reference_hash_reproducible": is_reproduced(kind, task.vector_sha256, published.get(PUBLISHED_TENSOR)),
            "reference_hash_rule": RULE,
            "read_back": {"components": components_read_back, "stages": file.blocks_read_back},
            "arithmetic": {
                "engine": engine.name,
                "versions": engine.versions,
                "device": engine.device,
                "profile": engine.profile,
                "dtype": dtype,
            },
            "tensors": tensors,
        },
    )


def _record_tensor(file: SafetensorsWriter, layout: Layout, origin: Origin, progress: Progress) -> dict[str, Any]:
    subject, started = layout.subject, time.perf_counter()
    made: Made = origin.make(subject, progress)
    progress.begin(f"stages of {subject.name}", subject.shape[0] * subject.shape[1])
    write_stages(file, layout, made.maker, progress.advance)
    return {
        "name": subject.name,
        "shape": list(subject.shape),
        "final_orientation": "transposed" if layout.transposed else "source",
        "smallest_gap": relative_gap(made.singular),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _source(base: Base, name: str, shape: tuple[int, int]) -> TensorLocation:
    """Where ``name`` lies; ``lm_head`` of a base that ties it and does not store it is the embedding."""
    is_tied = name == LM_HEAD and name not in base.tensors and base.config.tied_embeddings
    return require(base.tensors, EMBEDDING if is_tied else name, shape, base.folder)

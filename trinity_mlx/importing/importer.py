"""The import itself: read the source, write a bundle beside its place, and move it there when it is sealed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..artifacts.base import open_base
from ..artifacts.bundle import ADAPTER_FILE, HEAD_FILE, HEAD_TENSOR, BundleDraft, check_fit, seal_bundle
from ..artifacts.published import open_published, router_name
from ..contracts.access import Hub
from ..contracts.artifact import Base, Bundle, Execution
from ..contracts.errors import FolderUnavailable
from ..files.folders import put_in_place, scratch_beside
from ..files.hashing import FileHashes
from ..files.safetensors import read_float32
from ..files.safetensors_writer import write_safetensors
from .card import CARD_FILE, card
from .component_export import read_component_export
from .components import Fidelity, faithful_factor
from .content import Content
from .request import ImportRequest, SourceKind, check_out, recognise
from .svd_weights import read_svd_weights
from .tensors import NewTensor, copied_tensor, float32_tensor


@dataclass(frozen=True)
class ImportedTensor:
    """One adapted tensor of the new bundle; a copied one has nothing to be compared with."""

    source: str
    execution: Execution
    fidelity: Fidelity | None


@dataclass(frozen=True)
class ImportReport:
    """What was made: the bundle's folder, name and references, and each tensor."""

    folder: Path
    name: str
    kind: SourceKind
    base_ref: str
    adapter_ref: str
    tensors: tuple[ImportedTensor, ...]


def import_bundle(
    request: ImportRequest,
    progress: Callable[[str], None] = lambda tensor: None,
    hash_memory: Path | None = None,
    hub: Callable[[], Hub] = Hub,
) -> ImportReport:
    """Make a bundle of our own in ``request.out``; ``progress`` hears each tensor's name before it is worked on.

    Nothing is at ``out`` before the bundle is sealed. What was there with ``force`` stays until then, and gives
    way in one step where the system has one.

    Raises:
        UsageError: ``out`` exists and is not to be overwritten, or ``vector`` is missing or out of place.
        ArtifactNotFound: the source, or the base, is nothing that could be imported.
        BundleInvalid, TensorFileInvalid, BaseInvalid: a part is missing or broken.
        BaseMismatch: the components were not made from this base.
        EnvironmentUnavailable: torch is needed and missing.
        FolderUnavailable: the bundle cannot be written, or another process is importing to the same place.
    """
    kind = recognise(request)
    check_out(request)
    base = open_base(request.base, hashes=FileHashes(hash_memory), hub=hub)
    content = _read(kind, request, base)
    try:
        with scratch_beside(request.out) as scratch:
            bundle, tensors = _write(scratch / "bundle", request, kind, base, content, progress)
            put_in_place(scratch / "bundle", request.out)
    except OSError as error:
        raise FolderUnavailable(f"{request.out} cannot be written: {error.strerror or error}") from None
    return ImportReport(request.out, bundle.name, kind, base.ref, bundle.adapter.ref, tensors)


def _read(kind: SourceKind, request: ImportRequest, base: Base) -> Content:
    match kind:
        case SourceKind.COMPONENTS:
            return read_component_export(request.source, base)
        case SourceKind.SVD_WEIGHTS:
            assert request.vector is not None
            return read_svd_weights(request.source, request.vector, base)
        case SourceKind.PUBLISHED:
            return _read_published(request.source, base)


def _read_published(folder: Path, base: Base) -> Content:
    published = open_published(folder)
    bundle = published.bundle
    check_fit(bundle, base)
    head = read_float32(bundle.head.tensor)
    return Content(head, bundle.head.labels, published.lineage, bundle.base_id, ready=bundle.adapter.entries)


def _write(
    folder: Path,
    request: ImportRequest,
    kind: SourceKind,
    base: Base,
    content: Content,
    progress: Callable[[str], None],
) -> tuple[Bundle, tuple[ImportedTensor, ...]]:
    """Adapter, head, card and manifest of a new bundle in ``folder``."""
    folder.mkdir()
    new, tensors = _tensors(content, base, progress)
    base_id, revision = _base_name(request, content)
    draft = BundleDraft(
        name=router_name(content.lineage.get("vector"), request.out),
        base_id=base_id,
        base_revision=revision,
        base_ref=base.ref,
        agents=content.labels,
        executions={tensor.source: tensor.execution for tensor in tensors},
        made=_made(kind, tensors),
        lineage=content.lineage,
    )
    write_safetensors(folder / ADAPTER_FILE, new)
    write_safetensors(folder / HEAD_FILE, [float32_tensor(HEAD_TENSOR, content.head)])
    (folder / CARD_FILE).write_text(card(draft), encoding="utf-8")
    return seal_bundle(folder, draft), tensors


def _base_name(request: ImportRequest, content: Content) -> tuple[str, str | None]:
    """Repository and revision as they were given; for a folder what the source says of its base, else its name."""
    if request.base_folder:
        return content.base_id or request.base_folder.resolve().name, None
    name, _, revision = request.base.partition("@")
    return name, revision or None


def _tensors(
    content: Content, base: Base, progress: Callable[[str], None]
) -> tuple[list[NewTensor], tuple[ImportedTensor, ...]]:
    new, made = [], []
    for name, components in content.components.items():
        progress(name)
        factor, fidelity = faithful_factor(name, components, base.tensors[name])
        new.append(float32_tensor(name, factor.matrix))
        made.append(ImportedTensor(name, factor.execution, fidelity))
    for entry in content.ready:
        progress(entry.source)
        new.append(copied_tensor(entry))
        made.append(ImportedTensor(entry.source, entry.execution, None))
    return new, tuple(made)


def _made(kind: SourceKind, tensors: tuple[ImportedTensor, ...]) -> dict[str, str]:
    made = {
        "command": "trinity-mlx import",
        "method": f"imported {kind}",
        "left_out": "lm_head.weight, since no route reads it",
        "trinity-mlx": version("trinity-mlx"),
        "numpy": np.__version__,
    }
    compared = [tensor.fidelity for tensor in tensors if tensor.fidelity]
    if compared:
        made["zero_offset_error"] = f"{max(fidelity.zero for fidelity in compared):.1e}"
        made["adapted_error"] = f"{max(fidelity.adapted for fidelity in compared):.1e}"
    return made

"""Bundles: folders with a manifest, an adapter and a head; opened with every byte accounted for, written whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..contracts.artifact import (
    Adapter,
    AdapterEntry,
    Base,
    Bundle,
    Elu,
    Execution,
    Head,
    ReadPosition,
    TensorLocation,
)
from ..contracts.canonical import canonical_sha256
from ..contracts.errors import ArtifactError, ArtifactNotFound, BaseMismatch, BundleInvalid, TensorFileInvalid
from ..contracts.routing import Guard, Role, Window
from ..contracts.text_format import PartFormat, TextFormat
from ..factorization.adapted import EMBEDDING
from ..files import safetensors
from ..files.atomic import json_bytes, write_atomically
from ..files.hashing import FileHashes
from . import manifest as schema
from .vector import LM_HEAD

ADAPTER_FILE = "adapter.safetensors"
HEAD_FILE = "router_head.safetensors"
HEAD_TENSOR = "trinity_router_head"
ELU_TENSOR = "trinity_router_head_elu"
"""The first matrix of a low-rank head; ``HEAD_TENSOR`` is then the second."""
GUARD_FILE = "guard.safetensors"
GUARD_TENSOR = "trinity_guard_kinds"


def open_bundle(folder: Path, hashes: FileHashes | None = None) -> Bundle:
    """The bundle in ``folder``, after checking its manifest and the size and hash of every file that it names.

    ``hashes`` may remember hashes that were taken before.

    Raises:
        ArtifactNotFound: there is no such folder.
        BundleInvalid: the manifest is not valid, a file is missing or differs, or the parts do not fit together.
        TensorFileInvalid: a tensor file is malformed, or a tensor is missing or has another shape.
    """
    if not folder.is_dir():
        raise ArtifactNotFound(f"no artifact at {folder}: give a bundle's folder, or a name such as nano")
    manifest = schema.read_manifest(folder)
    _verify_files(folder, manifest, hashes or FileHashes())
    _verify_adapter_ref(folder, manifest)
    return Bundle(
        name=manifest.name,
        folder=folder,
        base_id=manifest.base.id,
        base_revision=manifest.base.revision,
        base_ref=manifest.base.ref,
        base_folder=folder / manifest.base.folder if manifest.base.folder else None,
        text_format=manifest.text_format,
        adapter=Adapter(manifest.adapter_ref, _adapter_entries(folder, manifest.adapter)),
        head=_head(folder, manifest),
        part_format=manifest.part_format,
        window=Window(**manifest.window.model_dump()) if manifest.window else None,
        guard=_guard(folder, manifest),
    )


@dataclass(frozen=True)
class BundleDraft:
    """What a new bundle's manifest says, beyond what is read off the files that already lie in its folder."""

    name: str
    base_id: str
    base_ref: str
    agents: Sequence[str]
    executions: Mapping[str, Execution]
    """Source tensor to how its change is applied; the adapter file holds the change under the source's name."""
    base_revision: str | None = None
    base_folder: str | None = None
    text_format: TextFormat = TextFormat.ROLE_LINES
    part_format: PartFormat = PartFormat.BRIEF
    tied_embedding: str = "embed_tokens"
    made: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, str] = field(default_factory=dict)
    vector: Sequence[Mapping[str, object]] = ()
    """Layout of the trained vector, in the form of ``manifest.OffsetsEntry``."""
    files: Sequence[str] | None = None
    """What belongs to the bundle; by default every file in its folder."""
    alpha: float | None = None
    """Of the ELU of a low-rank head, whose first matrix the head's file then holds as well."""
    read_position: ReadPosition = ReadPosition.SECOND_TO_LAST
    window: Window | None = None
    guard: Guard | None = None
    """With a limit on the distance, its kinds lie in ``GUARD_FILE``."""

    def describe(self) -> dict[str, object]:
        """What the manifest says before anything is known of the bundle's files."""
        newer = self._newer()
        return {
            "schema": schema.SCHEMA,
            "version": 2 if newer or self.guard or self.alpha is not None else 1,
            "name": self.name,
            "complete": True,
            "base": {
                "id": self.base_id,
                "revision": self.base_revision,
                "ref": self.base_ref,
                "folder": self.base_folder,
            },
            "text_format": str(self.text_format),
            "part_format": str(self.part_format),
            "tied_embedding": self.tied_embedding,
            "agents": list(self.agents),
            "made": dict(self.made),
            "lineage": dict(self.lineage),
            "vector": [dict(entry) for entry in self.vector],
            **newer,
        }

    def _newer(self) -> dict[str, object]:
        """Keys of version 2, where they say what is not usual."""
        usual = self.read_position is ReadPosition.SECOND_TO_LAST
        position = {} if usual else {"read_position": str(self.read_position)}
        return position | ({"window": asdict(self.window)} if self.window else {})


def seal_bundle(folder: Path, draft: BundleDraft) -> Bundle:
    """Write the manifest for the files in ``folder`` (adapter, head and what else belongs to them), and open it.

    The manifest is written last and at once, so a folder without one is a bundle that was never finished.

    Raises:
        TensorFileInvalid: the adapter or the head file is missing or malformed, or lacks a tensor.
        BundleInvalid: the parts do not fit together; no manifest is left then.
    """
    for stale in folder.glob(f".{schema.MANIFEST_NAME}.*"):
        stale.unlink()  # what a process left that was killed while it sealed
    adapter = safetensors.read_header(folder / ADAPTER_FILE)
    entries = [
        {"source": source, "execution": str(execution), "tensor": source, "shape": _shape(adapter, source, folder)}
        for source, execution in draft.executions.items()
    ]
    hashes = FileHashes()
    files = _file_entries(folder, draft.files, hashes)
    content = draft.describe() | {
        "adapter_ref": _adapter_ref(draft.base_ref, entries, _sha256_of(files, ADAPTER_FILE)),
        "adapter": {"file": ADAPTER_FILE, "entries": entries},
        "head": _head_entry(folder / HEAD_FILE, draft.alpha),
        **({"guard": _guard_entry(folder / GUARD_FILE, draft.guard)} if draft.guard else {}),
        "files": files,
    }
    write_atomically(folder / schema.MANIFEST_NAME, json_bytes(content))
    try:
        return open_bundle(folder, hashes)
    except ArtifactError:
        (folder / schema.MANIFEST_NAME).unlink()
        raise


def _head_entry(path: Path, alpha: float | None) -> dict[str, object]:
    tensors = safetensors.read_header(path)
    shape = list(safetensors.find(tensors, HEAD_TENSOR, path).shape)
    entry: dict[str, object] = {"file": HEAD_FILE, "tensor": HEAD_TENSOR, "shape": shape}
    if alpha is None:
        return entry
    elu = safetensors.find(tensors, ELU_TENSOR, path)
    return entry | {"elu": {"tensor": ELU_TENSOR, "shape": list(elu.shape), "alpha": alpha}}


def _guard_entry(path: Path, guard: Guard) -> dict[str, object]:
    entry: dict[str, object] = {**asdict(guard), "kinds": None}
    if guard.distance is None:
        return entry
    shape = list(safetensors.find(safetensors.read_header(path), GUARD_TENSOR, path).shape)
    return entry | {"kinds": {"file": GUARD_FILE, "tensor": GUARD_TENSOR, "shape": shape}}


def _shape(tensors: Mapping[str, TensorLocation], name: str, folder: Path) -> list[int]:
    return list(safetensors.find(tensors, name, folder / ADAPTER_FILE).shape)


def check_fit(bundle: Bundle, base: Base) -> None:
    """Make sure that ``bundle`` can be applied to ``base``, naming the plainest reason where it cannot.

    A bundle that does not record the content of its base is held against the shapes alone.

    Raises:
        TensorFileInvalid: the head or an adapter's tensor has a shape that this base does not take.
        BaseMismatch: all shapes fit, but the bundle was made for a base of other content.
    """
    hidden, rows = base.config.hidden_size, len(bundle.head.labels) + len(Role)
    head, elu = bundle.head.tensor, bundle.head.elu
    if elu is None:
        safetensors.require({head.name: head}, head.name, (rows, hidden), head.path)
    else:
        rank = elu.tensor.shape[0]
        safetensors.require({head.name: head}, head.name, (rows, rank), head.path)
        safetensors.require({elu.tensor.name: elu.tensor}, elu.tensor.name, (rank, hidden), elu.tensor.path)
    if kinds := bundle.head.kinds:
        safetensors.require({kinds.name: kinds}, kinds.name, (kinds.shape[0], hidden + 1), kinds.path)
    shapes = base.config.backbone_shapes()
    for entry in bundle.adapter.entries:
        needed = _change_shape(entry, shapes.get(entry.source, ()))
        safetensors.require({entry.source: entry.tensor}, entry.source, needed, entry.tensor.path)
    if bundle.base_ref is not None and bundle.base_ref != base.ref:
        raise BaseMismatch(
            f"artifact {bundle.name} was made for base {bundle.base_id} ({bundle.base_ref[:12]}...), and "
            f"{base.folder} is another one ({base.ref[:12]}...): name the right folder or revision"
        )


def _change_shape(entry: AdapterEntry, source: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that ``entry``'s tensor must have to change a matrix of shape ``source``."""
    if len(source) != 2 or (entry.source == EMBEDDING and entry.execution is Execution.LEFT):
        raise TensorFileInvalid(
            f"{entry.tensor.path}: {entry.source!r} cannot be adapted by a {entry.execution} factor in this base"
        )
    rows, columns = source
    shapes = {Execution.RIGHT: (columns, columns), Execution.LEFT: (rows, rows), Execution.REPLACE: source}
    return shapes[entry.execution][::-1] if entry.transposed else shapes[entry.execution]


def _adapter_ref(base_ref: str, entries: Sequence[Mapping[str, object]], adapter_sha256: str) -> str:
    """The adapter's content address: sha256 over its base, its entries and the hash of its file."""
    return canonical_sha256({"base": base_ref, "entries": list(entries), "sha256": adapter_sha256})


def _file_entries(folder: Path, names: Sequence[str] | None, hashes: FileHashes) -> list[dict[str, object]]:
    present = [path for path in folder.rglob("*") if path.is_file() and path.name != schema.MANIFEST_NAME]
    paths = sorted(present if names is None else [folder / name for name in names])
    return [
        {"path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "sha256": hashes.sha256(path)}
        for path in paths
    ]


def _sha256_of(files: Sequence[Mapping[str, object]], name: str) -> str:
    return next(str(entry["sha256"]) for entry in files if entry["path"] == name)


def _verify_files(folder: Path, manifest: schema.Manifest, hashes: FileHashes) -> None:
    paths = [entry.path for entry in manifest.files]
    if len(set(paths)) < len(paths):
        raise BundleInvalid(f"{folder}: the manifest lists a file twice")
    kinds = manifest.guard.kinds if manifest.guard else None
    for needed in (manifest.adapter.file, manifest.head.file, *([kinds.file] if kinds else [])):
        if needed not in paths:
            raise BundleInvalid(f"{folder}: the manifest gives no hash for {needed}")
    for entry in manifest.files:
        _verify_file(folder, entry, hashes)
    if manifest.base.folder:
        _require_inside(folder, folder / manifest.base.folder)


def _verify_file(folder: Path, entry: schema.FileEntry, hashes: FileHashes) -> None:
    path = folder / entry.path
    try:
        _require_inside(folder, path)
        if not path.is_file():
            raise BundleInvalid(f"{path} is missing, and the manifest names it")
        if path.stat().st_size != entry.size:
            raise BundleInvalid(f"{path} has {path.stat().st_size} bytes, and the manifest says {entry.size}")
        if hashes.sha256(path, entry.sha256) != entry.sha256:
            raise BundleInvalid(f"{path} has changed: its sha256 is not the manifest's {entry.sha256}")
    except OSError as error:
        raise BundleInvalid(f"{folder}: {entry.path[:80]} cannot be read: {error.strerror}") from None


def _require_inside(folder: Path, path: Path) -> None:
    try:
        leaves = not path.resolve().is_relative_to(folder.resolve())
    except RuntimeError:  # what pathlib raises for links that lead to each other
        leaves = True
    if leaves:
        raise BundleInvalid(f"{path} is a link that leaves the bundle's folder")


def _verify_adapter_ref(folder: Path, manifest: schema.Manifest) -> None:
    entries = [entry.model_dump(mode="json") for entry in manifest.adapter.entries]
    digest = _file_sha256(manifest, manifest.adapter.file)
    if manifest.adapter_ref != _adapter_ref(manifest.base.ref, entries, digest):
        raise BundleInvalid(f"{folder}: adapter_ref {manifest.adapter_ref} is not that of this base and adapter")


def _file_sha256(manifest: schema.Manifest, path: str) -> str:
    return next(entry.sha256 for entry in manifest.files if entry.path == path)


def _adapter_entries(folder: Path, section: schema.AdapterSection) -> tuple[AdapterEntry, ...]:
    path = folder / section.file
    tensors = safetensors.read_header(path)
    sources = [entry.source for entry in section.entries]
    if len(set(sources)) < len(sources):
        raise BundleInvalid(f"{folder}: the manifest adapts a tensor twice")
    located = [
        AdapterEntry(entry.source, entry.execution, safetensors.require(tensors, entry.tensor, entry.shape, path))
        for entry in section.entries
    ]
    return tuple(entry for entry in located if entry.source != LM_HEAD)


def _head(folder: Path, manifest: schema.Manifest) -> Head:
    section, path = manifest.head, folder / manifest.head.file
    tensors, rows = safetensors.read_header(path), section.shape[0]
    tensor = safetensors.require(tensors, section.tensor, section.shape, path)
    if rows != len(manifest.agents) + len(Role):
        raise BundleInvalid(
            f"{path}: a head of {rows} rows is for {rows - len(Role)} agents and {len(Role)} roles, "
            f"and the manifest labels {len(manifest.agents)} agents"
        )
    if section.elu and section.elu.shape[0] != section.shape[1]:
        raise BundleInvalid(
            f"{path}: the head's second matrix takes {section.shape[1]} numbers, and its first gives "
            f"{section.elu.shape[0]}"
        )
    elu = _elu(tensors, section.elu, path) if section.elu else None
    kinds = _kinds(folder, manifest.guard.kinds) if manifest.guard and manifest.guard.kinds else None
    return Head(_float32(tensor), manifest.agents, _head_ref(manifest), elu, manifest.read_position, kinds)


def _kinds(folder: Path, section: schema.KindsSection) -> TensorLocation:
    path = folder / section.file
    return _float32(safetensors.require(safetensors.read_header(path), section.tensor, section.shape, path))


def _guard(folder: Path, manifest: schema.Manifest) -> Guard | None:
    section = manifest.guard
    if section is None:
        return None
    if section.slot >= len(manifest.agents):
        raise BundleInvalid(f"{folder}: the guard names slot {section.slot}, and there are {len(manifest.agents)}")
    return Guard(section.slot, section.margin, section.distance)


def _elu(tensors: Mapping[str, TensorLocation], section: schema.EluSection, path: Path) -> Elu:
    return Elu(_float32(safetensors.require(tensors, section.tensor, section.shape, path)), section.alpha)


def _head_ref(manifest: schema.Manifest) -> str:
    """The hash of the head's file; of what the manifest adds as well, where that is not the usual."""
    digest, elu, position = _file_sha256(manifest, manifest.head.file), manifest.head.elu, manifest.read_position
    if elu is None and position is ReadPosition.SECOND_TO_LAST and manifest.guard is None:
        return digest
    before = elu and {"tensor": elu.tensor, "shape": list(elu.shape), "alpha": repr(elu.alpha)}
    guard = {"guard": _guard_words(manifest, manifest.guard)} if manifest.guard else {}
    return canonical_sha256({"elu": before, "read_position": str(position), "sha256": digest, **guard})


def _guard_words(manifest: schema.Manifest, guard: schema.GuardSection) -> dict[str, object]:
    kinds = guard.kinds and {"tensor": guard.kinds.tensor, "sha256": _file_sha256(manifest, guard.kinds.file)}
    return {"slot": guard.slot, "margin": repr(guard.margin), "distance": repr(guard.distance), "kinds": kinds}


def _float32(tensor: TensorLocation) -> TensorLocation:
    if tensor.dtype != "F32":
        raise TensorFileInvalid(f"{tensor.path}: the head is {tensor.dtype}, and routing heads are F32")
    return tensor

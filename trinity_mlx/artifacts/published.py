"""The published bundle (docs/method.md, section 6): ready tensors under another library's names.

The matrices of decoder blocks are stored [in, out], square ones too, so names decide about the orientation and shapes
never do; the embedding and ``lm_head`` lie as in the source. The manifest names its base without a hash of its content.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..contracts.artifact import Adapter, AdapterEntry, Bundle, Execution, Head, TensorLocation
from ..contracts.canonical import canonical_sha256
from ..contracts.errors import BundleInvalid, TensorFileInvalid
from ..contracts.routing import Role
from ..contracts.text_format import TextFormat
from ..factorization.adapted import EMBEDDING, LAYER_MATRICES
from ..files import safetensors
from ..files.hashing import FileHashes
from .manifest import MANIFEST_NAME
from .published_manifest import Placed, PublishedManifest, TensorEntry, read_published_manifest
from .vector import LM_HEAD

AGENTS = (
    "gpt-5",
    "claude-sonnet-4-20250514",
    "gemini-2.5-pro",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B",
    "google/gemma-3-27b-it",
    "Qwen/Qwen3-32B (reasoning)",
    "Qwen/Qwen3-32B (direct)",
)
"""Labels of the published router's slots, from its training."""

NAMED_BY_VECTOR = {
    "b9bf105b818cc32f3a25877b75adce1ec65e5201d524b929d217eb045a6ffa05": "sakana",
    "769f64ee4e01080ff67e64a677ed3ce5268da69cdf7a44810accb096ef64ab10": "sakana",
}
HEAD_KEY = "trinity_router_head"
"""What the layout calls the head's tensor."""

_WHOLE_MODEL = {
    "embedder.token_embedding.kernel": EMBEDDING,
    "language_modeling_head.output.kernel": LM_HEAD,
}
_BLOCK = re.compile(r"decoder\.blocks\.(0|[1-9]\d{0,5})\.(\w+\.\w+)\.kernel", re.ASCII)
_SOURCE_BLOCK = re.compile(r"model\.layers\.(0|[1-9]\d{0,5})\.", re.ASCII)
_BLOCK_MATRICES = {
    "self_attention.query": "q_proj",
    "self_attention.key": "k_proj",
    "self_attention.value": "v_proj",
    "self_attention.output": "o_proj",
    "ffn.gate": "gate_proj",
    "ffn.intermediate": "up_proj",
    "ffn.output": "down_proj",
}


@dataclass(frozen=True)
class PublishedBundle:
    """A published bundle as every bundle is used, and the hashes of what it consists of."""

    bundle: Bundle
    lineage: Mapping[str, str]
    """sha256 by what it is the hash of: ``manifest``, ``vector``, ``router_head``, and each source tensor's file."""


def open_published(folder: Path, hashes: FileHashes | None = None) -> PublishedBundle:
    """The published bundle in ``folder``, after checking its manifest and the hash of every file that it names.

    Raises:
        BundleInvalid: the manifest is not valid, a file is missing or differs, or the parts do not fit together.
        TensorFileInvalid: a tensor file is malformed, or a tensor is missing, or has another shape or number type.
    """
    manifest = read_published_manifest(folder)
    hashes = hashes or FileHashes()
    head = _verified(folder, manifest.router_head_artifact, manifest.router_head_sha256, hashes)
    placed = manifest.placed()
    paths = [_verified(folder, place.file, place.sha256, hashes) for place in placed]
    entries = _entries(folder, placed, paths)
    bundle = Bundle(
        name=router_name(manifest.source_vector_sha256, folder),
        folder=folder,
        base_id=manifest.base_model_repo,
        base_revision=None,
        base_ref=None,
        base_folder=None,
        text_format=TextFormat.ROLE_LINES,
        adapter=Adapter(
            _adapter_ref(manifest.base_model_repo, entries, placed),
            tuple(entry for entry in entries if entry.source != LM_HEAD),
        ),
        head=_head(head, manifest),
    )
    return PublishedBundle(bundle, _lineage(hashes.sha256(folder / MANIFEST_NAME), manifest, entries))


def source_tensor(path: str) -> tuple[str, bool] | None:
    """The source's name for the tensor ``path``, and whether it is stored [in, out]; None for an unknown name.

    >>> source_tensor("decoder.blocks.26.self_attention.key.kernel")
    ('model.layers.26.self_attn.k_proj.weight', True)
    """
    if path in _WHOLE_MODEL:
        return _WHOLE_MODEL[path], False
    match = _BLOCK.fullmatch(path)
    if match is None or match[2] not in _BLOCK_MATRICES:
        return None
    return f"model.layers.{match[1]}.{LAYER_MATRICES[_BLOCK_MATRICES[match[2]]]}", True


def target_tensor(source: str) -> tuple[str, bool] | None:
    """The way back: the layout's name for the tensor ``source``, and whether it is stored [in, out]; None for no name.

    >>> target_tensor("model.layers.26.self_attn.k_proj.weight")
    ('decoder.blocks.26.self_attention.key.kernel', True)
    """
    block = _SOURCE_BLOCK.match(source)
    names = [
        *(name for name, tensor in _WHOLE_MODEL.items() if tensor == source),
        *(f"decoder.blocks.{block[1]}.{name}.kernel" for name in _BLOCK_MATRICES if block),
    ]
    return next(((name, bool(block)) for name in names if source_tensor(name) == (source, bool(block))), None)


def agent_labels(rows: int) -> tuple[str, ...]:
    """Labels for a head of ``rows`` that has none: the published ones where it has as many slots, else numbers."""
    slots = rows - len(Role)
    return AGENTS if slots == len(AGENTS) else tuple(f"agent-{slot}" for slot in range(slots))


def router_name(vector_sha256: str | None, folder: Path) -> str:
    """``sakana`` for what was made from the published vector, else the folder's name."""
    return NAMED_BY_VECTOR.get(vector_sha256 or "", folder.resolve().name)


def _verified(folder: Path, name: str, sha256: str, hashes: FileHashes) -> Path:
    """The file ``name`` in ``folder``, if it lies there and has that hash."""
    path = folder / name
    try:
        real = path.resolve()
        inside = real.is_relative_to(folder.resolve())
        digest = hashes.sha256(real, sha256) if inside and real.is_file() else None
    except OSError as error:
        raise BundleInvalid(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RuntimeError) as error:  # a null byte in the name, a circle of links
        raise BundleInvalid(f"{str(path)!r} cannot be read: {error}") from None
    if not inside:
        raise BundleInvalid(f"{path} is a link that leaves the bundle's folder: put the file itself there")
    if digest is None:
        raise BundleInvalid(f"{path} is missing, and the manifest names it")
    if digest != sha256:
        raise BundleInvalid(f"{path} has changed: its sha256 is {digest}, and the manifest says {sha256}")
    return path


def _entries(folder: Path, placed: Sequence[Placed], paths: Sequence[Path]) -> list[AdapterEntry]:
    """The adapter's entries, after making sure that files and manifest list the same tensors, and each one once."""
    files = {path: safetensors.read_header(path) for path in paths}
    entries = [_entry(place.tensor, path, files[path]) for place, path in zip(placed, paths, strict=True)]
    if len({entry.source for entry in entries}) < len(entries):
        raise BundleInvalid(f"{folder}: the manifest adapts a tensor twice")
    listed = {(entry.tensor.path, entry.tensor.name) for entry in entries}
    for path, name in ((path, name) for path, tensors in files.items() for name in tensors):
        if (path, name) not in listed:
            raise BundleInvalid(f"{path} holds a tensor {name!r} that the manifest does not list")
    return entries


def _entry(tensor: TensorEntry, path: Path, tensors: Mapping[str, TensorLocation]) -> AdapterEntry:
    paired = source_tensor(tensor.path)
    if paired is None:
        raise BundleInvalid(f"{path}: no tensor of a Qwen3 base is called {tensor.path!r} in this layout")
    source, transposed = paired
    if tensor.source_name not in (None, source):
        raise BundleInvalid(f"{path}: {tensor.path!r} is {source}, and the manifest calls it {tensor.source_name!r}")
    location = safetensors.require(tensors, tensor.artifact_key, tensor.shape, path)
    if location.dtype != tensor.dtype:
        raise TensorFileInvalid(f"{path}: {tensor.path!r} is {location.dtype}, and the manifest says {tensor.dtype}")
    return AdapterEntry(source, Execution.REPLACE, location, transposed)


def _head(path: Path, manifest: PublishedManifest) -> Head:
    shape = manifest.router_head_shape
    tensor = safetensors.require(safetensors.read_header(path), manifest.router_head_tensor_key, shape, path)
    if tensor.dtype != "F32":
        raise TensorFileInvalid(f"{path}: the head is {tensor.dtype}, and routing heads are F32")
    return Head(tensor, agent_labels(shape[0]), manifest.router_head_sha256)


def _adapter_ref(base: str, entries: Sequence[AdapterEntry], placed: Sequence[Placed]) -> str:
    """The adapter's content address: sha256 over the base's name, the entries and the hash of each one's file."""
    listed = [
        {
            "source": entry.source,
            "execution": str(entry.execution),
            "tensor": entry.tensor.name,
            "shape": list(entry.tensor.shape),
            "transposed": entry.transposed,
            "sha256": place.sha256,
        }
        for entry, place in zip(entries, placed, strict=True)
    ]
    return canonical_sha256({"base": base, "entries": listed})


def _lineage(manifest_sha256: str, manifest: PublishedManifest, entries: Sequence[AdapterEntry]) -> dict[str, str]:
    files = {entry.source: place.sha256 for entry, place in zip(entries, manifest.placed(), strict=True)}
    whole = {"manifest": manifest_sha256, "vector": manifest.source_vector_sha256}
    return whole | {"router_head": manifest.router_head_sha256} | files

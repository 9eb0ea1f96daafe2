"""The component export of the Python tools: three safetensors files and a manifest in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AliasChoices, Field

from ..artifacts.component_files import COMPONENTS, HEAD, HEAD_TENSOR, MANIFEST, OFFSETS, component_key, offsets_key
from ..artifacts.manifest import Sha256
from ..artifacts.vector import LM_HEAD
from ..contracts.artifact import Base, TensorLocation
from ..contracts.errors import BundleInvalid, TensorFileInvalid
from ..files.hashing import FileHashes
from ..files.models import Faults, Lenient, read_model
from ..files.safetensors import map_tensor, read_header
from .components import OffsetComponents
from .content import Content, adaptable_shapes, checked_components, checked_head, checked_labels


class _Source(Lenient):
    model_name: Annotated[str, Field(min_length=1)] | None = None
    router_vector_sha256: Sha256 | None = None


class _Routing(Lenient):
    agent_labels: tuple[str, ...] = ()


class _Entry(Lenient):
    source_parameter: str
    python_v_layout: Annotated[
        Literal["torch_v", "vh", "nx"], Field(validation_alias=AliasChoices("python_v_layout", "v_layout"))
    ] = "torch_v"


class _Svf(Lenient):
    entries: Annotated[tuple[_Entry, ...], Field(min_length=1)]


class _Manifest(Lenient):
    format: Literal["trinity_sakana_safetensors_export"]
    version: Annotated[int, Field(ge=1, le=1)]
    source: _Source = _Source()
    routing: _Routing = _Routing()
    svf: _Svf


def read_component_export(folder: Path, base: Base) -> Content:
    """The export in ``folder``, with its arrays memory-mapped and their shapes held against ``base``.

    Raises:
        BundleInvalid: the manifest is not valid, or does not list what the files hold.
        TensorFileInvalid: a file is missing or malformed, or a tensor is missing or has another shape or number type.
    """
    manifest, _ = read_model(folder / MANIFEST, _Manifest, Faults(BundleInvalid, whole="manifest"), inner=True)
    head_file = folder / HEAD
    components = _components(folder, manifest, base)
    head = checked_head(_array(read_header(head_file), HEAD_TENSOR, head_file), base, head_file)
    return Content(
        head,
        checked_labels(manifest.routing.agent_labels, head, folder / MANIFEST),
        _lineage(folder, manifest),
        manifest.source.model_name,
        components=components,
    )


def _components(folder: Path, manifest: _Manifest, base: Base) -> dict[str, OffsetComponents]:
    shapes = adaptable_shapes(base)
    layouts = {entry.source_parameter: entry.python_v_layout for entry in manifest.svf.entries}
    names = [entry.source_parameter for entry in manifest.svf.entries]
    unknown = [name for name in names if name not in shapes]
    if unknown or len(set(names)) < len(names):
        what = f"{unknown[0]!r}, which this base does not have" if unknown else "a tensor twice"
        raise BundleInvalid(f"{folder / MANIFEST} lists {what}")
    factors, offsets = read_header(folder / COMPONENTS), read_header(folder / OFFSETS)
    _check_keys(folder / COMPONENTS, factors, {component_key(part, name) for name in names for part in "USV"})
    _check_keys(folder / OFFSETS, offsets, {offsets_key(name) for name in names})
    return {
        name: checked_components(
            _parts(folder, factors, offsets, name, layouts[name] == "torch_v"),
            shapes[name],
            f"{folder / COMPONENTS}: {name}",
        )
        for name in names
        if name != LM_HEAD
    }


def _parts(
    folder: Path,
    factors: Mapping[str, TensorLocation],
    offsets: Mapping[str, TensorLocation],
    name: str,
    in_columns: bool,
) -> dict[str, np.ndarray]:
    """U, S and offsets, and V with its vectors as columns, however it lies."""
    parts = {part: _array(factors, component_key(part, name), folder / COMPONENTS) for part in "USV"}
    if not in_columns:
        parts["V"] = parts["V"].T
    return parts | {"offsets": _array(offsets, offsets_key(name), folder / OFFSETS)}


def _check_keys(path: Path, tensors: Mapping[str, TensorLocation], listed: set[str]) -> None:
    for key in sorted(listed ^ tensors.keys()):
        what = "lacks tensor" if key in listed else "holds a tensor that the manifest does not list:"
        raise TensorFileInvalid(f"{path} {what} {key!r}")


def _array(tensors: Mapping[str, TensorLocation], name: str, path: Path) -> np.ndarray:
    """A tensor as a memory-mapped array."""
    tensor = tensors.get(name)
    if tensor is None or tensor.dtype not in ("F32", "F64") or not tensor.nbytes:
        what = "no such tensor" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
        raise TensorFileInvalid(f"{path}: {name!r} must be floats, F32 or F64, and is {what}")
    return map_tensor(tensor)


def _lineage(folder: Path, manifest: _Manifest) -> dict[str, str]:
    hashes = FileHashes()
    files = {"manifest": MANIFEST, "components": COMPONENTS, "scale_offsets": OFFSETS, "router_head": HEAD}
    digests = {what: hashes.sha256(folder / name) for what, name in files.items()}
    vector = manifest.source.router_vector_sha256
    return digests | ({"vector": vector} if vector else {})

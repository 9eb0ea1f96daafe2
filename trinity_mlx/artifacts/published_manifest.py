"""The manifest of a published bundle (docs/method.md, section 6): strict about what is used, and past the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field, RootModel

from ..contracts.errors import BundleInvalid
from ..contracts.routing import Role
from ..files.models import Faults, Lenient, read_model
from ..files.regular import read_regular
from .manifest import MANIFEST_NAME, InnerPath, Sha256

_DTYPES = {"bf16": "BF16", "{:bf, 16}": "BF16", "f16": "F16", "{:f, 16}": "F16", "f32": "F32", "{:f, 32}": "F32"}


def _number_type(spelling: str) -> str:
    """The safetensors name of a number type that the port spells in either of its two ways."""
    if spelling not in _DTYPES:
        raise ValueError(f"number type {spelling!r} is none of {', '.join(_DTYPES)}")
    return _DTYPES[spelling]


def _finished(export_complete: bool) -> bool:
    if not export_complete:
        raise ValueError("the export was never finished")
    return export_complete


_Count = Annotated[int, Field(ge=0)]
_Side = Annotated[int, Field(ge=1)]


class TensorEntry(Lenient):
    """One adapted tensor; ``shape`` and ``dtype`` are those of the stored tensor."""

    status: Literal["complete"]
    path: str
    artifact_key: str
    source_name: str | None = None
    shape: tuple[_Side, _Side]
    dtype: Annotated[str, AfterValidator(_number_type)] = Field(alias="type")
    offset_start: _Count
    offset_end: _Count
    singular_values: _Count


class CheckpointEntry(TensorEntry):
    """A tensor with a file of its own."""

    checkpoint_path: InnerPath
    checkpoint_sha256: Sha256


class Placed(NamedTuple):
    """A tensor, the file that holds it, and that file's hash."""

    tensor: TensorEntry
    file: str
    sha256: str


class _Manifest(Lenient):
    status: Literal["complete"]
    export_complete: Annotated[bool, AfterValidator(_finished)]
    artifact_version: Annotated[int, Field(ge=1, le=1)]
    base_model_repo: Annotated[str, Field(min_length=1)]
    router_head_artifact: InnerPath
    router_head_tensor_key: str
    router_head_shape: tuple[Annotated[int, Field(gt=len(Role))], _Side]
    router_head_sha256: Sha256
    selected_tensor_count: _Count
    selected_singular_value_count: _Count
    source_vector_sha256: Sha256


class CheckpointDirectory(_Manifest):
    """A manifest with one file for each tensor."""

    artifact_layout: Literal["checkpoint_directory"]
    selected_tensors: Annotated[tuple[CheckpointEntry, ...], Field(min_length=1)]

    def placed(self) -> list[Placed]:
        """Every tensor with its place, in order."""
        return [Placed(tensor, tensor.checkpoint_path, tensor.checkpoint_sha256) for tensor in self.selected_tensors]


class SingleFile(_Manifest):
    """A manifest with one file for all tensors."""

    artifact_layout: Literal["single_file"]
    adapted_tensors_artifact: InnerPath
    adapted_tensors_sha256: Sha256
    selected_tensors: Annotated[tuple[TensorEntry, ...], Field(min_length=1)]

    def placed(self) -> list[Placed]:
        """Every tensor with its place, in order."""
        file, sha256 = self.adapted_tensors_artifact, self.adapted_tensors_sha256
        return [Placed(tensor, file, sha256) for tensor in self.selected_tensors]


PublishedManifest = CheckpointDirectory | SingleFile
_FAULTS = Faults(BundleInvalid, whole="manifest", hidden=("checkpoint_directory", "single_file"))


class _Published(RootModel[Annotated[PublishedManifest, Field(discriminator="artifact_layout")]]):
    """Either layout."""


def is_published(folder: Path) -> bool:
    """Whether the manifest in ``folder`` is of the published kind; False where it cannot be read at all."""
    try:
        raw = json.loads(read_regular(folder / MANIFEST_NAME))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(raw, dict) and "artifact_version" in raw


def read_published_manifest(folder: Path) -> PublishedManifest:
    """The manifest of the published bundle in ``folder``.

    Raises:
        BundleInvalid: it is missing, not JSON, not complete or of another version; a key is missing or of the wrong
            kind; or the offsets do not add up.
    """
    path = folder / MANIFEST_NAME
    manifest = read_model(path, _Published, _FAULTS, inner=True)[0].root
    _check_offsets(path, manifest)
    return manifest


def _check_offsets(path: Path, manifest: PublishedManifest) -> None:
    """Each tensor takes the next ``min(shape)`` offsets of the vector, and the totals are as the manifest says."""
    position = 0
    for tensor in manifest.selected_tensors:
        count = min(tensor.shape)
        start, end, singular = tensor.offset_start, tensor.offset_end, tensor.singular_values
        if (start, end, singular) != (position, position + count, count):
            raise BundleInvalid(
                f"{path}: {tensor.path!r} {list(tensor.shape)} has offsets {start} to {end} for {singular} singular "
                f"values, and {position} to {position + count} for {count} would follow"
            )
        position = end
    said, listed = manifest.selected_tensor_count, len(manifest.selected_tensors)
    if (said, manifest.selected_singular_value_count) != (listed, position):
        raise BundleInvalid(
            f"{path} counts {said} tensors and {manifest.selected_singular_value_count} singular values, and lists "
            f"{listed} and {position}"
        )

"""The manifest of a bundle: its schema, read strictly and written canonically."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ..contracts.artifact import Execution, ReadPosition
from ..contracts.errors import BundleInvalid
from ..contracts.text_format import PartFormat, TextFormat
from ..files.models import Faults, Strict, read_model

MANIFEST_NAME = "manifest.json"
SCHEMA = "trinity-mlx.bundle"
VERSIONS = (1, 2)
"""Version 2 is written where a bundle says what version 1 has no word for, so that old releases refuse only those."""
NEWER = ("read_position", "window", "guard")
"""Keys that version 2 brought; they are left out where they say what is usual."""
FAULTS = Faults(BundleInvalid, whole="manifest")


def _inside(path: str) -> str:
    """A relative path with plain parts: it cannot leave the folder that it is joined to."""
    parts = PurePosixPath(path).parts
    if (
        not parts
        or "\0" in path
        or "\\" in path
        or path.startswith("/")
        or any(part in ("..", ".") for part in path.split("/"))
    ):
        raise ValueError(f"path {path!r} leaves the bundle's folder")
    return path


def _complete(value: bool) -> bool:
    if not value:
        raise ValueError("the bundle was never completed")
    return value


InnerPath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Shape = tuple[Annotated[int, Field(ge=1)], ...]


class BaseEntry(Strict):
    """Which base the adapter was made for; ``folder`` is set where the bundle carries it."""

    id: str
    revision: str | None
    ref: Sha256
    folder: InnerPath | None


class TensorEntry(Strict):
    """One adapted tensor: the source's name, how the change is applied, and the tensor that holds it."""

    source: str
    execution: Execution = Field(strict=False)
    tensor: str
    shape: Shape


class AdapterSection(Strict):
    """The adapter's file and its tensors."""

    file: InnerPath
    entries: tuple[TensorEntry, ...]


class EluSection(Strict):
    """What makes a head a low-rank one: its first matrix, [rank, hidden], in the head's file, and the ELU's alpha."""

    tensor: str
    shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    alpha: Annotated[float, Field(gt=0, le=1)]


class HeadSection(Strict):
    """The head's file, tensor name and shape: [slots + 3, hidden], or [slots + 3, rank] with ``elu``."""

    file: InnerPath
    tensor: str
    shape: tuple[Annotated[int, Field(ge=4)], Annotated[int, Field(ge=1)]]
    elu: EluSection | None = None


class WindowSection(Strict):
    """How long transcripts were read in training: the first and the last tokens (``contracts.routing.Window``)."""

    head: Annotated[int, Field(ge=0)]
    tail: Annotated[int, Field(ge=1)]
    step: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _reads_something(self) -> Self:
        if self.step > self.tail:
            raise ValueError(f"a step of {self.step} tokens does not fit a tail of {self.tail}")
        return self


class KindsSection(Strict):
    """What a guard knows of the prompts that were trained on: its file and tensor, [kinds, hidden + 1]."""

    file: InnerPath
    tensor: str
    shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=2)]]


class GuardSection(Strict):
    """When the router stands aside (``contracts.routing.Guard``): one limit at least."""

    slot: Annotated[int, Field(ge=0)]
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    distance: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    kinds: KindsSection | None

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.margin is None and self.distance is None:
            raise ValueError("a guard without a limit guards nothing")
        if (self.distance is None) != (self.kinds is None):
            raise ValueError("a guard's distance and its kinds belong together")
        return self


class OffsetsEntry(Strict):
    """The part of the trained vector that adapts one tensor: offsets ``[start, end)``, one a singular value."""

    source: str
    shape: Shape
    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=1)]


class FileEntry(Strict):
    """A file of the bundle with its size in bytes and its hash."""

    path: InnerPath
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Manifest(Strict):
    """Everything that a bundle says about itself. ``made`` and ``lineage`` are for people and for proofs.

    ``vector`` is the layout of the trained vector where an export made the bundle; the head follows the last offsets.
    """

    schema_name: Literal["trinity-mlx.bundle"] = Field(alias="schema")
    version: Literal[1, 2]
    name: Annotated[str, Field(min_length=1)]
    complete: Annotated[bool, AfterValidator(_complete)]
    base: BaseEntry
    text_format: TextFormat = Field(strict=False)
    part_format: PartFormat = Field(default=PartFormat.BRIEF, strict=False)
    tied_embedding: Literal["embed_tokens", "lm_head", "compound"]
    agents: Annotated[tuple[str, ...], Field(min_length=1)]
    adapter_ref: Sha256
    adapter: AdapterSection
    head: HeadSection
    files: tuple[FileEntry, ...]
    made: dict[str, str]
    lineage: dict[str, Sha256]
    vector: tuple[OffsetsEntry, ...] = ()
    read_position: ReadPosition = Field(default=ReadPosition.SECOND_TO_LAST, strict=False)
    window: WindowSection | None = None
    guard: GuardSection | None = None

    @model_validator(mode="after")
    def _is_of_its_version(self) -> Self:
        said = [*(["head.elu"] if self.head.elu else []), *(name for name in NEWER if name in self.model_fields_set)]
        if self.version == 1 and said:
            raise ValueError(f"{said[0]} is said by bundles of version 2, and this one is of version 1")
        return self


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in ``folder``.

    Raises:
        BundleInvalid: it is missing, not JSON, of another version, or a key is missing, unknown or of the wrong kind.
    """
    return read_model(folder / MANIFEST_NAME, Manifest, FAULTS, versions=VERSIONS, inner=True)[0]

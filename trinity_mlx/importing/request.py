"""What an import is asked to do, and whether it can be begun."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..artifacts.component_files import MANIFEST as COMPONENT_MANIFEST
from ..artifacts.manifest import MANIFEST_NAME
from ..artifacts.published_manifest import is_published
from ..contracts.errors import ArtifactNotFound, OutputExists, UsageError
from ..files.paths import existing_folder, exists, is_file


class SourceKind(StrEnum):
    """What can be imported."""

    COMPONENTS = "components"
    """A folder with the component export of the Python tools."""
    SVD_WEIGHTS = "svd-weights"
    """``svd_weights.pt`` and a vector."""
    PUBLISHED = "published"
    """A folder of the published layout."""


@dataclass(frozen=True)
class ImportRequest:
    """One import; ``base`` is a folder or ``OWNER/NAME[@REVISION]``, ``vector`` belongs to ``svd_weights.pt`` alone."""

    source: Path
    base: str
    out: Path
    vector: Path | None = None
    force: bool = False

    @property
    def base_folder(self) -> Path | None:
        """The base's folder, where it is one and not a repository's name."""
        return existing_folder(self.base)


def recognise(request: ImportRequest) -> SourceKind:
    """What ``request.source`` is, if the request makes sense for it.

    Raises:
        ArtifactNotFound: nothing that could be imported.
        UsageError: a vector is given where none is used, or none where one is needed.
    """
    kind = _kind(request.source)
    if kind is SourceKind.SVD_WEIGHTS and request.vector is None:
        raise UsageError(f"{request.source} holds components without offsets: give the trained vector too")
    if kind is not SourceKind.SVD_WEIGHTS and request.vector is not None:
        raise UsageError(f"{request.source} brings its own offsets: leave the vector out")
    return kind


def _kind(source: Path) -> SourceKind:
    if is_file(source) and source.suffix == ".pt":
        return SourceKind.SVD_WEIGHTS
    if is_file(source / COMPONENT_MANIFEST):
        return SourceKind.COMPONENTS
    if is_published(source):
        return SourceKind.PUBLISHED
    raise ArtifactNotFound(
        f"nothing to import at {source}: give a folder with {COMPONENT_MANIFEST}, a published bundle's folder, or "
        f"svd_weights.pt"
    )


def check_out(request: ImportRequest) -> None:
    """Make sure that a bundle may be put at ``request.out``.

    Raises:
        OutputExists: something is there, and nobody asked for it to be replaced.
        UsageError: something is there that is never replaced.
    """
    out = request.out
    if not exists(out):
        return
    if not request.force:
        raise OutputExists(f"{out} exists: choose another folder, or have it replaced")
    if not is_file(out / MANIFEST_NAME) and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} is no bundle, so it is not overwritten even by force")
    inputs = [path for path in (request.source, request.base_folder, request.vector) if path]
    if any(path.resolve().is_relative_to(out.resolve()) for path in inputs):
        raise UsageError(f"{out} holds what is to be imported: choose another folder")

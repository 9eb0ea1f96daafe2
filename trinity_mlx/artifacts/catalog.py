"""Artifacts by name or by folder."""

from __future__ import annotations

from pathlib import Path

from ..contracts.artifact import Bundle
from ..contracts.errors import ArtifactNotFound
from ..files.hashing import FileHashes
from ..files.paths import existing_folder
from ..files.shipped import data_path
from .bundle import open_bundle
from .published import open_published
from .published_manifest import is_published

EMBEDDED = ("nano",)


def find_bundle(artifact: str | Path, hashes: FileHashes | None = None) -> Bundle:
    """The bundle that ``artifact`` means: the name of an embedded one, or a folder of our layout or the published one.

    ``hashes`` remembers the hashes of large files between calls.

    Raises:
        ArtifactNotFound: it is neither.
        BundleInvalid, TensorFileInvalid: it is there, but does not hold up (see ``open_bundle``, ``open_published``).
    """
    if artifact in EMBEDDED:
        return open_bundle(data_path("fixtures", "artifacts", str(artifact)))
    folder = existing_folder(artifact)
    if folder is None:
        raise ArtifactNotFound(
            f"no artifact {str(artifact)!r}: choose {', '.join(EMBEDDED)}, or give a bundle's folder"
        )
    return open_published(folder, hashes).bundle if is_published(folder) else open_bundle(folder, hashes)

"""Artifacts by name or by folder."""

from __future__ import annotations

from pathlib import Path

from ..contracts.artifact import Bundle
from ..contracts.errors import ArtifactNotFound
from ..resources import data_path
from .bundle import open_bundle

EMBEDDED = ("nano",)


def find_bundle(artifact: str | Path) -> Bundle:
    """The bundle that ``artifact`` means: the name of an embedded one, or a folder.

    Raises:
        ArtifactNotFound: it is neither.
        BundleInvalid, TensorFileInvalid: it is there, but does not hold up (see ``open_bundle``).
    """
    if artifact in EMBEDDED:
        return open_bundle(data_path("fixtures", "artifacts", str(artifact)))
    folder = Path(artifact).expanduser()
    if not folder.is_dir():
        raise ArtifactNotFound(
            f"no artifact {str(artifact)!r}: choose {', '.join(EMBEDDED)}, or give a bundle's folder"
        )
    return open_bundle(folder)

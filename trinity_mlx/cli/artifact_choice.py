"""From the name of an artifact to a bundle and a base: embedded, fetched, built on its first use, or a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..contracts.errors import ArtifactNotFound, FileMismatch, FolderUnavailable
from . import settings
from .output import note

if TYPE_CHECKING:
    from ..contracts.artifact import Base
    from ..downloads.store import FetchedArtifact
    from ..files.hashing import FileHashes

AUTO = "auto"
PUBLISHED = ("sakana", "sakana-adapted")
"""What ``auto`` looks for among the fetched artifacts, in this order."""
FALLBACK = "nano"
HELP = (
    "A name from `trinity-mlx artifacts`, or a bundle's folder; auto is the published router once fetched, else nano."
)


@dataclass(frozen=True)
class ArtifactChoice:
    """What ``load_router`` takes; ``base`` is None where the bundle itself says which base it needs."""

    artifact: str | Path
    base: str | Path | None


def choose_artifact(artifact: str, base: str | None = None, profile: str = "auto") -> ArtifactChoice:
    """The bundle and the base that ``artifact`` means; a fetched vector is built into a bundle on its first use.

    Args:
        artifact: ``auto``, the name of an embedded or fetched artifact, or a bundle's folder.
        base: the user's own choice of a base, which goes before the artifact's.
        profile: the runtime profile whose backend builds the bundle.

    Raises:
        ArtifactNotFound: there is nothing of that name, with how to fetch it where it can be fetched.
        FileMismatch: a fetched file is missing or has changed.
        TrinityError: the bundle cannot be built; see ``export``.
    """
    found = _find(artifact)
    if found is None:
        return ArtifactChoice(_known(artifact), base)
    from ..files.hashing import FileHashes

    hashes = FileHashes(settings.hash_memory())
    _require_whole(found, hashes)
    ready = found.pin.router.bundle
    bundle = found.folder / ready if ready is not None else _built(found, profile, hashes)
    return ArtifactChoice(bundle, base or found.base)


def locate_bundle(name: str) -> str | Path:
    """Where the bundle ``name`` lies, without building anything: for commands that only look at it.

    Raises:
        ArtifactNotFound: it is a vector of which no bundle has been built yet, or there is nothing of that name.
    """
    found = settings.store().find(name)
    if found is None:
        return _known(name)
    if found.pin.router.bundle is not None:
        return found.folder / found.pin.router.bundle
    built = settings.store().built(name)
    if not built:
        raise ArtifactNotFound(
            f"{name} is fetched, and its bundle not built yet: `trinity-mlx route --artifact {name} ...` builds it"
        )
    return max(built, key=lambda folder: folder.stat().st_mtime)


def _find(artifact: str) -> FetchedArtifact | None:
    names = PUBLISHED if artifact == AUTO else (artifact,)
    return next(filter(None, map(settings.store().find, names)), None)


def _known(artifact: str) -> str:
    """``artifact`` where it is embedded or a folder; what ``auto`` falls back to, with a line that says so."""
    from ..artifacts.catalog import EMBEDDED
    from ..downloads.pins import shipped_pins

    if artifact == AUTO:
        note(f"this is {FALLBACK}, a small demonstration; `trinity-mlx fetch {PUBLISHED[0]}` gets the published router")
        return FALLBACK
    if artifact in shipped_pins() and not Path(artifact).is_dir():
        raise ArtifactNotFound(f"{artifact} has not been fetched: run `trinity-mlx fetch {artifact}` first")
    if artifact not in EMBEDDED and not Path(artifact).expanduser().is_dir():
        fetched = [each.pin.name for each in settings.store().fetched()]
        known = ", ".join([AUTO, *EMBEDDED, *fetched])
        raise ArtifactNotFound(f"no artifact {artifact!r}: choose {known}, or give a bundle's folder")
    return artifact


def _require_whole(found: FetchedArtifact, hashes: FileHashes) -> None:
    faults = found.faults(hashes)
    if faults:
        raise FileMismatch(
            f"{found.folder / faults[0]} is missing or not the pinned file any more: "
            f"fetch {found.pin.name} again, and what is right is kept"
        )


def _built(found: FetchedArtifact, profile: str, hashes: FileHashes) -> Path:
    """The bundle of a fetched vector, from the cache where it has been built before."""
    from ..artifacts.base import open_base

    router = found.pin.router
    base = open_base(found.base, hashes=hashes)
    vector = next(file for file in found.pin.files if file.path == router.vector)
    made_from = {
        "base": base.ref,
        "vector": vector.sha256,
        "router": router.model_dump(mode="json", include={"agents", "text_format", "tied_embedding"}),
    }
    try:
        return settings.store().build_once(
            found.pin.name, made_from, lambda out: _export(found, base, found.folder / vector.path, profile, out)
        )
    except OSError as error:
        raise FolderUnavailable(
            f"cannot write into {settings.cache_dir()}: {error.strerror or error}; "
            "set TRINITY_MLX_CACHE to another folder"
        ) from None


def _export(found: FetchedArtifact, base: Base, vector: Path, profile: str, out: Path) -> None:
    """Build the bundle of a fetched vector in ``out``."""
    from ..export.pipeline import export
    from ..export.request import ExportRequest, TiedEmbedding
    from ..profiles.backends import load_backend
    from ..profiles.registry import ProfileRegistry

    note(f"building the {found.pin.name} router; this happens once")
    chosen, device = ProfileRegistry(settings.config_dir()).resolve(profile)
    router = found.pin.router
    export(
        ExportRequest(
            base=base,
            base_id=router.base.id,
            base_revision=router.base.revision,
            vector=vector,
            out=out,
            backend=load_backend(chosen.backend),
            device=device,
            tied_embedding=TiedEmbedding(router.tied_embedding),
            agents=router.agents,
            text_format=router.text_format,
            name=found.pin.name,
        )
    )

"""From the name of an artifact to a bundle and a base: embedded, fetched, built on its first use, or a folder.

    >>> from trinity_mlx import Library, load_router
    >>> router = load_router("sakana", library=Library.at(cache))   # what `trinity-mlx fetch sakana` put into `cache`

A library reads no environment: it is told its folders. The command line's own are shown by ``trinity-mlx doctor``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .artifacts.base import open_base
from .artifacts.catalog import EMBEDDED, find_bundle
from .contracts.artifact import Base
from .contracts.errors import ArtifactNotFound, FileMismatch, FolderUnavailable
from .downloads.pins import shipped_pins
from .downloads.store import FetchedArtifact, Store
from .files.hashing import FileHashes
from .files.paths import existing_folder
from .profiles.registry import AUTO as AUTO_PROFILE
from .profiles.registry import ProfileRegistry
from .routing.loading import ArtifactChoice

AUTO = "auto"
PUBLISHED = ("sakana", "sakana-adapted")
"""What ``auto`` looks for among the fetched artifacts, in this order."""
FALLBACK = "nano"
"""What ``auto`` is where none of these has been fetched."""


class Library:
    """The artifacts of one user: those that ship with the package, and what was fetched and built.

    Making one touches no file, and what builds bundles is imported when one is built.

    Args:
        cache: the folder with what was fetched and built; it may be empty or missing.
        config_dir: a folder with the user's own profiles.
        on_build: called with a name before a fetched vector is built into a bundle, which takes minutes, once.
    """

    def __init__(
        self, cache: Path, config_dir: Path | None = None, on_build: Callable[[str], None] = lambda name: None
    ) -> None:
        self.cache = cache
        self.config_dir = config_dir
        self.hash_memory = cache / "hashes.json"
        self._store = Store(cache)
        self._on_build = on_build

    @classmethod
    def at(cls, cache: str | Path, config_dir: str | Path | None = None) -> Library:
        """The library in the folder ``cache``."""
        return cls(Path(cache), Path(config_dir) if config_dir else None)

    def find(self, artifact: str = AUTO, base: str | Path | None = None, profile: str = AUTO_PROFILE) -> ArtifactChoice:
        """The bundle and the base that ``artifact`` means; a fetched vector is built into a bundle on its first use.

        Args:
            artifact: ``auto`` (the published router once it is fetched, else nano), the name of an embedded or fetched
                artifact, or a bundle's folder.
            base: the user's own choice of a base, which goes before the artifact's.
            profile: the runtime profile whose backend builds the bundle.

        Raises:
            ArtifactNotFound: there is nothing of that name, or it has not been fetched.
            FileMismatch: a fetched file is missing or has changed.
            FolderUnavailable: the bundle has to be built, and the cache cannot be written to.
            TrinityError: the bundle cannot be built; see ``export``.
        """
        fetched = self._fetched(artifact)
        if fetched is None:
            return ArtifactChoice(self._known(artifact), base)
        hashes = FileHashes(self.hash_memory)
        _require_whole(fetched, hashes)
        ready = fetched.pin.router.bundle
        bundle = fetched.folder / ready if ready is not None else self._built(fetched, profile, hashes)
        return ArtifactChoice(bundle, fetched.base if base is None else base)

    def locate(self, artifact: str) -> str | Path:
        """Where a bundle lies, or its name if it is embedded; nothing is built.

        Raises:
            ArtifactNotFound: it is a vector of which no bundle has been built yet, or there is nothing of that name.
        """
        fetched = self._store.find(artifact)
        if fetched is None:
            return self._known(artifact)
        if fetched.pin.router.bundle is not None:
            return fetched.folder / fetched.pin.router.bundle
        built = self._store.built(artifact)
        if not built:
            raise ArtifactNotFound(f"{artifact} is fetched, and its bundle not built yet: its first route builds it")
        return max(built, key=lambda folder: folder.stat().st_mtime)

    def name_of(self, artifact: str) -> str:
        """The name of what ``artifact`` means; nothing is loaded or built.

        Raises:
            ArtifactNotFound, BundleInvalid, TensorFileInvalid: there is nothing of that name, or it does not hold up.
        """
        if artifact == AUTO:
            return next(filter(self._store.find, PUBLISHED), FALLBACK)
        if artifact in shipped_pins() or self._store.find(artifact):
            return artifact
        return find_bundle(self._known(artifact), FileHashes(self.hash_memory)).name

    def _fetched(self, artifact: str) -> FetchedArtifact | None:
        names = PUBLISHED if artifact == AUTO else (artifact,)
        return next(filter(None, map(self._store.find, names)), None)

    def _known(self, artifact: str) -> str:
        """``artifact`` where it is embedded or a folder; what ``auto`` falls back to."""
        if artifact == AUTO:
            return FALLBACK
        if artifact in EMBEDDED or existing_folder(artifact):
            return artifact
        if artifact in shipped_pins():
            raise ArtifactNotFound(f"{artifact} has not been fetched")
        names = ", ".join([AUTO, *EMBEDDED, *(each.pin.name for each in self._store.fetched())])
        raise ArtifactNotFound(f"no artifact {artifact[:200]!r}: choose {names}, or give a bundle's folder")

    def _built(self, fetched: FetchedArtifact, profile: str, hashes: FileHashes) -> Path:
        """The bundle of a fetched vector, from the cache where it has been built before."""
        pin = fetched.pin
        base = open_base(fetched.base, hashes=hashes)
        vector = next(file for file in pin.files if file.path == pin.router.vector)
        made_from = {
            "base": base.ref,
            "vector": vector.sha256,
            "router": pin.router.model_dump(mode="json", include={"agents", "text_format", "tied_embedding"}),
        }
        try:
            return self._store.build_once(pin.name, made_from, lambda out: self._build(fetched, base, profile, out))
        except OSError as error:
            raise FolderUnavailable(f"cannot write into {self.cache}: {error.strerror or error}") from None

    def _build(self, fetched: FetchedArtifact, base: Base, profile: str, out: Path) -> None:
        from .export.pipeline import export
        from .export.request import ExportRequest, TiedEmbedding
        from .profiles.backends import load_backend

        self._on_build(fetched.pin.name)
        chosen, device = ProfileRegistry(self.config_dir).resolve(profile)
        router = fetched.pin.router
        if router.vector is None:
            raise ValueError(f"the pin of {fetched.pin.name} names neither a bundle nor a vector")
        export(
            ExportRequest(
                base=base,
                base_id=router.base.id,
                base_revision=router.base.revision,
                vector=fetched.folder / router.vector,
                out=out,
                backend=load_backend(chosen.backend),
                device=device,
                tied_embedding=TiedEmbedding(router.tied_embedding),
                agents=router.agents,
                text_format=router.text_format,
                name=fetched.pin.name,
            )
        )


def _require_whole(fetched: FetchedArtifact, hashes: FileHashes) -> None:
    faults = fetched.faults(hashes)
    if faults:
        raise FileMismatch(
            f"{fetched.folder / faults[0]} is missing or not the pinned file any more: "
            f"fetch {fetched.pin.name} again, and what is right is kept"
        )

"""What this machine has fetched and built, and where.

<cache>/fetched/<name>.json    the record: a pin, and the folder with its files
<cache>/fetched/<name>/        that folder, unless the user named another
<cache>/built/<name>-<key>/    a bundle built from fetched files; the key is a hash of what it was made from
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import Field

from ..artifacts.manifest import MANIFEST_NAME
from ..contracts.canonical import canonical_sha256
from ..contracts.errors import PinInvalid
from ..files.atomic import write_atomically
from ..files.hashing import FileHashes
from ..files.models import Faults, Strict, read_model
from ..files.paths import is_file
from .pins import WORK_FOLDER, Pin, matches

_KEY_DIGITS = 16
_REMOVED = ".removed"


class _Record(Strict):
    schema_name: Literal["trinity-mlx.fetched"] = Field(alias="schema")
    version: Literal[1]
    folder: str
    pin: Pin


@dataclass(frozen=True)
class FetchedArtifact:
    """A pin whose files were brought into ``folder``."""

    pin: Pin
    folder: Path

    @property
    def base(self) -> Path:
        """The folder of the base model."""
        return self.folder / self.pin.router.base.folder

    @property
    def size(self) -> int:
        """Bytes of all files, as pinned."""
        return sum(file.size for file in self.pin.files)

    def faults(self, hashes: FileHashes) -> list[str]:
        """Paths of files that are missing or are not the pinned ones any more."""
        return [file.path for file in self.pin.files if not matches(self.folder / file.path, file, hashes)]


class Store:
    """The part of the cache folder that holds artifacts."""

    def __init__(self, cache: Path) -> None:
        self._fetched = cache / "fetched"
        self._built = cache / "built"

    def folder_for(self, name: str) -> Path:
        """Where the files of a pin called ``name`` go unless the user says otherwise."""
        return self._fetched / name

    def record(self, pin: Pin, folder: Path) -> FetchedArtifact:
        """Remember that the files of ``pin`` lie in ``folder``; a former record of that name is replaced.

        Files of a removal that was broken off go before anything is fetched (see ``shelf``).

        Raises:
            OSError: the record cannot be written.
        """
        record = _Record.model_validate(
            {"schema": "trinity-mlx.fetched", "version": 1, "folder": str(folder.resolve()), "pin": pin}
        )
        write_atomically(self._record_path(pin.name), record.model_dump_json(by_alias=True, indent=2).encode())
        return FetchedArtifact(pin, folder.resolve())

    def fetched(self) -> list[FetchedArtifact]:
        """Everything fetched, by name.

        Raises:
            PinInvalid: a record cannot be read.
        """
        with suppress(OSError):
            self._finish_removals()
        return [_read_record(path) for path in sorted(self._fetched.glob("[!.]*.json"))]

    def find(self, name: str) -> FetchedArtifact | None:
        """What was fetched as ``name``, if it was.

        Raises:
            PinInvalid: its record cannot be read.
        """
        path = self._record_path(name)
        return _read_record(path) if Path(name).name == name and is_file(path) else None

    def shelf(self) -> dict[str, Path]:
        """Fetched files by sha256, as recorded; whoever takes one verifies it."""
        return {file.sha256: each.folder / file.path for each in self.fetched() for file in each.pin.files}

    def built(self, name: str | None = None) -> list[Path]:
        """Folders of finished bundles; those built from ``name`` alone, where it is given."""
        folders = sorted(path.parent for path in self._built.glob(f"[!.]*/{MANIFEST_NAME}"))
        return [folder for folder in folders if name is None or folder.name[: -_KEY_DIGITS - 1] == name]

    def build_once(self, name: str, made_from: Mapping[str, object], build: Callable[[Path], None]) -> Path:
        """The bundle made from ``made_from``; ``build`` makes it, in a folder beside its final one, if it is not there.

        Of several processes one builds and the others wait; one that was killed leaves nothing that is taken for whole.

        Raises:
            OSError: the cache cannot be written to. And whatever ``build`` raises.
        """
        final = self._built / f"{name}-{canonical_sha256(made_from)[:_KEY_DIGITS]}"
        if (final / MANIFEST_NAME).is_file():
            return final
        self._built.mkdir(parents=True, exist_ok=True)
        with FileLock(final.with_name(f".{final.name}.lock")):
            if not (final / MANIFEST_NAME).is_file():
                shutil.rmtree(final, ignore_errors=True)
                unfinished = final.with_name(f".{final.name}.unfinished")
                shutil.rmtree(unfinished, ignore_errors=True)
                build(unfinished)
                unfinished.replace(final)
        return final

    def remove(self, name: str) -> None:
        """Delete what was fetched and built as ``name``: the pin's own files and the folders that are then empty.

        Its record and its bundles lose their names first, so it is gone at once; a removal that was broken off is
        carried on by whoever looks into the store next.

        Raises:
            OSError: a file cannot be deleted.
            PinInvalid: its record cannot be read.
        """
        for folder in self.built(name):
            folder.rename(folder.with_name(f".{folder.name}{_REMOVED}"))
        if self.find(name) is not None:
            self._record_path(name).rename(self._fetched / f".{name}{_REMOVED}")
        self._finish_removals()

    def _finish_removals(self) -> None:
        for folder in self._built.glob(f".*{_REMOVED}"):
            shutil.rmtree(folder)
        for path in self._fetched.glob(f".*{_REMOVED}"):
            artifact = _read_record(path)
            for file in artifact.pin.files:
                (artifact.folder / file.path).unlink(missing_ok=True)
            shutil.rmtree(artifact.folder / WORK_FOLDER, ignore_errors=True)
            _remove_empty(artifact.folder)
            path.unlink()

    def _record_path(self, name: str) -> Path:
        return self._fetched / f"{name}.json"


def _read_record(path: Path) -> FetchedArtifact:
    try:
        record, _ = read_model(path, _Record, Faults(PinInvalid, whole="record"), inner=True)
    except PinInvalid as error:
        raise PinInvalid(f"the record of what was fetched is no good: {error}: delete it") from None
    return FetchedArtifact(record.pin, Path(record.folder))


def _remove_empty(folder: Path) -> None:
    """Remove the folders in ``folder`` that hold nothing, and then itself."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                path.rmdir()
    with suppress(OSError):
        folder.rmdir()

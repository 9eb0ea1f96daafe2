"""Pins: which files make up an artifact, with the hash and the home of each.

A pin is a JSON file (``fixtures/pins`` has the shipped ones; anybody may write another):

    {"schema": "trinity-mlx.pin", "version": 1, "name": "mine", "summary": "for people",
     "files": [{"path": "base/config.json", "size": 726, "sha256": "<64 digits>", "home": "<see addresses.py>"}, ...],
     "router": {"base": {"id": "Qwen/Qwen3-0.6B", "revision": "c1899d...", "folder": "base"}, "vector": "vector.npy"}}

``size`` is in bytes. ``router`` says how the files become one: a base with a trained ``vector``, from which a bundle is
built, or with a ready ``bundle`` (a folder). Beside a vector there may be ``agents`` (labels), ``text_format`` and
``tied_embedding``, as the exporter takes them.

Where the shipped pins have their figures from: the hashes are those that the homes themselves publish. The Hub gives
none for the base's ``config.json``, which is no large file there; its hash belongs to the 726 bytes whose git blob is
``f5c3703b78ae2a478ae15b247e9f855e0ce2107b``. Sizes of the adapted tensors follow from their shapes and headers.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ..contracts.errors import ArtifactNotFound, PinInvalid
from ..contracts.text_format import TextFormat
from ..files.hashing import FileHashes
from ..files.models import Faults, Strict, parse_model, read_content
from ..files.shipped import data_path
from .addresses import parse_home

SCHEMA = "trinity-mlx.pin"
VERSION = 1
WORK_FOLDER = ".fetch"
"""Where files grow while they are fetched, beside those that a pin names: the path of none begins with a dot."""
_FAULTS = Faults(PinInvalid, whole="pin")

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"
"""Part of a path: plain characters, and no dot in front, so neither ``..`` nor a hidden file."""


def _checked_home(text: str) -> str:
    parse_home(text)
    return text


InnerPath = Annotated[str, Field(pattern=rf"^{_PART}(/{_PART})*$", max_length=400)]
Name = Annotated[str, Field(pattern=rf"^{_PART}$", max_length=80)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
HomeAddress = Annotated[str, AfterValidator(_checked_home)]


class PinnedFile(Strict):
    """One file: its place below the destination, its size in bytes, its hash, and where to get it."""

    path: InnerPath
    size: Annotated[int, Field(ge=1)]
    sha256: Sha256
    home: HomeAddress


class PinnedBase(Strict):
    """The base model that the files carry in ``folder``, and what it is called on the Hub."""

    id: str
    revision: str | None
    folder: InnerPath


class PinnedRouter(Strict):
    """How the files become a router: ``vector`` (a file) or ``bundle`` (a folder), and never both."""

    base: PinnedBase
    vector: InnerPath | None = None
    bundle: InnerPath | None = None
    agents: tuple[str, ...] | None = None
    text_format: TextFormat = Field(default=TextFormat.ROLE_LINES, strict=False)
    tied_embedding: Literal["embed_tokens", "lm_head", "compound"] = "embed_tokens"

    @model_validator(mode="after")
    def _one_kind(self) -> PinnedRouter:
        if (self.vector is None) == (self.bundle is None):
            raise ValueError("a router has either a vector or a bundle")
        return self


class Pin(Strict):
    """A named set of files, complete enough to route with."""

    schema_name: Literal["trinity-mlx.pin"] = Field(alias="schema")
    version: Literal[1]
    name: Name
    summary: str
    files: Annotated[tuple[PinnedFile, ...], Field(min_length=1)]
    router: PinnedRouter

    @model_validator(mode="after")
    def _consistent(self) -> Pin:
        paths = [file.path for file in self.files]
        _refuse_collisions(paths)
        if self.router.vector is not None and self.router.vector not in paths:
            raise ValueError(f"the router's vector {self.router.vector!r} is not among the files")
        for folder in filter(None, (self.router.base.folder, self.router.bundle)):
            if not any(path.startswith(f"{folder}/") for path in paths):
                raise ValueError(f"the router's folder {folder!r} has none of the files")
        return self


def read_pin(path: Path) -> Pin:
    """The pin in the JSON file at ``path``.

    Raises:
        PinInvalid: it cannot be read, is not JSON, of another version, or not a pin.
    """
    return parse_pin(read_content(path, _FAULTS), str(path))


def parse_pin(raw: bytes, name: str) -> Pin:
    """The pin in ``raw``, which is called ``name`` in messages.

    Raises:
        PinInvalid: it is not one.
    """
    return parse_model(raw, Pin, f"pin {name}", _FAULTS, versions=(VERSION,))


def shipped_pins() -> list[str]:
    """Names of the pins that come with the package, sorted."""
    return sorted(path.stem for path in data_path("fixtures", "pins").glob("*.json"))


def shipped_pin(name: str) -> Pin:
    """The pin ``name`` that comes with the package.

    Raises:
        ArtifactNotFound: there is none.
    """
    if name not in shipped_pins():
        known = ", ".join(shipped_pins())
        raise ArtifactNotFound(f"nothing called {name!r} can be fetched: choose {known}, or give a pin file")
    return read_pin(data_path("fixtures", "pins", f"{name}.json"))


def matches(path: Path, file: PinnedFile, hashes: FileHashes) -> bool:
    """True if the file at ``path`` has the pinned size and hash; false where it is missing or cannot be read."""
    with suppress(OSError):
        return path.is_file() and path.stat().st_size == file.size and hashes.sha256(path, file.sha256) == file.sha256
    return False


def _refuse_collisions(paths: Iterable[str]) -> None:
    """No two files in one place, on disks that ignore case as well, and none below another."""
    files: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        plain = path.lower()
        parents = {str(parent) for parent in PurePosixPath(plain).parents} - {"."}
        if plain in files or plain in folders or parents & files:
            raise ValueError(f"path {path!r} collides with another file's")
        files.add(plain)
        folders |= parents

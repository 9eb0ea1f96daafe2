"""A disk that takes no more, few descriptors, places that cannot be written: said in words, and nothing is lost."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from trinity_mlx.artifacts.base import open_base
from trinity_mlx.artifacts.bundle import open_bundle
from trinity_mlx.artifacts.vector import read_vector
from trinity_mlx.contracts.artifact import Base, Bundle
from trinity_mlx.contracts.errors import FolderUnavailable
from trinity_mlx.downloads.fetch import fetch
from trinity_mlx.downloads.homes import Homes
from trinity_mlx.downloads.pins import read_pin
from trinity_mlx.evaluation.lane import Lane, LaneArtifact, read_lane, write_lane
from trinity_mlx.export.pipeline import export
from trinity_mlx.export.request import ExportRequest, Write
from trinity_mlx.importing.importer import import_bundle
from trinity_mlx.importing.request import ImportRequest
from trinity_mlx.profiles.backends import load_backend

from ..artifacts.test_published import adapted_weights, write_published
from ..builders import LABELS
from ..file_server import running
from .test_kills import write_pin

SIZES = (0, 1, 100, 1000, 5000, 20_000, 70_000)
"""Where files stop growing, in bytes: from the first one on to late in the largest."""


@dataclass(frozen=True)
class Work:
    """Something that writes to ``place``, and what must be there before and after it."""

    place: Path
    do: Callable[[Path], object]
    check: Callable[[Path], object]


@contextmanager
def limited(kind: int, most: int) -> Iterator[None]:
    """This process with a lower limit."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


@pytest.fixture
def works(tmp_path: Path, tiny_base: Base, tiny_bundle: Bundle, tiny_head: np.ndarray) -> Iterator[dict[str, Work]]:
    np.save(tmp_path / "vector.npy", np.random.default_rng(7).normal(0, 0.2, 19 * tiny_base.config.hidden_size))
    published = write_published(tmp_path / "published", adapted_weights(tiny_base), tiny_head)
    old = tmp_path / "old"
    shutil.copytree(tiny_bundle.folder, old / "import")
    shutil.copytree(tiny_bundle.folder, old / "export")
    write_lane(old / "lane.json", Lane(profile="cpu", artifact=LaneArtifact(name="tiny"), status="unmeasured"))
    request = ExportRequest(
        tiny_base, "a/b", tmp_path / "vector.npy", old, load_backend("torch"), write=Write.MERGED, agents=LABELS
    )

    def exported(place: Path) -> None:
        unfinished = (place / ".export" / "state.json").exists()
        export(ExportRequest(**{**fields_of(request), "out": place, "resume": unfinished, "force": not unfinished}))

    def fetched(place: Path) -> None:
        with Homes() as homes:
            fetch(pin, place, homes)

    with running() as server:
        pin = read_pin(write_pin(tmp_path, server))
        yield {
            "import": Work(
                old / "import",
                lambda place: import_bundle(ImportRequest(published, str(tiny_base.folder), place, force=True)),
                open_bundle,
            ),
            "export": Work(old / "export", exported, open_bundle),
            "fetch": Work(old / "fetch", fetched, lambda place: None),
            "lane": Work(
                old / "lane.json",
                lambda place: write_lane(
                    place, Lane(profile="mlx", artifact=LaneArtifact(name="x" * 200_000), status="unmeasured")
                ),
                read_lane,
            ),
        }


def fields_of(request: ExportRequest) -> dict[str, object]:
    return {name: getattr(request, name) for name in ExportRequest.__dataclass_fields__}


@pytest.mark.parametrize("name", ["import", "export", "fetch", "lane"])
def test_a_full_disk_is_said_and_what_was_there_stays(works: dict[str, Work], name: str) -> None:
    work, failed = works[name], 0
    for size in SIZES:
        try:
            with limited(resource.RLIMIT_FSIZE, size):
                work.do(work.place)
        except FolderUnavailable as error:
            failed += "too large" in str(error).lower()
        work.check(work.place)
    assert failed
    work.do(work.place)
    work.check(work.place)
    assert [path.name for path in work.place.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["import", "export", "fetch", "lane"])
@pytest.mark.parametrize("room", [0, 4096, 8192, 65_536])
def test_a_disk_that_is_really_full_is_said_too(works: dict[str, Work], small_disk: Path, name: str, room: int) -> None:
    work, place = works[name], small_disk / name
    if work.place.is_dir():
        shutil.copytree(work.place, place)
    elif work.place.exists():
        shutil.copy(work.place, place)
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(bytes(max(0, free - room)))
    with suppress(FolderUnavailable):
        work.do(place)
        assert name == "fetch", "there was no room for it"
    if name != "fetch":
        work.check(place)
    filler.unlink()
    work.do(place)
    work.check(place)


@pytest.mark.parametrize("name", ["import", "export", "fetch", "lane"])
@pytest.mark.parametrize("place", ["/dev/null/x", "/proc/nowhere/x"])
def test_a_place_that_cannot_be_written_is_said(works: dict[str, Work], name: str, place: str) -> None:
    with pytest.raises(FolderUnavailable, match=r"cannot (be written|write)|Not a directory|No such file|0.0 MB free"):
        works[name].do(Path(place))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
@pytest.mark.parametrize("name", ["import", "export", "fetch", "lane"])
def test_a_folder_that_may_only_be_read_is_said(works: dict[str, Work], tmp_path: Path, name: str) -> None:
    (tmp_path / "read only").mkdir(mode=0o500)
    with pytest.raises(FolderUnavailable, match="Permission denied"):
        works[name].do(tmp_path / "read only" / "x")


def test_opened_artifacts_hold_no_descriptor(tmp_path: Path, tiny_base: Base, tiny_bundle: Bundle) -> None:
    np.save(tmp_path / "v.npy", np.zeros(10))
    with limited(resource.RLIMIT_NOFILE, 256):
        opened = [
            (
                open_bundle(tiny_bundle.folder),
                open_base(tiny_base.folder),
                read_vector(tmp_path / "v.npy"),
            )
            for _ in range(300)
        ]
    assert len(opened) == 300

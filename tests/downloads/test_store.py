"""The record of what was fetched and built."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from trinity_mlx.contracts.errors import PinInvalid
from trinity_mlx.downloads.pins import Pin, parse_pin
from trinity_mlx.downloads.store import Store
from trinity_mlx.files.hashing import FileHashes

FILES = {"base/config.json": b"{}", "vector.npy": b"numbers"}


def make_pin(name: str = "mine") -> Pin:
    files = [
        {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "home": "somewhere"}
        for path, content in FILES.items()
    ]
    pin = {
        "schema": "trinity-mlx.pin",
        "version": 1,
        "name": name,
        "summary": "made by a test",
        "files": files,
        "router": {"base": {"id": "a/b", "revision": "r", "folder": "base"}, "vector": "vector.npy"},
    }
    return parse_pin(json.dumps(pin).encode(), "test pin")


def write_files(folder: Path) -> Path:
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def build(folder: Path) -> None:
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_an_empty_cache_holds_nothing(store: Store) -> None:
    assert store.fetched() == []
    assert store.built() == []
    assert store.find("mine") is None
    assert store.shelf() == {}


def test_what_is_recorded_is_found_again(store: Store, tmp_path: Path) -> None:
    pin, folder = make_pin(), write_files(tmp_path / "elsewhere")
    store.record(pin, folder)
    found = store.find("mine")
    assert found is not None
    assert (found.pin, found.folder, found.base) == (pin, folder, folder / "base")
    assert found.size == sum(map(len, FILES.values()))
    assert found.faults(FileHashes()) == []
    assert set(store.shelf().values()) == {folder / path for path in FILES}


def test_missing_and_changed_files_are_faults(store: Store, tmp_path: Path) -> None:
    found = store.record(make_pin(), write_files(tmp_path / "files"))
    (found.folder / "vector.npy").write_bytes(b"NUMBERS")
    assert found.faults(FileHashes()) == ["vector.npy"]
    (found.folder / "base" / "config.json").unlink()
    assert found.faults(FileHashes()) == ["base/config.json", "vector.npy"]


@pytest.mark.parametrize("name", ["../mine", "/etc/passwd", "a/b", "", "."])
def test_only_plain_names_are_looked_up(store: Store, tmp_path: Path, name: str) -> None:
    store.record(make_pin(), tmp_path)
    assert store.find(name) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"schema": "other"}'])
def test_a_broken_record_is_named(store: Store, tmp_path: Path, content: bytes) -> None:
    store.record(make_pin(), tmp_path)
    record = next(tmp_path.rglob("mine.json"))
    record.write_bytes(content)
    with pytest.raises(PinInvalid, match=r"mine\.json.*delete it"):
        store.fetched()


def test_removing_takes_the_pinned_files_and_leaves_the_others(store: Store, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "files")
    (folder / "base" / "mine.txt").write_text("mine")
    (folder / ".fetch").mkdir()
    store.record(make_pin(), folder)
    store.build_once("mine", {"a": "b"}, build)
    store.remove("mine")
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["mine.txt"]
    assert not (folder / ".fetch").exists()
    assert store.find("mine") is None
    assert store.built() == []


def test_removing_the_last_file_removes_the_folder(store: Store, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "files")
    store.record(make_pin(), folder)
    store.remove("mine")
    assert not folder.exists()


def test_a_removal_that_was_broken_off_is_carried_on(store: Store, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "files")
    store.record(make_pin(), folder)
    record = next(tmp_path.rglob("mine.json"))
    record.rename(record.with_name(".mine.removed"))
    assert store.find("mine") is None
    assert (folder / "vector.npy").is_file()
    assert store.fetched() == []
    assert not folder.exists()
    assert not record.with_name(".mine.removed").exists()


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "~nobody-of-that-name"])
def test_a_name_that_no_file_can_have_is_not_there(store: Store, name: str) -> None:
    assert store.find(name) is None


def test_a_bundle_is_built_once_for_what_it_is_made_from(store: Store) -> None:
    calls: list[Path] = []

    def counted(folder: Path) -> None:
        calls.append(folder)
        build(folder)

    first = store.build_once("mine", {"vector": "a"}, counted)
    assert store.build_once("mine", {"vector": "a"}, counted) == first
    second = store.build_once("mine", {"vector": "b"}, counted)
    assert (len(calls), first == second) == (2, False)
    assert store.built("mine") == sorted([first, second])
    assert store.built("min") == []


def test_a_build_that_fails_leaves_nothing_that_is_taken_for_whole(store: Store) -> None:
    def broken(folder: Path) -> None:
        build(folder)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        store.build_once("mine", {}, broken)
    assert store.built() == []
    assert (store.build_once("mine", {}, build) / "manifest.json").is_file()


def test_a_cache_that_cannot_be_written_to_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(OSError, match=os.strerror(20)):
        Store(tmp_path / "cache").build_once("mine", {}, build)

"""A library gives artifacts by name to programs that never touch the command line or the environment."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trinity_mlx import Library, load_router
from trinity_mlx.contracts.artifact import Base, Bundle
from trinity_mlx.contracts.errors import ArtifactNotFound, FileMismatch, FolderUnavailable
from trinity_mlx.downloads.pins import Pin
from trinity_mlx.downloads.store import Store
from trinity_mlx.files.safetensors import read_float32

from .builders import skip_without_nano

PROMPT = "What is 17 + 25? Answer briefly."


def pinned(folder: Path, name: str, **router: Any) -> Pin:
    """A pin over every file in ``folder``."""
    files = [
        {
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "home": str(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    base = {"id": "test/tiny", "revision": "r1", "folder": "base"}
    pin = {"schema": "trinity-mlx.pin", "version": 1, "name": name, "summary": "made by a test", "files": files}
    return Pin.model_validate_json(json.dumps(pin | {"router": {"base": base} | router}))


def test_a_router_that_is_here_is_had_without_an_http_client() -> None:
    code = "import sys, trinity_mlx.routing.recipe, trinity_mlx.library; sys.exit('httpx2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def fetched(tmp_path: Path, tiny_base: Base, tiny_bundle: Bundle) -> Path:
    """A cache into which the tiny router was fetched as ``sakana``."""
    folder = tmp_path / "fetched"
    for source, name in ((tiny_base.folder, "base"), (tiny_bundle.folder, "bundle")):
        copy(source, folder / name)
    Store(tmp_path / "cache").record(pinned(folder, "sakana", bundle="bundle"), folder)
    return tmp_path / "cache"


def copy(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            to = target / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, to)


def test_what_was_fetched_is_loaded_by_its_name(fetched: Path) -> None:
    for name in ("sakana", "auto"):
        with load_router(name, profile="cpu", library=Library.at(fetched)) as router:
            assert router.route(PROMPT).artifact.name == "tiny"


def test_a_library_brings_its_own_profiles(fetched: Path, tmp_path: Path) -> None:
    profiles = tmp_path / "config" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "mine.toml").write_text('summary = "mine"\nbackend = "torch"\ndevice = "cpu"\ndtype = "float16"')
    with load_router("sakana", profile="mine", library=Library.at(fetched, tmp_path / "config")) as router:
        assert router.identity.dtype == "float16"


def test_without_a_library_a_published_name_says_what_is_missing() -> None:
    with pytest.raises(ArtifactNotFound, match=r"load_router\('sakana', library=Library.at\(folder\)\)"):
        load_router("sakana")


def test_an_empty_library_has_what_ships_with_the_package(tmp_path: Path) -> None:
    skip_without_nano()
    library = Library.at(tmp_path / "nothing")
    assert library.find("auto").artifact == "nano"
    assert library.name_of("auto") == "nano"
    with load_router("nano", library=library) as router:
        assert router.route(PROMPT).artifact.name == "nano"


@pytest.mark.parametrize(("name", "told"), [("sakana", "has not been fetched"), ("none", "no artifact 'none'")])
def test_what_is_not_there_is_said_without_commands(tmp_path: Path, name: str, told: str) -> None:
    library = Library.at(tmp_path)
    for ask in (library.find, library.locate):
        with pytest.raises(ArtifactNotFound, match=told) as caught:
            ask(name)
        assert "trinity-mlx" not in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 10_000, "\0", "~nosuchuser/x", "a/../b"], ids=["long", "null", "nobody", "up"])
def test_any_text_is_a_name_that_may_be_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactNotFound) as caught:
        Library.at(tmp_path).find(name)
    assert len(str(caught.value)) < 1000


def test_a_fetched_file_that_changed_is_refused(fetched: Path, tmp_path: Path) -> None:
    tokenizer = tmp_path / "fetched" / "base" / "tokenizer.json"
    tokenizer.unlink()
    tokenizer.write_text("{}")
    with pytest.raises(FileMismatch, match="not the pinned file any more"):
        Library.at(fetched).find("sakana")


@pytest.fixture
def vector(tmp_path: Path, tiny_base: Base, tiny_bundle: Bundle) -> Path:
    """A cache into which a base and a vector were fetched as ``sakana``."""
    folder = tmp_path / "fetched"
    copy(tiny_base.folder, folder / "base")
    offsets = np.random.default_rng(5).normal(0, 0.01, 9 * tiny_base.config.hidden_size)
    np.save(folder / "vector.npy", np.concatenate([offsets, read_float32(tiny_bundle.head.tensor).ravel()]))
    Store(tmp_path / "cache").record(pinned(folder, "sakana", vector="vector.npy"), folder)
    return tmp_path / "cache"


def test_a_vector_is_built_on_its_first_use_and_only_then(vector: Path) -> None:
    built: list[str] = []
    library = Library(vector, on_build=built.append)
    with pytest.raises(ArtifactNotFound, match="not built yet"):
        library.locate("sakana")
    first, second = (library.find("sakana", profile="cpu") for _ in range(2))
    assert built == ["sakana"]
    assert first == second
    assert library.locate("sakana") == first.artifact


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_said(vector: Path) -> None:
    vector.chmod(0o500)
    try:
        with pytest.raises(FolderUnavailable, match="cannot write into"):
            Library.at(vector).find("sakana", profile="cpu")
    finally:
        vector.chmod(0o700)

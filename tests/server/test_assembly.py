"""From plain values to what is served: the router and the window that it reads through."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import make_head, write_bundle
from trinity_mlx.contracts.artifact import Base
from trinity_mlx.contracts.errors import UsageError
from trinity_mlx.contracts.routing import Window
from trinity_mlx.routing.loading import load_router
from trinity_mlx.server.assembly import load_served

LONG = [{"role": "user", "content": f"What follows from {each}?"} for each in range(20)]
PROFILE = """
summary = "mine"
backend = "torch"
device = "cpu"
dtype = "float32"
window = { head = 8, tail = 64, step = 16 }
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A user's folder with a profile that has a window of its own."""
    path = tmp_path / "config" / "profiles" / "mine.toml"
    path.parent.mkdir(parents=True)
    path.write_text(PROFILE)
    return path.parent.parent


@pytest.mark.parametrize(
    ("text", "window"), [("none", None), ("auto", Window(8, 64, 16)), ("16,32", Window.parse("16,32"))]
)
def test_what_was_asked_for_goes_before_the_window_of_the_profile(
    tiny_folders: dict[str, Path], config: Path, text: str, window: Window | None
) -> None:
    with load_served(**tiny_folders, profile="mine", window=text, config_dir=config) as router:
        assert router.identity.window == window
        assert (router.route(LONG).gap is None) == (window is None)


def test_the_window_of_a_training_goes_before_that_of_the_profile(
    tiny_base: Base, config: Path, tmp_path: Path
) -> None:
    """What a router learned from is what it reads, unless somebody says otherwise."""
    trained = Window(4, 40, 8)
    bundle = write_bundle(tmp_path / "trained", tiny_base, {}, make_head(tiny_base), window=trained)
    for text, window in (("auto", trained), ("none", None), ("16,32", Window.parse("16,32"))):
        with load_served(bundle.folder, tiny_base.folder, "mine", text, config_dir=config) as router:
            assert router.identity.window == window
    with load_router(bundle.folder, tiny_base.folder, "mine", config_dir=config) as router:
        assert router.identity.window == trained
        assert router.route(LONG).gap is not None


def test_a_window_that_is_none_is_refused(tiny_folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="or none, or auto"):
        load_served(**tiny_folders, profile="cpu", window="wide")

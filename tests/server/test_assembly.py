"""From plain values to what is served: the router and the window that it reads through."""

from __future__ import annotations

from pathlib import Path

import pytest

from trinity_mlx.contracts.errors import UsageError
from trinity_mlx.contracts.routing import Window
from trinity_mlx.server.assembly import load_served

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
        decision = router.route([{"role": "user", "content": f"What follows from {each}?"} for each in range(20)])
        assert (decision.gap is None) == (window is None)


def test_a_window_that_is_none_is_refused(tiny_folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="or none, or auto"):
        load_served(**tiny_folders, profile="cpu", window="wide")

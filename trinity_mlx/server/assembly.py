"""From plain values to a service: pools by name, keys, names that are answered, a window by measured speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from ..contracts.access import Hub
from ..contracts.errors import InputFileError, UsageError
from ..contracts.routing import Window
from ..contracts.transcript import Transcript
from ..files.regular import read_bounded
from ..routing.router import Router
from .routers import measured_size, window_of

_FILLER = "The next step follows from what was said before. "
NO_WINDOW = "none"
AUTO_WINDOW = "auto"
_KEYS_BYTES = 1 << 20
"""No file of keys is larger."""


def read_keys(path: Path) -> list[str]:
    """The keys in a file, one a line; lines that begin with ``#`` are left out.

    Raises:
        InputFileError: the file cannot be read, or holds none.
    """
    try:
        with path.open("rb") as file:  # a pipe too, as a shell makes it of what a keeper of secrets prints
            lines = read_bounded(file, path, _KEYS_BYTES).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputFileError(f"cannot read the keys in {path}: {getattr(error, 'strerror', None) or error}") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise InputFileError(f"{path} holds no key: write one a line")
    return keys


def secret_of(digests: Iterable[bytes]) -> bytes:
    """What call ids are signed with: the same for replicas with the same keys, and after a restart."""
    return sha256(b"trinity-mlx call ids" + b"".join(sorted(digests))).digest()


def parse_window(text: str) -> Window | None:
    """A window from ``HEAD,TAIL``; None for ``none``.

    Raises:
        UsageError: it is neither.
    """
    if text == NO_WINDOW:
        return None
    try:
        return Window.parse(text)
    except UsageError as error:
        raise UsageError(f"{error}; or none, or auto") from None


def measured_window(router: Router) -> Window:
    """A window that this router reads afresh in about a second, never under 512 tokens."""
    most = router.identity.max_positions
    per_token = len(_FILLER) * 20 / max(1, router.route(_FILLER * 20).token_count)

    def seconds_of(size: int) -> tuple[int, float]:
        text = (_FILLER * (int(size * per_token) // len(_FILLER) + 1))[: int(size * per_token * 0.95)]
        router.forget()
        begun = time.perf_counter()
        decision = router.route(Transcript.of(text))
        return decision.token_count, time.perf_counter() - begun

    size = measured_size(seconds_of, most)
    router.forget()
    return window_of(size)


def named_pools(given: Sequence[str]) -> dict[str, str]:
    """Pools by name from ``NAME=POOL`` or ``POOL``, whose name is then that of the file.

    Raises:
        UsageError: two have one name.
    """
    pools: dict[str, str] = {}
    for text in given:
        name, equals, place = text.partition("=")
        if not equals or "/" in name or "\\" in name:
            name, place = Path(text).stem, text
        if name in pools:
            raise UsageError(f"two pools are called {name!r}: name them, as in coding=a.toml")
        pools[name] = place
    return pools


def load_served(
    artifact: str | Path,
    base: str | Path | None,
    profile: str,
    window: str,
    *,
    config_dir: Path | None = None,
    hash_memory: Path | None = None,
    hub: Callable[[], Hub] = Hub,
) -> Router:
    """A router that reads through a window: ``HEAD,TAIL``, ``none``, or ``auto`` for one by measured speed.

    Raises:
        TrinityError: as ``load_router``, or the window cannot be read.
    """
    from ..routing.loading import load_router

    given = None if window == AUTO_WINDOW else parse_window(window)
    router = load_router(artifact, base, profile, config_dir=config_dir, hash_memory=hash_memory, hub=hub)
    if window == AUTO_WINDOW:
        given = router.identity.window or measured_window(router)
    return router.through(given)

"""Where this user's settings and caches lie: the environment is read here and nowhere below."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import preferences

if TYPE_CHECKING:
    from ..downloads.store import Store

APP = "trinity-mlx"
_NATIVE_LOGS = (("TRANSFORMERS_VERBOSITY", "error", "info"), ("TORCH_CPP_LOG_LEVEL", "ERROR", "INFO"))
"""Variables by which frameworks log: quiet, and as they would show everything."""


def config_dir() -> Path:
    """The folder of the user's own files: ``$TRINITY_MLX_CONFIG``, else the platform's place for settings."""
    named = os.environ.get("TRINITY_MLX_CONFIG")
    return Path(named) if named else Path(click.get_app_dir(APP))


def cache_dir() -> Path:
    """The folder of what can be made again: ``$TRINITY_MLX_CACHE``, else ``cache`` in the user's ``config.toml``, else
    the platform's place for caches.

    Raises:
        SettingsInvalid: the file is malformed.
    """
    named = os.environ.get("TRINITY_MLX_CACHE") or preferences.read(config_dir()).get("cache")
    if named:
        return preferences.place(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / APP
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / APP


def hash_memory() -> Path:
    """The file that remembers hashes of large weight files."""
    return cache_dir() / "hashes.json"


def store() -> Store:
    """What has been fetched and built, in the cache."""
    from ..downloads.store import Store

    return Store(cache_dir())


def hub_is_offline() -> bool:
    """Whether the user told the Hugging Face libraries to stay off the network (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def hub_token() -> str | None:
    """The user's token for the Hugging Face Hub: ``HF_TOKEN``, or what ``hf auth login`` has kept."""
    from huggingface_hub import constants, get_token

    return None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()


def prepare_process(show_native_logs: bool = False) -> None:
    """Settings that libraries read from the environment when they are first used.

    MLX may shorten float32 products to TF32 on hardware that has it; a router asked for float32 means float32. cuBLAS
    gives the same bits every time with a fixed work space. What frameworks log about themselves is kept away from
    people unless they ask for it. At the end nobody looks through a framework's objects for garbage.
    """
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    atexit.register(gc.freeze)
    for variable, quiet, loud in _NATIVE_LOGS:
        os.environ.setdefault(variable, loud if show_native_logs else quiet)


def environment() -> Mapping[str, str]:
    """The environment, for a pool's ``env:`` references."""
    return os.environ

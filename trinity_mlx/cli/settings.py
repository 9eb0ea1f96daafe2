"""Where this user's settings and caches lie: the environment is read here and nowhere below."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..downloads.store import Store

APP = "trinity-mlx"


def config_dir() -> Path:
    """The folder of the user's own files: ``$TRINITY_MLX_CONFIG``, else the platform's place for settings."""
    named = os.environ.get("TRINITY_MLX_CONFIG")
    return Path(named) if named else Path(click.get_app_dir(APP))


def cache_dir() -> Path:
    """The folder of what can be made again: ``$TRINITY_MLX_CACHE``, else the platform's place for caches."""
    named = os.environ.get("TRINITY_MLX_CACHE")
    if named:
        return Path(named)
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


def prepare_process() -> None:
    """Settings that libraries read from the environment when they are first used.

    MLX may shorten float32 products to TF32 on hardware that has it; a router asked for float32 means float32.
    """
    os.environ.setdefault("MLX_ENABLE_TF32", "0")


def environment() -> Mapping[str, str]:
    """The environment, for a pool's ``env:`` references."""
    return os.environ

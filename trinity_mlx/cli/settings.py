"""Where this user's settings and caches lie: the environment is read here and nowhere below."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..contracts.errors import HomeUnavailable
from . import preferences

if TYPE_CHECKING:
    from ..contracts.access import S3, Hub
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


def hub() -> Hub:
    """The Hugging Face Hub as this user reaches it.

    The token is ``HF_TOKEN``, or what ``hf auth login`` has kept; address, cache and offline use are those of the
    Hugging Face libraries (``HF_ENDPOINT``, ``HF_HOME``, ``HF_HUB_OFFLINE``, ...).
    """
    from huggingface_hub import constants, get_token

    from ..contracts.access import Hub

    try:
        token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    except Exception as error:  # a login that expired is renewed over the network, by whatever means it was made
        raise HomeUnavailable(f"your token for the Hub cannot be had: {_one_line(error)}") from None
    return Hub(token, constants.ENDPOINT, Path(constants.HF_HUB_CACHE), constants.HF_HUB_OFFLINE)


def s3() -> S3:
    """S3 as this user reaches it: what the AWS tools would take from the environment, their files and the machine.

    Without credentials there it is asked without any.
    """
    from ..contracts.access import S3

    try:
        from botocore.configprovider import ConfiguredEndpointProvider  # type: ignore[import-untyped]
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
        from botocore.session import Session  # type: ignore[import-untyped]
    except ImportError:
        return S3()
    try:
        session = Session()
        credentials = session.get_credentials()
        frozen = credentials.get_frozen_credentials() if credentials else None
        endpoints = ConfiguredEndpointProvider(session.full_config, session.get_scoped_config(), "s3")
        return S3(
            key=frozen.access_key if frozen else None,
            secret=frozen.secret_key if frozen else None,
            session_token=frozen.token if frozen else None,
            region=os.environ.get("AWS_REGION") or session.get_config_variable("region"),
            endpoint=endpoints.provide(),
            ca_file=session.get_config_variable("ca_bundle"),
        )
    except (BotoCoreError, OSError) as error:
        raise HomeUnavailable(f"your credentials for S3 cannot be read: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def prepare_process(show_native_logs: bool = False) -> None:
    """Settings that libraries read from the environment when they are first used.

    MLX may shorten float32 products to TF32 on hardware that has it; a router asked for float32 means float32. cuBLAS
    gives the same bits every time with a fixed work space. What frameworks log about themselves is kept away from
    people unless they ask for it.
    """
    os.environ.setdefault("MLX_ENABLE_TF32", "0")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    for variable, quiet, loud in _NATIVE_LOGS:
        os.environ.setdefault(variable, loud if show_native_logs else quiet)


def prepare_ray() -> None:
    """Settings that Ray reads from the environment when it is imported: it reports nothing to anybody, and tells people
    of what fails alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")


def environment() -> Mapping[str, str]:
    """The environment, for a pool's ``env:`` references."""
    return os.environ

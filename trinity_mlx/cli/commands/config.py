"""``trinity-mlx config``: the user's own settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .. import preferences, settings
from ..artifact_choice import AUTO, user_library
from ..options import TEXT, json_option
from ..output import console, note, print_json
from ..tables import plain_table

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLACES = ("cache", "log_file")
"""Settings that are never names."""


@click.group()
def config() -> None:
    """Set the defaults of options.

    The settings lie in config.toml, in your configuration folder. An option on the command line wins over the
    environment, and the environment over the file. Providers' keys do not belong here: pools refer to them.

    \b
    Examples:
      trinity-mlx config set profile cpu
      trinity-mlx config show
    """


@config.command()
@json_option
def show(as_json: bool) -> None:
    """Show every setting, its value, and where that comes from.

    \b
    Example:
      trinity-mlx config show --json
    """
    folder, environment = settings.config_dir(), settings.environment()
    values = {key: preferences.value_of(key, folder, environment) for key in preferences.KEYS}
    if as_json:
        print_json({key: {"value": value, "from": origin} for key, (value, origin) in values.items()})
    else:
        _print(values)


@config.command("set")
@click.argument("key", type=click.Choice(list(preferences.KEYS)))
@click.argument("value", type=TEXT)
def set_(key: str, value: str) -> None:
    """Write KEY = VALUE into the file; its other lines stay as they are.

    \b
    Example:
      trinity-mlx config set pool home
    """
    value = _settled(key, value)
    path = preferences.write(settings.config_dir(), key, value)
    note(f"{key} is now {value}, in {path}")


@config.command()
@click.argument("key", type=click.Choice(list(preferences.KEYS)))
def unset(key: str) -> None:
    """Take KEY out of the file.

    \b
    Example:
      trinity-mlx config unset pool
    """
    path = preferences.write(settings.config_dir(), key, None)
    note(f"{key} is no longer in {path}")


@config.command()
def path() -> None:
    """Print where the file lies, whether it is there or not.

    \b
    Example:
      $EDITOR "$(trinity-mlx config path)"
    """
    click.echo(settings.config_dir() / preferences.NAME)


def _settled(key: str, value: str) -> str:
    """``value`` as it means the same from every folder: a place from the root on, a name as it is.

    A name that cannot be used on this machine is taken; one that nothing has is not.

    Raises:
        UnknownProfile, ArtifactNotFound, PoolInvalid: nothing has that name; the message has the names that there are.
        TrinityError: what has the name is broken.
    """
    is_name = {"profile": _is_profile, "artifact": _is_artifact, "pool": _is_pool}.get(
        key, lambda name: key not in _PLACES
    )
    return value if not value or is_name(value) else str(preferences.place(value).absolute())


def _is_profile(value: str) -> bool:
    from ...profiles.registry import ProfileRegistry

    if value != AUTO:
        ProfileRegistry(settings.config_dir()).get(value)
    return True


def _is_artifact(value: str) -> bool:
    """Whether it is a name, and not a bundle's folder."""
    from ...artifacts.catalog import EMBEDDED
    from ...downloads.pins import shipped_pins

    user_library().name_of(value)
    return value in (AUTO, *EMBEDDED, *shipped_pins()) or settings.store().find(value) is not None


def _is_pool(value: str) -> bool:
    """Whether it is a name, and not a file."""
    from ...pools.files import find_pool, pool_names

    find_pool(value, settings.config_dir())
    return value in pool_names(settings.config_dir())


def _print(values: Mapping[str, tuple[str, str]]) -> None:
    from rich.markup import escape

    table = plain_table("setting", "value", "from", "")
    for key, (value, origin) in values.items():
        table.add_row(key, escape(value or "-"), origin, f"[dim]{escape(preferences.KEYS[key].summary)}[/]")
    console().print(table)

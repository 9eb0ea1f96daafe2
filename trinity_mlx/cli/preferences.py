"""The user's ``config.toml``: what options mean when nobody gives them. No secret belongs in it.

An option on the command line wins over the environment, that over this file, and this over what is built in.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..contracts.errors import SettingsInvalid


class Key(NamedTuple):
    """One setting: the variable that goes before the file, what is built in, what it is, and all that it may be."""

    variable: str
    builtin: str
    summary: str
    choices: tuple[str, ...] = ()


KEYS: Mapping[str, Key] = {
    "artifact": Key("TRINITY_ARTIFACT", "auto", "the router: a name or a folder"),
    "profile": Key("TRINITY_PROFILE", "auto", "the runtime profile"),
    "pool": Key("TRINITY_POOL", "demo", "the agents of a run: a name or a file"),
    "policy": Key("TRINITY_POLICY", "default", "how a run is coordinated", ("default", "published")),
    "cache": Key("TRINITY_MLX_CACHE", "the platform's place for caches", "the folder of what can be made again"),
    "log_file": Key("TRINITY_LOG_FILE", "", "where to append a line of JSON for each event"),
    "log_level": Key(
        "TRINITY_LOG_LEVEL", "info", "debug, info, warning or error", ("debug", "info", "warning", "error")
    ),
}
NAME = "config.toml"


def read(folder: Path) -> dict[str, str]:
    """What the file in ``folder`` says; nothing where there is none.

    Raises:
        SettingsInvalid: it cannot be read, or is not TOML, or holds a setting that there is not, or no text for one.
    """
    path = folder / NAME
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise SettingsInvalid(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise SettingsInvalid(f"{path} is not TOML: {error}") from None
    for key, value in values.items():
        if key not in KEYS:
            raise SettingsInvalid(f"{path} sets {key!r}, and there is no such setting: there are {', '.join(KEYS)}")
        if not isinstance(value, str) or not value:
            raise SettingsInvalid(f"{path}: {key} is {value!r}, and must be a text")
        _check_choice(key, value, f"{path}: ")
    return values


def value_of(key: str, folder: Path, environment: Mapping[str, str]) -> tuple[str, str]:
    """The value of a setting, and where it comes from: the variable, the file, or ``built in``."""
    known = KEYS[key]
    if environment.get(known.variable):
        return environment[known.variable], known.variable
    written = read(folder)
    return (written[key], NAME) if key in written else (known.builtin, "built in")


def place(text: str) -> Path:
    """A path in the file, ``~`` expanded.

    Raises:
        SettingsInvalid: it begins with a user whom this machine does not know.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise SettingsInvalid(f"{text!r} begins with a user whom this machine does not know") from None


def write(folder: Path, key: str, value: str | None) -> Path:
    """Set ``key`` in the file, or take it out for None; every other line stays as it is.

    Raises:
        SettingsInvalid: there is no such setting, the file is broken or laid out so that a line cannot be changed by
            itself, or ``value`` is empty or not one line.
        FolderUnavailable: the file cannot be written.
    """
    from ..files.atomic import write_file

    if key not in KEYS:
        raise SettingsInvalid(f"there is no setting {key!r}: there are {', '.join(KEYS)}")
    if value is not None and not (value and value.isprintable()):
        raise SettingsInvalid(f"{key} cannot be {value!r}: give a text in one line")
    if value is not None:
        _check_choice(key, value)
    path, wanted = folder / NAME, {**read(folder), key: value}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    lines = [line for line in lines if not re.match(rf"\s*[\"']?{key}[\"']?\s*=", line)]
    text = "\n".join([*lines, *([] if value is None else [f"{key} = {json.dumps(value, ensure_ascii=False)}"]), ""])
    if _parsed(text) != {name: each for name, each in wanted.items() if each is not None}:
        raise SettingsInvalid(f"{path} is laid out in a way that only its author can change: edit {key} there")
    write_file(path, text.encode())
    return path


def _check_choice(key: str, value: str, where: str = "") -> None:
    choices = KEYS[key].choices
    if choices and value not in choices:
        raise SettingsInvalid(
            f"{where}{key} cannot be {value[:80]!r}: it is {', '.join(choices[:-1])} or {choices[-1]}"
        )


def _parsed(text: str) -> dict[str, object] | None:
    try:
        return tomllib.loads(text)
    except ValueError:
        return None

"""Files as models: read strictly, with the place of the first fault, in one line for people."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..contracts.canonical import unique_keys
from ..contracts.errors import TrinityError
from .regular import read_bounded, read_regular

M = TypeVar("M", bound=BaseModel)

_NOT_PLAIN = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")
_LONGEST = 400
"""Characters of a fault; what a file says is never repeated without bound."""


class Strict(BaseModel):
    """A file, or a part of one, in which nothing else may stand."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class Lenient(BaseModel):
    """A file of others, or a part of one: strict about what is used, and past the rest."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class Faults(NamedTuple):
    """How to speak of a file that is no good.

    ``invalid`` is raised for its content, ``unreadable`` (``invalid`` where it is None) where it cannot be read.
    ``whole`` names what lies nowhere in particular, and ``hidden`` are parts of a place that mean nothing to people.
    """

    invalid: type[TrinityError]
    unreadable: type[TrinityError] | None = None
    whole: str = "the whole"
    hidden: Collection[str | int] = ()


def read_model(
    path: Path, model: type[M], faults: Faults, *, versions: Sequence[int] = (), inner: bool = False
) -> tuple[M, str]:
    """A JSON file as ``model``, and the sha256 of its bytes.

    Args:
        path: of the file.
        model: what it must hold.
        faults: what to raise.
        versions: those that its key ``version`` may have, ascending, where it has such a key.
        inner: it is a part of a folder and so a regular file; one that a user named may come through a pipe.

    Raises:
        TrinityError: as ``faults`` says.
    """
    content = read_content(path, faults, inner=inner)
    return parse_model(content, model, str(path), faults, versions=versions), hashlib.sha256(content).hexdigest()


def read_content(path: Path, faults: Faults, *, inner: bool = False, origin: str | None = None) -> bytes:
    """The file's bytes, which are called ``origin`` in messages; see ``read_model``.

    Raises:
        TrinityError: they cannot be had, as ``faults`` says.
    """
    try:
        if inner:
            return read_regular(path)
        with path.open("rb") as file:
            return read_bounded(file, path)
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:  # a null byte in the name
        reason = str(error)
    raise (faults.unreadable or faults.invalid)(f"cannot read {plain(origin or str(path))}: {reason}")


def parse_model(raw: bytes, model: type[M], origin: str, faults: Faults, *, versions: Sequence[int] = ()) -> M:
    """The JSON text ``raw``, which is called ``origin`` in messages, as ``model``.

    Raises:
        TrinityError: it is not one, as ``faults`` says.
    """

    def parsed() -> M:
        value = json.loads(raw, object_pairs_hook=unique_keys)
        if versions:
            _check_version(value, versions)
        return model.model_validate_json(raw)

    return _telling(parsed, origin, "JSON", faults)


def parse_toml(raw: bytes, origin: str, faults: Faults) -> dict[str, Any]:
    """The tables of the TOML text ``raw``, which is called ``origin`` in messages.

    Raises:
        TrinityError: it is none, as ``faults`` says.
    """
    return _telling(lambda: tomllib.loads(raw.decode("utf-8")), origin, "TOML", faults)


def as_model(value: Any, model: type[M], origin: str, faults: Faults) -> M:
    """``value``, which was read from ``origin``, as ``model``.

    Raises:
        TrinityError: it is not one, as ``faults`` says.
    """
    return _telling(lambda: model.model_validate(value), origin, "readable", faults)


def plain(text: str) -> str:
    """``text`` in one line that every terminal and file can hold: what controls or is no character becomes U+FFFD."""
    return _NOT_PLAIN.sub("\ufffd", text)


def first_fault(error: ValidationError, whole: str = "the whole", hidden: Collection[str | int] = ()) -> str:
    """Where the first fault lies and what it is. A text is never repeated: it may be a key in the wrong place.

    Args:
        error: what validation raised.
        whole: what to call the place of a fault that lies nowhere in particular.
        hidden: parts of a place that mean nothing to people.
    """
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part)[:80] for part in first["loc"] if part not in hidden) or whole
    value = first["input"]
    given = f", not {value!r:.80}" if isinstance(value, bool | int | float) else ""
    what = {"extra_forbidden": f"{where}: there is no such setting", "missing": f"{where} is missing"}
    fault = what.get(first["type"]) or f"{where}: {first['msg'].removeprefix('Value error, ')}{given}"
    return plain(fault)[:_LONGEST]


T = TypeVar("T")


def _telling(parse: Callable[[], T], origin: str, kind: str, faults: Faults) -> T:
    try:
        return parse()
    except _OtherVersion as error:
        raise faults.invalid(f"{plain(origin)} has version {error}") from None
    except ValidationError as error:
        raise faults.invalid(f"{plain(origin)}: {first_fault(error, faults.whole, faults.hidden)}") from None
    except (ValueError, RecursionError, OverflowError) as error:
        raise faults.invalid(f"{plain(origin)} is not valid {kind}: {plain(str(error))[:_LONGEST]}") from None


class _OtherVersion(Exception):
    """The file is of another version than this release reads."""


def _check_version(value: object, versions: Sequence[int]) -> None:
    stated = value.get("version") if isinstance(value, dict) else None
    if type(stated) is not int or stated not in versions:
        raise _OtherVersion(f"{stated!r:.80}, and this release reads version {' and '.join(map(str, versions))}")

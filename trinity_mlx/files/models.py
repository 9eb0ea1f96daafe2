"""What pydantic found wrong, in one line for people."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import ValidationError


def first_fault(error: ValidationError, whole: str = "the whole", hidden: Collection[str | int] = ()) -> str:
    """Where the first fault lies and what it is. A text is never repeated: it may be a key in the wrong place.

    Args:
        error: what validation raised.
        whole: what to call the place of a fault that lies nowhere in particular.
        hidden: parts of a place that mean nothing to people.
    """
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"] if part not in hidden) or whole
    if first["type"] == "extra_forbidden":
        return f"{where}: there is no such setting"
    if first["type"] == "missing":
        return f"{where} is missing"
    value = first["input"]
    given = f", not {value!r}" if isinstance(value, bool | int | float) else ""
    return f"{where}: {first['msg'].removeprefix('Value error, ')}{given}"

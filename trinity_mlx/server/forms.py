"""Answers in a form that was asked for: JSON, perhaps of a schema, checked before it is released."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..contracts.provider import ResponseFormat
from .problems import invalid

_FENCED = re.compile(r"\A\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
_SCHEMA_BYTES = 256 * 1024
REPAIR = (
    "That answer does not have the form that was asked for: {fault}. Give the whole answer again as JSON of that form, "
    "and nothing besides."
)


class FormInvalid(Exception):
    """The answer does not have the form that was asked for; the message says where."""


def check_schema(wanted: ResponseFormat) -> None:
    """Refuse a schema that is none, before anything is spent on it.

    Raises:
        Problem: it is no JSON schema, or too large.
    """
    if wanted.schema is None:
        return
    from jsonschema import Draft202012Validator, SchemaError  # type: ignore[import-untyped]

    if len(json.dumps(wanted.schema)) > _SCHEMA_BYTES:
        raise invalid(f"the schema is larger than {_SCHEMA_BYTES} bytes", "response_format")
    try:
        Draft202012Validator.check_schema(wanted.schema)
    except (SchemaError, RecursionError) as error:
        raise invalid(f"the schema is not a JSON schema: {_brief(error)}", "response_format") from None


def formed(text: str, wanted: ResponseFormat) -> str:
    """The JSON in ``text``, without a fence around it, if it has the form that is wanted.

    Raises:
        FormInvalid: it has not.
    """
    fenced = _FENCED.match(text)
    body = (fenced[1] if fenced else text).strip()
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FormInvalid(f"it is not JSON ({_brief(error)})") from None
    if wanted.schema is None:
        if not isinstance(value, dict):
            raise FormInvalid("it is JSON, but not an object")
    else:
        _check(value, wanted.schema)
    return body


def _check(value: Any, schema: Mapping[str, Any]) -> None:
    """``value`` against ``schema``; a reference to elsewhere is never fetched."""
    from jsonschema import Draft202012Validator
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    validator = Draft202012Validator(schema, registry=Registry())
    try:
        fault = next(iter(validator.iter_errors(value)), None)
    except (Unresolvable, RecursionError) as error:
        raise FormInvalid(f"the schema cannot be followed ({_brief(error)})") from None
    if fault is not None:
        where = "/".join(map(str, fault.absolute_path)) or "the whole"
        raise FormInvalid(f"at {where[:100]}: {fault.message[:300]}")


def _brief(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

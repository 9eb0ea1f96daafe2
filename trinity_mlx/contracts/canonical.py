"""Canonical JSON and hashes: the same bytes on every machine and in every version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any


def canonical_json(value: Any) -> bytes:
    """``value`` as UTF-8 JSON with sorted keys, no white space and no escaping beyond what JSON demands.

    Floats are refused, since their text differs between writers: pass them as strings (see ``fixed6``).

    Raises:
        TypeError: a float, or anything that JSON has no form for.
    """
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def canonical_sha256(value: Any) -> str:
    """Lower-case hexadecimal sha256 of ``canonical_json(value)``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def fixed6(number: float) -> str:
    """``number`` with exactly six decimals; negative zero becomes zero."""
    text = f"{number:.6f}"
    return "0.000000" if text == "-0.000000" else text


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of ``pairs``, for ``json.loads(..., object_pairs_hook=unique_keys)``.

    Raises:
        ValueError: a key stands there twice, so that readers could differ on which one counts.
    """
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise ValueError("a key stands there twice")
    return unique


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        raise TypeError(f"canonical JSON takes no float ({value!r}): format it as text first")
    if isinstance(value, Mapping):
        for item in value.values():
            _refuse_floats(item)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            _refuse_floats(item)

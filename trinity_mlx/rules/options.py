"""Options read from plain values, as a command line or a file has them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import NoneType
from typing import Any, get_args

from ..contracts.errors import PolicyInvalid


@dataclass(frozen=True, slots=True)
class OptionReader:
    """Reads the values of one option.

    Attributes:
        convert: makes a value from a plain or a typed one.
        expected: what to call such a value in a message.
        is_optional: whether there may be none, also spelled ``"none"``.
    """

    convert: Callable[[Any], Any]
    expected: str
    is_optional: bool

    @classmethod
    def of(cls, kind: Any) -> OptionReader:
        """For options of type ``kind``: int, float, bool, str or a ``StrEnum``, or ``| None`` with one of them."""
        required, *others = get_args(kind) or (kind,)
        if issubclass(required, StrEnum):
            return cls(required, f"one of {', '.join(required)}", NoneType in others)
        return cls(*_CONVERSIONS[required], NoneType in others)

    def read(self, name: str, value: Any) -> Any:
        """The value of the option ``name`` that ``value`` stands for.

        Raises:
            PolicyInvalid: it stands for none.
        """
        if self.is_optional and (value is None or value == "none"):
            return None
        try:
            return self.convert(value)
        except (ValueError, KeyError, OverflowError):
            expected = f"{self.expected} or none" if self.is_optional else self.expected
            raise PolicyInvalid(f"policy option {name} is {value!r}: it must be {expected}") from None


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}[str(value).lower()]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


_CONVERSIONS: dict[type, tuple[Callable[[Any], Any], str]] = {
    int: (_whole, "a whole number"),
    float: (_number, "a finite number"),
    bool: (_flag, "true or false"),
    str: (_text, "a text"),
}

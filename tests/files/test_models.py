"""What pydantic found wrong, in one line for people."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from trinity_mlx.files.models import first_fault


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    size: int = Field(ge=1)
    name: str = "x"

    @field_validator("name")
    @classmethod
    def no_digits(cls, value: str) -> str:
        if any(character.isdigit() for character in value):
            raise ValueError("a name has no digits")
        return value


class Outer(BaseModel):
    parts: list[Inner]


def fault(value: Any, **options: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(value)
    return first_fault(caught.value, **options)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({}, "parts is missing"),
        ({"parts": [{}]}, "parts.0.size is missing"),
        ({"parts": [{"size": 1, "colour": "red"}]}, "parts.0.colour: there is no such setting"),
        ({"parts": [{"size": 0}]}, "parts.0.size: Input should be greater than or equal to 1, not 0"),
        ({"parts": [{"size": True}]}, "parts.0.size: Input should be a valid integer, not True"),
        ({"parts": [{"size": 1, "name": "a1"}]}, "parts.0.name: a name has no digits"),
    ],
)
def test_the_place_and_the_fault_are_named(value: Any, line: str) -> None:
    assert fault(value) == line


def test_a_text_is_never_repeated() -> None:
    assert "sk-secret" not in fault({"parts": [{"size": "sk-secret"}]})


def test_the_whole_and_hidden_parts_of_a_place() -> None:
    assert fault([], whole="manifest").startswith("manifest: ")
    assert fault({"parts": [{}]}, hidden=(0,)) == "parts.size is missing"

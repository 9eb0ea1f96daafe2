"""What pydantic found wrong, in one line for people."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from trinity_mlx.contracts.errors import PinInvalid
from trinity_mlx.files.models import Faults, Strict, first_fault, read_content, read_model


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


class Versioned(Strict):
    version: int
    name: str


FAULTS = Faults(PinInvalid, whole="pin")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"version": 1, "name": "\\ud800"}', "Invalid JSON"),
        (b'{"version": 1, "name": "a", "name": "b"}', "a key stands there twice"),
        (b'{"version": 2, "name": "a"}', "has version 2, and this release reads version 1"),
        (b'{"version": true, "name": "a"}', "has version True"),
        (b"[]", "has version None"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"version": 1' + b"0" * 5000 + b"}", "not valid JSON"),
        (b'{"version": 1, "name": NaN}', "name"),
        (b"\xff", "not valid JSON"),
        (b'{"version": 1, "name": "a", "' + b"x" * 10_000 + b'": 1}', "there is no such setting"),
        (b'{"version": 1, "name": "a", "\\u0000\\n": 1}', "there is no such setting"),
    ],
)
def test_a_file_that_is_no_good_is_said_in_one_short_line(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "pin.json").write_bytes(content)
    with pytest.raises(PinInvalid) as caught:
        read_model(tmp_path / "pin.json", Versioned, FAULTS, versions=(1,))
    assert says in str(caught.value)
    assert len(str(caught.value)) < len(str(tmp_path)) + 500
    assert str(caught.value).isprintable()


def test_a_part_of_a_folder_is_a_regular_file_and_what_a_user_names_may_be_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(PinInvalid, match="no regular file"):
        read_model(pipe, Versioned, FAULTS, inner=True)
    writer = threading.Thread(target=pipe.write_bytes, args=(b'{"version": 1, "name": "a"}',))
    writer.start()
    assert read_model(pipe, Versioned, FAULTS)[0].name == "a"
    writer.join()


@pytest.mark.parametrize("inner", [True, False])
def test_a_device_that_never_ends_is_refused(inner: bool) -> None:
    with pytest.raises(PinInvalid, match=r"regular file|more than"):
        read_content(Path("/dev/zero"), FAULTS, inner=inner)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "\ud800", "gone"])
def test_a_name_that_no_file_has_is_said(tmp_path: Path, name: str) -> None:
    for inner in (True, False):
        with pytest.raises(PinInvalid, match="cannot read"):
            read_content(tmp_path / name, FAULTS, inner=inner)

"""Dataclasses as JSON and back: the same object, or a ValueError that names the place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.plain import from_plain, to_plain
from trinity_mlx.contracts.provider import Request, ResponseFormat, Sampling, Tool, ToolChoice, ToolMode
from trinity_mlx.contracts.routing import Role
from trinity_mlx.contracts.transcript import Message


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Leaf:
    kind: ClassVar[str] = "leaf"
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Thorn:
    kind: ClassVar[str] = "thorn"
    sharp: bool = True


@dataclass(frozen=True, slots=True)
class Plant:
    name: str
    grown: tuple[Leaf | Thorn, ...] = ()
    size: float = 1.0
    pair: tuple[int, str] = (0, "")
    colours: frozenset[Colour] = frozenset()
    seats: Mapping[int, Role] = field(default_factory=dict)
    free: Mapping[str, Any] = field(default_factory=dict)
    near: Plant | None = None
    text: str | tuple[Leaf, ...] = ""


PARTS = st.one_of(st.builds(Leaf, st.binary(max_size=4)), st.builds(Thorn, st.booleans()))
PLANTS = st.recursive(
    st.builds(
        Plant,
        st.text(max_size=4),
        st.lists(PARTS, max_size=3).map(tuple),
        st.floats(allow_nan=False),
        st.tuples(st.integers(), st.text(max_size=3)),
        st.frozensets(st.sampled_from(Colour)),
        st.dictionaries(st.integers(), st.sampled_from(Role), max_size=3),
        st.dictionaries(st.text(max_size=3), st.none() | st.booleans() | st.text(max_size=3), max_size=3),
        text=st.one_of(st.text(max_size=3), st.lists(st.builds(Leaf), max_size=2).map(tuple)),
    ),
    lambda inner: st.builds(Plant, st.text(max_size=4), near=inner),
    max_leaves=3,
)


@given(PLANTS)
def test_what_is_written_is_read_as_the_same_object(plant: Plant) -> None:
    written = json.loads(json.dumps(to_plain(plant)))
    assert from_plain(Plant, written) == plant


def test_defaults_are_left_out_and_members_of_a_union_carry_their_kind() -> None:
    assert to_plain(Plant("rose", (Thorn(), Leaf(b"\x00")))) == {
        "name": "rose",
        "grown": [{"type": "thorn"}, {"type": "leaf", "data": "AA=="}],
    }


def test_a_request_is_read_back_as_itself() -> None:
    request = Request(
        (Message("user", "a"),),
        Role.VERIFIER,
        3,
        (Tool("f", "d", {"type": "object", "n": 1.5}, True),),
        ToolChoice(ToolMode.NAMED, "f", False),
        ResponseFormat({"a": [None]}),
        Sampling(0.0, 1, 5, ("x",), 0),
    )
    assert from_plain(Request, json.loads(json.dumps(to_plain(request)))) == request


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "value is list, not an object"),
        ({}, "value has no name"),
        ({"name": 1}, r"value\.name is int, not str"),
        ({"name": "a", "thorns": 1}, "unknown field 'thorns'"),
        ({"name": "a", "size": True}, r"value\.size is bool"),
        ({"name": "a", "grown": [{"type": "stone"}, 1]}, r"value\.grown\[1\] is int, and none of Leaf, Thorn"),
        ({"name": "a", "grown": [{"type": "leaf", "data": "?"}]}, r"value\.grown\[0\]\.data"),
        ({"name": "a", "colours": ["green"]}, r"value\.colours\[0\]: 'green'"),
        ({"name": "a", "pair": [1]}, r"value\.pair has 1 items, not 2"),
        ({"name": "a", "seats": {"x": 0}}, "value.seats: invalid literal"),
        ({"name": "a", "near": {"name": None}}, r"value\.near\.name is NoneType"),
    ],
)
def test_another_shape_is_refused_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_plain(Plant, value)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*Plant.__slots__, "type"]), inner, max_size=4)  # type: ignore[attr-defined]
    ),
    max_leaves=8,
)


@given(JSON_VALUES)
def test_any_json_value_is_an_object_or_a_value_error(value: Any) -> None:
    try:
        plant = from_plain(Plant, value)
    except ValueError:
        return
    assert from_plain(Plant, json.loads(json.dumps(to_plain(plant)))) == plant


def test_what_has_no_plain_form_is_refused() -> None:
    with pytest.raises(TypeError, match="complex has no plain form"):
        to_plain({"a": [1j]})

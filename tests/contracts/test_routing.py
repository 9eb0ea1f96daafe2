"""Logits, selections and decisions: what is refused, what identifies a route, what a user reads as JSON."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.canonical import canonical_json, fixed6
from trinity_mlx.contracts.errors import ArtifactError, NonFiniteLogits, SelectionError, UsageError
from trinity_mlx.contracts.routing import (
    ArtifactIdentity,
    Choice,
    Margins,
    Probabilities,
    Role,
    RouteDecision,
    RouteLogits,
    Selection,
    SelectionMode,
    Timings,
)

LOGITS = RouteLogits(agent=(0.5, -1.25, 2.0000004), role=(1.0, -0.0, -3.5))
CHOICE = Choice(
    slot=2,
    role=Role.WORKER,
    margins=Margins(agent=1.5, role=1.0),
    ranking=(2, 0, 1),
    selection=Selection(),
)
DECISION = RouteDecision(
    choice=CHOICE,
    label="writing",
    logits=LOGITS,
    token_count=15,
    reused_tokens=3,
    transcript_hash="a" * 64,
    artifact=ArtifactIdentity("nano", "b" * 64, "c" * 64),
    profile="cpu",
    timings=Timings(load=12.34567, route=1.5),
)
FINITE = st.floats(-(2.0**100), 2.0**100, width=32)


def with_logits(agent: tuple[float, ...], role: tuple[float, ...] = (0.0, 0.0, 0.0)) -> RouteDecision:
    return replace(DECISION, logits=RouteLogits(agent, role))


def test_route_hash_of_a_known_decision_is_a_known_literal() -> None:
    assert DECISION.route_hash == "4e2ce25ac4e04b98f980241d141b7bb2f31fbd83c692a4059a877ad0bd368a0e"


@given(st.lists(FINITE, min_size=1, max_size=8), st.tuples(FINITE, FINITE, FINITE), st.integers(0, 7))
def test_route_hash_follows_its_docstring(agent: list[float], role: tuple[float, float, float], slot: int) -> None:
    decision = replace(with_logits(tuple(agent), role), choice=replace(CHOICE, slot=slot, role=Role.VERIFIER))
    described = {
        "logits": {"agent": [six(value) for value in agent], "role": [six(value) for value in role]},
        "role": 2,
        "slot": slot,
    }
    text = json.dumps(described, separators=(",", ":"))
    assert decision.route_hash == hashlib.sha256(text.encode()).hexdigest()


def six(value: float) -> str:
    return f"{round(value, 6) + 0.0:.6f}"


def test_route_hash_sees_a_change_in_the_sixth_decimal_and_none_in_the_eighth() -> None:
    assert with_logits((0.1,)).route_hash == with_logits((0.10000001,)).route_hash
    assert with_logits((0.1,)).route_hash != with_logits((0.100001,)).route_hash


@pytest.mark.parametrize("zero", [-0.0, -1e-9, -4.9e-7])
def test_route_hash_takes_negative_zero_for_zero(zero: float) -> None:
    assert with_logits((zero,)).route_hash == with_logits((0.0,)).route_hash


def test_route_hash_depends_on_slot_role_and_on_which_split_a_logit_belongs_to() -> None:
    variants = [
        DECISION,
        replace(DECISION, choice=replace(CHOICE, slot=1)),
        replace(DECISION, choice=replace(CHOICE, role=Role.THINKER)),
        with_logits((1.0, 2.0), (3.0, 4.0, 5.0)),
        with_logits((1.0, 2.0, 3.0), (4.0, 5.0, 0.0)),
    ]
    assert len({variant.route_hash for variant in variants}) == len(variants)


def test_route_hash_depends_on_nothing_else() -> None:
    other = replace(
        DECISION,
        label="x",
        token_count=1,
        profile="mlx",
        timings=Timings(0, 0),
        choice=replace(CHOICE, margins=Margins(None, None), ranking=(), selection=Selection(seed=3)),
    )
    assert other.route_hash == DECISION.route_hash


@given(st.floats(-1e12, 1e12))
def test_fixed6_is_the_nearest_text_with_six_decimals(value: float) -> None:
    text = fixed6(value)
    assert len(text.partition(".")[2]) == 6
    assert math.isclose(float(text), value, rel_tol=1e-15, abs_tol=5.0000001e-7)
    assert text != "-0.000000"


def test_canonical_json_is_sorted_compact_utf8() -> None:
    assert canonical_json({"b": [1, None, True], "a": 'é"'}) == '{"a":"é\\"","b":[1,null,true]}'.encode()


@pytest.mark.parametrize("value", [0.5, [0.5], {"a": [{"b": 0.5}]}, (1.0,)])
def test_canonical_json_refuses_floats_at_any_depth(value: Any) -> None:
    with pytest.raises(TypeError, match="float"):
        canonical_json(value)


def test_decision_as_dict_has_exactly_the_documented_keys() -> None:
    record = DECISION.to_dict()
    documented = {
        "agent": {"slot", "label"},
        "role": {"id", "name"},
        "logits": {"agent", "role"},
        "margins": {"agent", "role"},
        "ranking": None,
        "selection": {"agent", "role", "temperature", "seed"},
        "token_count": None,
        "transcript_hash": None,
        "route_hash": None,
        "artifact": {"name", "adapter_ref", "base_ref"},
        "profile": None,
        "timings_ms": {"load", "route"},
    }
    beyond = {"ties", "probabilities", "reused_tokens", "left_out", "guard"}
    assert set(record) == set(documented) | beyond
    assert {key: set(record[key]) for key, inner in documented.items() if inner} == {
        key: inner for key, inner in documented.items() if inner
    }


def test_decision_as_dict_says_what_the_decision_says() -> None:
    assert DECISION.to_dict() == {
        "agent": {"slot": 2, "label": "writing"},
        "role": {"id": 0, "name": "Worker"},
        "logits": {"agent": [0.5, -1.25, 2.0000004], "role": [1.0, 0.0, -3.5]},
        "margins": {"agent": 1.5, "role": 1.0},
        "ranking": [2, 0, 1],
        "ties": {"agent": [], "role": []},
        "guard": {"heard": True, "spoke": None, "distance": None},
        "selection": {"agent": "argmax", "role": "argmax", "temperature": 1.0, "seed": None},
        "probabilities": None,
        "token_count": 15,
        "reused_tokens": 3,
        "left_out": None,
        "transcript_hash": "a" * 64,
        "route_hash": DECISION.route_hash,
        "artifact": {"name": "nano", "adapter_ref": "b" * 64, "base_ref": "c" * 64},
        "profile": "cpu",
        "timings_ms": {"load": 12.346, "route": 1.5},
    }


def test_decision_survives_a_json_round_trip_with_ties_and_probabilities() -> None:
    choice = replace(
        CHOICE,
        selection=Selection(SelectionMode.SAMPLE, SelectionMode.SOFTMAX, 0.5, 0),
        tied_slots=(0, 2),
        tied_roles=(Role.WORKER, Role.VERIFIER),
        probabilities=Probabilities((0.5, 0.0, 0.5), (0.4, 0.2, 0.4)),
        margins=Margins(None, 0.0),
    )
    record = replace(DECISION, choice=choice).to_dict()
    back = json.loads(json.dumps(record, allow_nan=False))
    assert back == record
    assert back["ties"] == {"agent": [0, 2], "role": [0, 2]}
    assert back["selection"] == {"agent": "sample", "role": "softmax", "temperature": 0.5, "seed": 0}
    assert back["probabilities"] == {"agent": [0.5, 0.0, 0.5], "role": [0.4, 0.2, 0.4]}


def test_roles_have_the_published_ids() -> None:
    assert [(int(role), role.label) for role in Role] == [(0, "Worker"), (1, "Thinker"), (2, "Verifier")]


@given(st.lists(FINITE, min_size=4, max_size=20))
def test_a_row_splits_into_slots_and_three_roles(row: list[float]) -> None:
    logits = RouteLogits.split(row)
    assert list(logits.agent + logits.role) == row
    assert len(logits.role) == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 2, 3, 5])
def test_logits_that_are_not_finite_are_refused(bad: float, place: int) -> None:
    row = [0.0] * 6
    row[place] = bad
    with pytest.raises(NonFiniteLogits, match="not finite") as caught:
        RouteLogits.split(row)
    assert isinstance(caught.value, ArtifactError)


def test_a_plain_word_selects_both_splits() -> None:
    for mode in SelectionMode:
        assert Selection.parse(str(mode)) == Selection(agent=mode, role=mode)


def test_each_split_can_have_a_mode_of_its_own() -> None:
    expected = Selection(SelectionMode.SAMPLE, SelectionMode.SOFTMAX, 0.7, 0)
    assert Selection.parse("agent=sample,role=softmax", 0.7, 0) == expected
    assert Selection.parse(" role=softmax , agent=sample", 0.7, 0) == expected


def test_a_split_that_is_not_named_uses_argmax() -> None:
    assert Selection.parse("role=sample") == Selection(SelectionMode.ARGMAX, SelectionMode.SAMPLE)


@pytest.mark.parametrize("text", ["", "best", "ARGMAX", "agent=best", "agent=", "slot=sample", "=sample", "sample,"])
def test_an_unknown_selection_is_refused_with_what_to_write_instead(text: str) -> None:
    with pytest.raises(SelectionError, match=r"argmax, softmax, sample|agent=, role= or guard="):
        Selection.parse(text)


@pytest.mark.parametrize("temperature", [0.0, -0.0, -1.0, math.nan, math.inf, -math.inf])
def test_a_temperature_must_be_a_number_above_zero(temperature: float) -> None:
    with pytest.raises(SelectionError, match="temperature"):
        Selection(temperature=temperature)


def test_a_seed_must_not_be_negative_and_zero_is_one() -> None:
    assert Selection(seed=0).seed == 0
    with pytest.raises(SelectionError, match="seed is -1") as caught:
        Selection(seed=-1)
    assert isinstance(caught.value, UsageError)

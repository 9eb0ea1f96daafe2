"""Policies: the two that ship, options by name from plain values, and what is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import PolicyInvalid
from trinity_mlx.contracts.routing import Selection, SelectionMode
from trinity_mlx.rules.policy import POLICIES, EarlyVerifier, Policy, Reads

NAMES = [field.name for field in fields(Policy)]


def test_what_the_shipped_policies_say() -> None:
    common = {
        "max_turns": 5,
        "reads": "transcript",
        "agent_selection": "argmax",
        "role_selection": "argmax",
        "temperature": 1.0,
        "seed": None,
        "respect_suggestions": True,
        "max_tool_rounds": 50,
        "review": "none",
        "sticky_margin": None,
        "floor_margin": None,
        "floor_distance": None,
        "default_slot": None,
        "bypass_slot": None,
        "low_agent_margin": 0.0,
        "low_role_margin": 0.0,
        "high_agent_margin": 0.0,
        "high_role_margin": 0.0,
        "missing_margin": "medium",
    }
    assert Policy.named("default").to_dict() == common | {
        "name": "default",
        "early_verifier": "worker",
        "accept_returns": "worker-answer",
        "verdict_words": "tolerant",
        "ask_suggestions": True,
        "worker_synonym": True,
        "roles_in_turn": True,
        "input_answers": False,
        "call_form": "dialogue",
        "fallback": True,
        "on_refusal": "fallback",
        "own_guard": True,
    }
    assert Policy.named("published").to_dict() == common | {
        "name": "published",
        "early_verifier": "error",
        "accept_returns": "verifier-text",
        "verdict_words": "strict",
        "ask_suggestions": False,
        "worker_synonym": False,
        "roles_in_turn": False,
        "input_answers": True,
        "call_form": "plain",
        "fallback": False,
        "on_refusal": "end",
        "own_guard": False,
    }


def test_policies_are_found_by_their_names() -> None:
    assert {name: policy.name for name, policy in POLICIES.items()} == {name: name for name in POLICIES}
    with pytest.raises(PolicyInvalid, match="unknown policy 'strict': use default or published"):
        Policy.named("strict")


@pytest.mark.parametrize("name", POLICIES)
def test_options_survive_json(name: str) -> None:
    policy = Policy.named(name).with_options(
        max_turns=7, seed=0, role_selection="sample", sticky_margin=0.5, floor_margin=0.1, default_slot=2
    )
    plain = json.loads(json.dumps(policy.to_dict()))
    assert list(plain) == NAMES
    assert Policy().with_options(**plain) == policy


@pytest.mark.parametrize("name", POLICIES)
def test_options_survive_a_command_line(name: str) -> None:
    texts = {option: str(value).lower() for option, value in Policy.named(name).to_dict().items()}
    assert Policy().with_options(**texts) == Policy.named(name)


def test_options_change_only_what_they_name() -> None:
    default = Policy.named("default")
    changed = default.with_options(early_verifier="error", max_turns="3", fallback="False", seed="none")
    assert changed == Policy(early_verifier=EarlyVerifier.ERROR, max_turns=3, fallback=False)
    assert default == Policy()
    assert default.with_options() == default


def test_values_are_of_their_own_type_however_they_came() -> None:
    policy = Policy().with_options(reads="worker-answers", temperature=2, max_turns="3", bypass_slot="0")
    assert policy.reads is Reads.WORKER_ANSWERS
    assert isinstance(policy.temperature, float)
    assert (policy.max_turns, policy.bypass_slot) == (3, 0)


def test_selection_is_the_one_that_choose_takes() -> None:
    policy = Policy().with_options(agent_selection="sample", temperature=0.5, seed=0)
    assert policy.selection == Selection(SelectionMode.SAMPLE, SelectionMode.ARGMAX, 0.5, 0)
    assert policy.samples
    assert Policy().with_options(role_selection="sample").samples
    assert not Policy().with_options(role_selection="softmax").samples


def test_any_band_switches_confidence_on() -> None:
    assert not Policy().has_confidence
    assert Policy().with_options(high_role_margin=0.1).has_confidence


def test_an_unknown_option_names_those_that_there_are() -> None:
    with pytest.raises(PolicyInvalid, match=r"unknown policy option 'turns': use name, max_turns, reads"):
        Policy().with_options(turns=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_turns": 0}, "max_turns is 0: it must be 1 or more"),
        ({"max_turns": 2.5}, r"max_turns is 2.5: it must be a whole number"),
        ({"max_turns": True}, "max_turns is True: it must be a whole number"),
        ({"max_turns": "many"}, "max_turns is 'many': it must be a whole number"),
        ({"max_turns": None}, "max_turns is None: it must be a whole number"),
        ({"max_turns": "none"}, "max_turns is 'none'"),
        ({"reads": "all"}, "reads is 'all': it must be one of transcript, worker-answers"),
        ({"early_verifier": None}, "early_verifier is None: it must be one of worker, error, allow"),
        ({"fallback": "yes"}, "fallback is 'yes': it must be true or false"),
        ({"fallback": 1}, "fallback is 1: it must be true or false"),
        ({"name": ""}, "name is '': it must be a text"),
        ({"temperature": 0}, "temperature is 0.0"),
        ({"temperature": False}, "temperature is False: it must be a finite number"),
        ({"temperature": "nan"}, "temperature is 'nan': it must be a finite number"),
        ({"temperature": 10**400}, "it must be a finite number"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0.5}, "seed is 0.5: it must be a whole number or none"),
        ({"sticky_margin": 0}, "sticky_margin is 0.0: it must be above 0"),
        ({"sticky_margin": float("inf")}, "sticky_margin is inf: it must be a finite number or none"),
        ({"floor_margin": 0.5}, "belong together"),
        ({"default_slot": 0}, "belong together"),
        ({"floor_margin": -1, "default_slot": 0}, "floor_margin is -1.0: it must be above 0"),
        ({"floor_margin": 1, "default_slot": -1}, "default_slot is -1: it must be 0 or more"),
        ({"bypass_slot": -1}, "bypass_slot is -1: it must be 0 or more"),
        ({"low_agent_margin": -0.1}, "low_agent_margin is -0.1: it must be 0 or more"),
        ({"low_role_margin": 0.5}, "high_role_margin is 0.0: it must not be under low_role_margin, which is 0.5"),
        ({"low_agent_margin": 2, "high_agent_margin": 1}, "high_agent_margin is 1.0: it must not be under"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyInvalid, match=message):
        Policy().with_options(**options)


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.lists(st.integers()))


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3))
def test_any_value_gives_a_policy_that_survives_json_or_is_refused_as_one(options: dict[str, Any]) -> None:
    with suppress(PolicyInvalid):
        policy = Policy().with_options(**options)
        assert Policy().with_options(**json.loads(json.dumps(policy.to_dict()))) == policy

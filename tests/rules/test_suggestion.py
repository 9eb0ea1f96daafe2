"""Suggestions of a Thinker: both tags, or none counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.routing import Role
from trinity_mlx.rules.suggestion import Suggestion, parse_suggestion

TEXT = "<suggestion>add the two sums</suggestion>"


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("solver", Role.WORKER),
        ("verifier", Role.VERIFIER),
        ("Solver", Role.WORKER),
        ("VERIFIER", Role.VERIFIER),
        ("\n solver \n", Role.WORKER),
    ],
)
def test_both_tags_make_a_suggestion(name: str, role: Role) -> None:
    reply = f"First a plan.\n{TEXT}\nand\n<suggested_role>{name}</suggested_role> done"
    assert parse_suggestion(reply) == Suggestion("add the two sums", role)


def test_the_order_of_the_tags_does_not_matter() -> None:
    reply = f"<suggested_role>verifier</suggested_role>{TEXT}"
    assert parse_suggestion(reply) == Suggestion("add the two sums", Role.VERIFIER)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "no tags",
        TEXT,
        "<suggested_role>solver</suggested_role>",
        TEXT + "<suggested_role>solver",
        TEXT + "solver</suggested_role>",
        "<suggestion>x<suggested_role>solver</suggested_role>",
        "<suggestion> \n </suggestion><suggested_role>solver</suggested_role>",
        TEXT + "<suggested_role></suggested_role>",
        TEXT + "<suggested_role>thinker</suggested_role>",
        TEXT + "<suggested_role>solver or verifier</suggested_role>",
        TEXT + "<suggested_role>worker</suggested_role>",
        TEXT + "<SUGGESTED_ROLE>solver</SUGGESTED_ROLE>",
        "<Suggestion>x</Suggestion><suggested_role>solver</suggested_role>",
        TEXT + "<suggested_role>thinker</suggested_role><suggested_role>solver</suggested_role>",
    ],
)
def test_anything_less_is_none(reply: str) -> None:
    assert parse_suggestion(reply) is None


def test_the_first_of_several_counts() -> None:
    roles = "<suggested_role>solver</suggested_role><suggested_role>verifier</suggested_role>"
    reply = f"{TEXT}<suggestion>other</suggestion>{roles}"
    assert parse_suggestion(reply) == Suggestion("add the two sums", Role.WORKER)


def test_worker_is_a_synonym_where_allowed() -> None:
    reply = TEXT + "<suggested_role>Worker</suggested_role>"
    assert parse_suggestion(reply, worker_synonym=True) == Suggestion("add the two sums", Role.WORKER)
    assert parse_suggestion(TEXT + "<suggested_role>thinker</suggested_role>", worker_synonym=True) is None


@given(st.text().filter(str.strip), st.sampled_from(["solver", "verifier"]), st.text(alphabet="ab <>/", max_size=20))
def test_what_is_between_the_tags_comes_back_trimmed(text: str, name: str, around: str) -> None:
    reply = f"{around}<suggestion>{text}</suggestion>{around}<suggested_role>{name}</suggested_role>{around}"
    found = parse_suggestion(reply)
    assert found is not None
    assert found.text == text.partition("</suggestion>")[0].strip()
    assert found.role is (Role.WORKER if name == "solver" else Role.VERIFIER)

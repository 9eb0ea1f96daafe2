"""The generator of nano's training text: reproducible, well-formed, and honest about what is held out."""

import re

import pytest

from tools.nano.corpus import (
    LANGUAGES,
    MAX_CHARACTERS,
    ROLES,
    SLOTS,
    STATE_ROLES,
    STATES,
    Example,
    examples,
    transcript,
)
from tools.nano.fillers import MAKERS
from tools.nano.phrases import cell, families, words
from tools.nano.strangers import strangers

SPLITS = ("train", "heldout")
# What a template may name beside the listed words and the made ones: parts that the conversation hands in.
GIVEN = {"task", "task2", "task3", "answer", "fault", "fault2"}
COUNT = 3_000


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Example]]:
    return {split: examples(split, COUNT, seed=11) for split in SPLITS}


def texts(rows: list[Example]) -> set[str]:
    return {transcript(row.messages) for row in rows}


def test_the_same_seed_draws_the_same_examples():
    assert examples("train", 200, seed=3) == examples("train", 200, seed=3)


def test_another_seed_draws_others():
    assert not texts(examples("train", 50, seed=3)) <= texts(examples("train", 50, seed=4))


def test_no_phrasing_is_in_both_splits():
    of = {split: {family.template for family in families() if family.split == split} for split in SPLITS}
    assert all(of.values())
    assert not of["train"] & of["heldout"]


def test_family_ids_are_unique():
    ids = [family.id for family in families()]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("split", SPLITS)
def test_examples_use_the_families_of_their_split_alone(drawn, split):
    allowed = {family.id for family in families() if family.split == split}
    assert {used for row in drawn[split] for used in row.families} <= allowed


@pytest.mark.parametrize("split", SPLITS)
def test_every_slot_role_and_state_occurs(drawn, split):
    rows = drawn[split]
    assert {row.slot for row in rows} == set(range(len(SLOTS)))
    assert {row.role for row in rows} == set(range(len(ROLES)))
    assert {row.state for row in rows} == set(STATES)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", ["task", "big", "answer", "plan", "verdict", "claim", "fault", "wrap-check"])
def test_every_slot_has_phrasings_of_every_kind(split, kind):
    assert all(cell(split, language, kind, slot) for slot in SLOTS for language in LANGUAGES)


def test_there_are_thousands_of_distinct_texts(drawn):
    assert all(len(texts(rows)) > 0.95 * COUNT for rows in drawn.values())


def test_there_are_thousands_of_phrasings():
    assert sum(family.phrasings() for family in families()) > 5_000


@pytest.mark.parametrize("split", SPLITS)
def test_messages_are_well_formed(drawn, split):
    for row in drawn[split]:
        assert all(set(message) == {"role", "content"} for message in row.messages)
        assert all(message["role"] in ("system", "user", "assistant") for message in row.messages)
        assert all(message["content"].strip() for message in row.messages)
        assert [message["role"] for message in row.messages].count("system") <= 1
        assert len(transcript(row.messages)) <= MAX_CHARACTERS


def test_the_role_follows_from_the_state(drawn):
    assert all(ROLES[row.role] == STATE_ROLES[row.state] for row in drawn["train"])


def test_a_conversation_ends_as_its_state_says(drawn):
    enders = {"planned": "assistant", "answered": "assistant", "refuted_by_verifier": "assistant"}
    for row in drawn["train"]:
        assert row.messages[-1]["role"] == enders.get(row.state, "user")


def test_replies_come_both_raw_and_with_prefixes(drawn):
    answered = [row.messages[-1]["content"] for row in drawn["train"] if row.state == "answered"]
    prefixed = sum(text.startswith("Worker answer: ") for text in answered)
    assert 0 < prefixed < len(answered)


def test_every_word_that_a_template_names_is_known():
    known = set(words()) | set(MAKERS)
    for family in families():
        for name, number in re.findall(r"\{([a-z_]+)(\d*)\}", family.template):
            assert name in known or name + number in GIVEN, family.template


def test_no_stranger_is_a_generated_text(drawn):
    known = {text.lower() for rows in drawn.values() for text in texts(rows)}
    assert not {transcript(row.messages).lower() for row in strangers()} & known


def test_strangers_cover_every_slot_and_role():
    assert {row.slot for row in strangers()} == set(range(len(SLOTS)))
    assert {row.role for row in strangers()} == set(range(len(ROLES)))

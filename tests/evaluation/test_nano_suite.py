"""The suite of the embedded router: what it covers, its token counts, and its routes on two profiles."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from typing import Any

import pytest
from tokenizers import Tokenizer

from tools.nano.corpus import examples, transcript
from trinity_mlx import Role, load_router
from trinity_mlx.evaluation.suite import Suite, find_suite
from trinity_mlx.files.shipped import data_path

from ..evaluation_cases import LONG

SLOTS = 7
LEAST_MARGIN = 0.5
NANO = data_path("fixtures", "artifacts", "nano")
RAW: dict[str, Any] = json.loads(data_path("fixtures", "suites", "nano-64.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = RAW["cases"]
TAGS = Counter(tag for case in CASES for tag in case["tags"])


@pytest.fixture(scope="module")
def suite() -> Suite:
    return find_suite("nano-64")


def tagged(tag: str) -> list[dict[str, Any]]:
    return [case for case in CASES if tag in case["tags"]]


def last_content(case: dict[str, Any]) -> str:
    text: str = case["messages"][-1]["content"]
    return text


def test_every_case_is_read_as_it_is_written(suite: Suite) -> None:
    assert [case.id for case in suite.cases] == [case["id"] for case in CASES]
    assert len(CASES) >= 60


def test_no_case_stands_there_twice() -> None:
    texts = [json.dumps(case["messages"]) for case in CASES]
    assert len(set(texts)) == len(texts)


def test_every_slot_is_expected_in_every_role() -> None:
    pairs = {(case["expected"]["agent_id"], case["expected"]["role_id"]) for case in CASES}
    assert pairs == {(slot, int(role)) for slot in range(SLOTS) for role in Role}


def test_a_case_is_either_a_judgement_or_an_observation() -> None:
    assert all(("meaning" in case["tags"]) != ("robustness" in case["tags"]) for case in CASES)
    assert all(case["notes"].startswith("observed behaviour") for case in tagged("robustness"))
    assert not any(case["notes"].startswith("observed behaviour") for case in tagged("meaning"))


def test_the_source_says_how_many_drafts_were_dropped() -> None:
    assert "83 were drafted" in RAW["source"]
    assert "disagreed with the person in 6" in RAW["source"]
    assert f"these {TAGS['meaning']} were kept" in RAW["source"]


def test_the_languages_of_the_training_text_are_there_each_several_times() -> None:
    assert all(
        sum(language in case["tags"] for case in tagged("meaning")) >= 4 for language in ("en", "de", "fr", "es")
    )


def test_unseen_languages_are_written_in_their_own_scripts() -> None:
    scripts = {
        unicodedata.name(letter).split()[0]
        for case in tagged("unseen-language")
        for letter in last_content(case)
        if letter.isalpha()
    }
    assert {"CJK", "HIRAGANA", "ARABIC", "CYRILLIC", "DEVANAGARI", "HANGUL"} <= scripts


def test_one_character_means_one() -> None:
    assert [len(last_content(case)) for case in tagged("one-character")] == [1] * TAGS["one-character"]
    assert TAGS["one-character"] >= 2


def test_whitespace_means_nothing_else() -> None:
    assert TAGS["whitespace"]
    assert all(case["messages"][-1]["content"].isspace() for case in tagged("whitespace"))


def test_emoji_cases_hold_emoji_and_some_hold_nothing_else() -> None:
    kinds = [{unicodedata.category(letter) for letter in last_content(case)} for case in tagged("emoji")]
    assert all("So" in kind for kind in kinds)
    assert sum(kind == {"So"} for kind in kinds) >= 2


def test_long_prompts_come_close_to_the_last_position() -> None:
    positions = json.loads((NANO / "base" / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    longest = max(case["router_input_tokens"] for case in CASES)
    assert 0.98 * positions < longest <= positions
    assert all(case["router_input_tokens"] > 1000 for case in tagged("long"))


def test_system_prompts_and_several_assistant_turns_are_tagged_as_they_are() -> None:
    for case in CASES:
        roles = [message["role"] for message in case["messages"]]
        assert ("system" in roles) == ("system-prompt" in case["tags"]), case["id"]
        assert (roles.count("assistant") > 1) == ("several-assistant-turns" in case["tags"]), case["id"]
    assert TAGS["system-prompt"] >= 3
    assert TAGS["several-assistant-turns"] >= 5


@pytest.mark.parametrize("tag", ["mixed-languages", "punctuation", "numbers", "code-block", "json", "markup"])
def test_odd_input_of_each_kind_is_there(tag: str) -> None:
    assert TAGS[tag]


def test_no_case_is_a_text_that_the_generator_made() -> None:
    made = {
        transcript(example.messages) for split in ("train", "heldout") for example in examples(split, 2_000, seed=5)
    }
    assert made.isdisjoint(transcript(case["messages"]) for case in CASES)


def test_token_counts_are_those_of_the_tokenizers_library() -> None:
    library = Tokenizer.from_file(str(NANO / "base" / "tokenizer.json"))
    for case in CASES:
        text = "\n".join(f"{message['role']}: {message['content']}" for message in case["messages"])
        assert len(library.encode(text, add_special_tokens=False).ids) == case["router_input_tokens"], case["id"]


@pytest.mark.parametrize(
    ("profile", "long"), [("cpu", True), ("mlx", False), pytest.param("mlx", True, marks=pytest.mark.slow)]
)
def test_nano_routes_every_case_as_expected_and_clearly(suite: Suite, profile: str, long: bool) -> None:
    with load_router("nano", profile=profile) as router:
        decisions = {case: router.route(case.transcript) for case in suite.cases if long or case.id not in LONG}
    assert len(decisions) == len(CASES) - (0 if long else len(LONG))
    for case, decision in decisions.items():
        assert (decision.slot, decision.role) == (case.expected.slot, case.expected.role), case.id
        assert decision.token_count == case.token_count, case.id
        assert min(decision.margins.agent or 0.0, decision.margins.role or 0.0) >= LEAST_MARGIN, case.id

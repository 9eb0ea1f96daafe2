"""Token counts of the published cases with the real Qwen vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trinity_mlx.contracts.errors import BaseInvalid
from trinity_mlx.contracts.text_format import TextFormat
from trinity_mlx.contracts.transcript import Transcript
from trinity_mlx.files.shipped import data_path
from trinity_mlx.routing.tokenizer import Tokenizer

SUITE: dict[str, Any] = json.loads(data_path("fixtures", "suites", "seed-12.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = SUITE["cases"]


@pytest.fixture(scope="session")
def qwen(qwen_file: Path) -> Tokenizer:
    return Tokenizer(qwen_file)


def test_the_suite_holds_the_twelve_published_cases() -> None:
    assert SUITE["schema_version"] == 1
    assert "specification" in SUITE["source"]
    assert len({case["id"] for case in CASES}) == len(CASES) == 12
    for case in CASES:
        assert set(case) == {"id", "messages", "expected", "router_input_tokens"}
        assert 0 <= case["expected"]["agent_id"] < 7
        assert 0 <= case["expected"]["role_id"] < 3


def test_the_vocabulary_has_qwens_size(qwen: Tokenizer) -> None:
    assert qwen.vocab_size == 151_643


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_a_published_case_has_its_published_number_of_tokens(qwen: Tokenizer, case: dict[str, Any]) -> None:
    text = TextFormat.ROLE_LINES.render(Transcript.of(case["messages"]))
    assert len(qwen.encode(text)) == case["router_input_tokens"]


def test_known_text_has_qwens_known_ids(qwen: Tokenizer) -> None:
    assert qwen.encode("Hello, world!") == (9707, 11, 1879, 0)


def test_no_token_is_added_and_text_is_brought_to_its_composed_form(qwen: Tokenizer) -> None:
    assert qwen.encode("") == ()
    assert len(qwen.encode("a")) == 1
    assert qwen.encode("e\u0301") == qwen.encode("\u00e9")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {"type": "Abacus"}}'])
def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(BaseInvalid, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer(path)


def test_a_missing_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BaseInvalid, match=r"gone\.json"):
        Tokenizer(tmp_path / "gone.json")

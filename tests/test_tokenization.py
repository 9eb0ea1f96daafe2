"""Token counts of the published cases with the real Qwen vocabulary."""

from __future__ import annotations

import base64
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as LibraryTokenizer

from trinity_mlx.contracts.errors import BaseInvalid
from trinity_mlx.contracts.transcript import TextFormat, Transcript
from trinity_mlx.resources import data_path
from trinity_mlx.runtime.tokenizer import Tokenizer

SUITE: dict[str, Any] = json.loads(data_path("fixtures", "suites", "seed-12.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = SUITE["cases"]
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def qwen_ranks() -> dict[bytes, int]:
    """The ranks of Qwen's byte-pair vocabulary, from the package that ships it; nothing of it is imported."""
    package = importlib.util.find_spec("dashscope")
    if package is None or not package.submodule_search_locations:
        pytest.skip("the Qwen vocabulary comes with the package dashscope (extra test)")
    lines = Path(package.submodule_search_locations[0], "resources", "qwen.tiktoken").read_bytes().splitlines()
    pairs = (line.split() for line in lines if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def byte_characters() -> dict[int, str]:
    """The printable character that stands for each byte in a byte-level vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every pair of tokens that joins to a token, in the order of what it joins to.

    Ranked byte-pair encoding joins whichever neighbours give the token of lowest rank, so all of its splits are merges.
    """
    return [
        (token[:cut], token[cut:])
        for token in sorted(ranks, key=ranks.__getitem__)
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]


@pytest.fixture(scope="session")
def qwen_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ranks = qwen_ranks()
    characters = byte_characters()
    names = {token: "".join(map(characters.__getitem__, token)) for token in ranks}
    vocabulary = {names[token]: rank for token, rank in ranks.items()}
    merges = [(names[left], names[right]) for left, right in merges_of(ranks)]
    tokenizer = LibraryTokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    path = tmp_path_factory.mktemp("qwen") / "tokenizer.json"
    tokenizer.save(str(path), pretty=False)
    return path


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

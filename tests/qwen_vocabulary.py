"""The real Qwen vocabulary as a tokenizer file, made from the package that ships it."""

from __future__ import annotations

import base64
import importlib.util
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

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


def write_qwen_tokenizer(path: Path) -> Path:
    """A ``tokenizer.json`` of the real Qwen vocabulary."""
    ranks = qwen_ranks()
    characters = byte_characters()
    names = {token: "".join(map(characters.__getitem__, token)) for token in ranks}
    vocabulary = {names[token]: rank for token, rank in ranks.items()}
    merges = [(names[left], names[right]) for left, right in merges_of(ranks)]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.save(str(path), pretty=False)
    return path

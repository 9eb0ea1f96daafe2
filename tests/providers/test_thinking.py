"""Reasoning in front of an answer: what is left of a text, and that a stream says the same."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.providers.wire.thinking import ThinkingFilter, strip_thinking

TEXTS = st.lists(
    st.sampled_from(["<think>", "</think>", "<thi", "nk>", "</", "<", "\n", " ", "ACCEPT", "a", "é"]), max_size=12
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("ACCEPT", "ACCEPT"),
        ("  ACCEPT\n", "  ACCEPT\n"),
        ("<think>\nREVISE?\n</think>\n\nACCEPT", "ACCEPT"),
        ("\n <think></think>ACCEPT", "ACCEPT"),
        ("It was in the prompt.\n</think>\n\nACCEPT", "ACCEPT"),
        ("<think>\nand then", ""),
        ("<think>", ""),
        ("<think>done</think>", ""),
        ("The tags are <think> and </think>.", "The tags are <think> and </think>."),
        ("<think>a</think>b</think>c", "b</think>c"),
        ("<thinking> is another word", "<thinking> is another word"),
        ("", ""),
    ],
)
def test_the_answer_is_what_follows_the_reasoning(text: str, answer: str) -> None:
    assert strip_thinking(text) == answer


def streamed(pieces: list[str]) -> str:
    heard: list[str] = []
    passed = ThinkingFilter(heard.append)
    for piece in pieces:
        passed.feed(piece)
    passed.end()
    assert all(heard)
    return "".join(heard)


@given(pieces=TEXTS)
def test_a_stream_passes_on_the_answer_however_it_is_cut_into_pieces(pieces: list[str]) -> None:
    """Wherever the text itself shows that there is a reasoning, or that there is none."""
    text = "".join(pieces)
    before, close, _ = text.partition("</think>")
    is_foreseeable = before.lstrip().startswith("<think>") or not close or "<think>" in before
    expected = strip_thinking(text) if is_foreseeable else text
    assert streamed(pieces) == expected
    assert streamed(list(text)) == expected


def test_the_answer_is_passed_on_as_soon_as_it_begins() -> None:
    heard: list[str] = []
    passed = ThinkingFilter(heard.append)
    for piece in ("<think>", "hm", "</think>\n", "\n", "AC", "CEPT"):
        passed.feed(piece)
    assert heard == ["AC", "CEPT"]


@pytest.mark.parametrize("shape", ["<think>", "</think>", " ", "<", " <", "<think> </think>"])
def test_a_long_hostile_answer_takes_time_in_proportion(shape: str) -> None:
    """Four times as long takes about four times the time; were it quadratic, sixteen times."""

    def seconds(characters: int) -> float:
        text = shape * (characters // len(shape))
        begun = time.thread_time()
        strip_thinking(text)
        heard = ThinkingFilter(lambda piece: None)
        for begin in range(0, len(text), 4):
            heard.feed(text[begin : begin + 4])
        heard.end()
        return time.thread_time() - begun

    ratios = [seconds(400_000) / seconds(100_000) for _ in range(3)]
    assert min(ratios) < 10

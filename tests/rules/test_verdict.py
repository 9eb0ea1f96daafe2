"""Verdicts: the published words, what the default takes besides, and the words that only look like one."""

from __future__ import annotations

import time
from itertools import dropwhile, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.rules.verdict import Verdict, VerdictStatus, VerdictWords, parse_verdict

A, R, U = VerdictStatus.ACCEPTED, VerdictStatus.REVISED, VerdictStatus.UNKNOWN
STRICT, TOLERANT = VerdictWords.STRICT, VerdictWords.TOLERANT

TABLE = [
    # reply, strict, tolerant
    ("ACCEPT", A, A),
    ("accept", A, A),
    ("Revise", R, R),
    ("  \n ACCEPT \n", A, A),
    ("ACCEPT: it holds", A, A),
    ("ACCEPT it holds", A, A),
    ("ACCEPT\nit holds", A, A),
    ("ACCEPT\r\nit holds", A, A),
    ("ACCEPT-it holds", A, A),
    ("ACCEPT — it holds", A, A),
    ("ACCEPT—it holds", A, A),
    ("ACCEPT–it holds", A, A),
    ("REVISE: step 2 is wrong", R, R),
    ("REVISE - I cannot ACCEPT this", R, R),
    ("ACCEPT: no need to REVISE", A, A),
    ("ACCEPT.", U, A),
    ("ACCEPT, it holds", U, A),
    ("ACCEPT!", U, A),
    ("ACCEPT;", U, A),
    ("ACCEPT\tit holds", U, A),
    ("**ACCEPT**", U, A),
    ("**ACCEPT:** it holds", U, A),
    ("**ACCEPT.** it holds", U, A),
    ("__accept__", U, A),
    ("`ACCEPT`", U, A),
    ('"ACCEPT"', U, A),
    ('"ACCEPT."', U, A),
    ("'ACCEPT'", U, A),
    ("“ACCEPT”", U, A),
    ("[ACCEPT]", U, A),
    ("(REVISE)", U, R),
    ("## REVISE\nbecause", U, R),
    ("> ACCEPT", U, A),
    ("**REVISE** because", U, R),
    ("REJECT", U, R),
    ("REJECT: wrong", U, R),
    ("**reject**", U, R),
    ("ACCEPTABLE", U, U),
    ("ACCEPTABLE: but not yet", U, U),
    ("**ACCEPTABLE**", U, U),
    ("ACCEPTED", U, U),
    ("ACCEPTS", U, U),
    ("ACCEPTANCE", U, U),
    ("ACCEPT_ALL", U, U),
    ("ACCEPT2", U, U),
    ("ACCEPTé", U, U),
    ("ACCEPT/REVISE", U, U),
    ("ACCEPT?", U, U),
    ("ACCEPT.ABLE", U, U),
    ("ACCEPT'S", U, U),
    ("REVISED", U, U),
    ("REVISES", U, U),
    ("REJECTED", U, U),
    ("UNACCEPT", U, U),
    ("I ACCEPT", U, U),
    ("The answer is ACCEPT", U, U),
    ("Verdict: ACCEPT", U, U),
    ("NOT ACCEPT", U, U),
    ("DO NOT ACCEPT", U, U),
    ("A C C E P T", U, U),
    ("", U, U),
    ("   ", U, U),
    ("**", U, U),
]


@pytest.mark.parametrize(("reply", "strict", "tolerant"), TABLE)
def test_what_counts_as_a_verdict(reply: str, strict: VerdictStatus, tolerant: VerdictStatus) -> None:
    assert parse_verdict(reply, STRICT).status is strict
    assert parse_verdict(reply, TOLERANT).status is tolerant


@pytest.mark.parametrize("reply", sorted({reply for reply, _, _ in TABLE}))
@pytest.mark.parametrize("words", VerdictWords)
def test_a_cut_reply_is_never_a_verdict(reply: str, words: VerdictWords) -> None:
    assert parse_verdict(reply, words, cut=True) == Verdict(VerdictStatus.CUT, reply.strip() or None)


def published(reply: str) -> VerdictStatus:
    """The published rule in other words: no expression, only text operations."""
    text = reply.strip()
    for word, status in (("accept", A), ("revise", R)):
        beginning, rest = text[:6], text[6:]
        if (
            beginning.isascii()
            and beginning.lower() == word
            and (not rest or rest[0] in " \n:-–—" or rest[:2] == "\r\n")
        ):
            return status
    return U


WORDS = st.sampled_from(["ACCEPT", "accept", "Revise", "REVISE", "REJECT", "ACCEPTABLE", "x", "S", ""])
MARKS = st.sampled_from(["", " ", ":", "-", "—", "–", "\n", "\r\n", "\r", "\t", ".", "*", "'", "able", "\u00a0", "?"])


@given(MARKS, WORDS, MARKS, st.text(max_size=5))
def test_strict_is_the_published_rule_and_tolerant_never_contradicts_it(a: str, word: str, b: str, rest: str) -> None:
    reply = a + word + b + rest
    assert parse_verdict(reply, STRICT).status is published(reply)
    if published(reply) is not U:
        assert parse_verdict(reply, TOLERANT).status is published(reply)


@given(MARKS, MARKS, WORDS, MARKS, st.text(max_size=5), st.sampled_from(VerdictWords))
def test_the_first_word_of_an_accepted_reply_is_accept(
    a: str, b: str, word: str, c: str, rest: str, words: VerdictWords
) -> None:
    reply = a + b + word + c + rest
    first = "".join(takewhile(str.isalnum, dropwhile(lambda character: not character.isalnum(), reply)))
    assert not parse_verdict(reply, words).accepted or first.lower() == "accept"


@pytest.mark.parametrize(
    ("reply", "diagnosis"),
    [
        ("REVISE", None),
        ("REVISE:  ", None),
        ("REVISE: step 2 is wrong", "step 2 is wrong"),
        ("REVISE — step 2\nis wrong", "step 2\nis wrong"),
        ("ACCEPT\r\n\r\nfine", "fine"),
        ("no verdict", "no verdict"),
        ("", None),
    ],
)
@pytest.mark.parametrize("words", VerdictWords)
def test_the_diagnosis_is_what_follows_the_verdict(reply: str, diagnosis: str | None, words: VerdictWords) -> None:
    assert parse_verdict(reply, words).diagnosis == diagnosis


@pytest.mark.parametrize(
    ("reply", "diagnosis"),
    [
        ("**REVISE:** step 2", "step 2"),
        ("**REVISE.** step 2", "step 2"),
        ("**REVISE**: step 2", "step 2"),
        ('REVISE: "x" is wrong', '"x" is wrong'),
        ("REVISE: -3 is wrong", "-3 is wrong"),
        ("REVISE\n**Step 2** is wrong", "**Step 2** is wrong"),
        ("REJECT, since it fails", "since it fails"),
    ],
)
def test_a_tolerant_diagnosis_keeps_its_own_marks(reply: str, diagnosis: str) -> None:
    assert parse_verdict(reply, TOLERANT).diagnosis == diagnosis


@pytest.mark.parametrize("words", VerdictWords)
@pytest.mark.parametrize(
    ("beginning", "piece"), [("", "*"), ("ACCEPT", "*"), ("ACCEPT", " "), ("ACCEPT", ": "), (" ", "> ")]
)
def test_a_hostile_reply_costs_no_more_than_its_length(beginning: str, piece: str, words: VerdictWords) -> None:
    """Four times the text takes about four times as long: a square would take sixteen times."""

    def seconds(count: int) -> float:
        return min(timed(beginning + piece * count + "x") for _ in range(5))

    def timed(reply: str) -> float:
        begun = time.thread_time()
        parse_verdict(reply, words)
        return time.thread_time() - begun

    assert seconds(400_000) < 10 * (seconds(100_000) + 0.001)

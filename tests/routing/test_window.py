"""A long transcript read through a window: what is left out, what stays readable from memory, and what is refused."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from trinity_mlx import Router, load_router
from trinity_mlx.contracts.artifact import Base
from trinity_mlx.contracts.errors import ContextLengthError, UsageError
from trinity_mlx.contracts.routing import Gap, Window

from ..builders import relative

WINDOW = Window(head=40, tail=160, step=32)
TALK = [{"role": "user", "content": f"Question {number}: what follows from {number * 7}?"} for number in range(80)]


@pytest.fixture(scope="module")
def router(tiny_folders: dict[str, Path]) -> Iterator[Router]:
    with load_router(**tiny_folders, profile="cpu", dtype="float32", window=WINDOW) as router:
        yield router


@pytest.fixture(scope="module")
def plain(tiny_folders: dict[str, Path]) -> Iterator[Router]:
    with load_router(**tiny_folders, profile="cpu", dtype="float32") as router:
        yield router


@given(st.integers(0, 500), st.integers(1, 300), st.integers(1, 300), st.integers(1, 10_000))
def test_a_window_leaves_out_one_gap_that_ends_at_a_step(head: int, tail: int, step: int, count: int) -> None:
    if step > tail:
        step, tail = tail, step
    gap = Window(head, tail, step).gap(count)
    if count <= head + tail:
        assert gap is None
        return
    assert gap is not None
    assert gap.start == head < gap.stop
    assert gap.stop % step == 0
    assert tail - step < count - gap.stop <= tail


@given(st.integers(201, 5000))
def test_the_tail_stays_where_it_begins_while_a_transcript_grows_by_less_than_a_step(count: int) -> None:
    stops = {gap.stop for more in range(WINDOW.step) if (gap := WINDOW.gap(count + more))}
    assert len(stops) <= 2


@pytest.mark.parametrize(("head", "tail", "step"), [(-1, 10, 5), (0, 0, 1), (0, 10, 0), (5, 10, 11)])
def test_windows_that_read_nothing_are_refused(head: int, tail: int, step: int) -> None:
    with pytest.raises(UsageError, match="head must be 0 or more"):
        Window(head, tail, step)


def test_a_window_wider_than_the_base_is_refused(tiny_folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"window of 601 tokens.*600 at most"):
        load_router(**tiny_folders, profile="cpu", window=Window(1, 600))


def test_a_short_transcript_is_read_whole(router: Router, plain: Router) -> None:
    short = TALK[:4]
    assert router.route(short).gap is None
    assert router.route(short).route_hash == plain.route(short).route_hash


def test_a_long_one_is_read_as_its_head_and_its_tail(router: Router, plain: Router, tiny_base: Base) -> None:
    decision = router.route(TALK)
    tokenizer = Tokenizer.from_file(str(tiny_base.tokenizer))
    tokens = tokenizer.encode("\n".join(f"user: {each['content']}" for each in TALK)).ids
    assert decision.token_count == len(tokens) > 600
    assert decision.gap == WINDOW.gap(len(tokens))
    gap = decision.gap
    assert gap is not None
    shown = tuple(tokens[: gap.start] + tokens[gap.stop :])
    expected = plain._reader.read(shown, remember=False).logits
    assert relative(decision.logits.row, expected.row) <= 1e-5
    assert decision.to_dict()["left_out"] == {"start": 40, "stop": gap.stop, "tokens": gap.stop - 40}
    with pytest.raises(ContextLengthError, match=f"{len(tokens)} tokens.*600.*window"):
        plain.route(TALK)


def test_most_turns_read_only_what_is_new(tiny_folders: dict[str, Path]) -> None:
    window = Window(head=40, tail=480, step=240)
    with load_router(**tiny_folders, profile="cpu", dtype="float32", window=window) as router:
        reads = [router.route(TALK[:length]) for length in range(60, 80)]
    fresh = [each.token_count - each.reused_tokens - each.gap.stop + each.gap.start for each in reads if each.gap]
    grown = [later.token_count - earlier.token_count for earlier, later in pairwise(reads)]
    moves = sum(earlier.gap != later.gap for earlier, later in pairwise(reads))
    assert 1 <= moves <= 3
    assert sum(new <= step + 2 for new, step in zip(fresh[1:], grown, strict=True)) == len(grown) - moves


def test_the_gap_itself_is_no_secret_of_the_json(router: Router) -> None:
    assert router.route("short").to_dict()["left_out"] is None
    assert Gap(3, 10).to_dict() == {"start": 3, "stop": 10, "tokens": 7}


def test_a_router_can_be_read_through_another_window(router: Router, plain: Router) -> None:
    whole = router.through(None)
    with pytest.raises(ContextLengthError):
        whole.route(TALK)
    assert plain.through(WINDOW).route(TALK).gap == router.route(TALK).gap
    with pytest.raises(UsageError, match="wider than the base"):
        plain.through(Window(600, 1, 1))


def test_a_view_that_is_closed_gives_the_model_back_once_nobody_else_has_it(tiny_folders: dict[str, Path]) -> None:
    plain = load_router(**tiny_folders, profile="cpu", dtype="float32")
    given_back = weakref.ref(plain)
    view = plain.through(WINDOW)
    del plain
    view.route(TALK)
    assert given_back() is not None
    view.close()
    gc.collect()
    assert given_back() is None


@pytest.mark.parametrize(
    ("text", "window"), [("512,1536", Window(512, 1536, 256)), ("0, 3", Window(0, 3, 3)), ("8,16,4", Window(8, 16, 4))]
)
def test_a_window_is_written_as_numbers(text: str, window: Window) -> None:
    assert Window.parse(text) == window

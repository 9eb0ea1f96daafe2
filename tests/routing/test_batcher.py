"""What is asked during a pass is read in the next one, together; who no longer waits is not read."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from trinity_mlx.contracts.routing import RouteLogits
from trinity_mlx.routing.batcher import Answer, Ask, Batcher

ANSWER = Answer(RouteLogits((1.0, 0.0), (0.0, 0.0, 1.0)), 0)


class Passes:
    """Notes what is prepared and read; the first pass waits until ``go`` is set."""

    def __init__(self) -> None:
        self.prepared: list[list[Ask]] = []
        self.read_: list[list[Ask]] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def prepare(self, asks: list[Ask]) -> None:
        self.prepared.append(list(asks))
        for ask in asks:
            if ask.tokens == (42,):
                ask.settle(ANSWER)
            if ask.tokens == (13,):
                raise ValueError("unlucky")

    def read(self, batch: list[Ask]) -> None:
        self.read_.append(list(batch))
        self.begun.set()
        self.go.wait(60)
        if (99,) in [ask.tokens for ask in batch]:
            raise OSError("the device is gone")
        for ask in batch:
            ask.settle(ANSWER)

    @property
    def sizes(self) -> list[list[int]]:
        return [[ask.fresh for ask in batch] for batch in self.read_]


@pytest.fixture
def passes() -> Passes:
    return Passes()


@pytest.fixture
def batcher(passes: Passes) -> Iterator[Batcher]:
    batcher = Batcher(passes.prepare, passes.read, batch_tokens=100)
    yield batcher
    passes.go.set()
    batcher.close()


def ask(length: int = 1, *, first: int = 0) -> Ask:
    return Ask((first,) * length, length + 1, keep=False, remember=False)


def begin(batcher: Batcher, passes: Passes) -> Ask:
    """Something is being read."""
    first = ask(5)
    batcher.submit([first])
    assert passes.begun.wait(60)
    return first


def test_whoever_asks_while_a_pass_is_due_needs_no_pass_of_their_own(batcher: Batcher, passes: Passes) -> None:
    first = begin(batcher, passes)
    asks = [ask(10) for _ in range(9)]
    for each in asks:
        batcher.submit([each])
    between: list[int] = []
    work = batcher.run(lambda: between.append(len(passes.read_)))
    passes.go.set()
    assert [each.future.result(60) for each in (first, *asks)] == [ANSWER] * 10
    work.result(60)
    assert (between, len(passes.read_)) == ([2], 2)


def test_who_watches_is_told_how_many_each_pass_reads_together(batcher: Batcher, passes: Passes) -> None:
    sizes: list[int] = []
    end = batcher.watch(sizes.append)
    asks = [begin(batcher, passes), *(ask(40) for _ in range(3))]
    for each in asks[1:]:
        batcher.submit([each])
    passes.go.set()
    assert [each.future.result(60) for each in asks] == [ANSWER] * 4
    end(), end()
    batcher.submit([last := ask()])
    assert last.future.result(60) == ANSWER
    assert sizes == [1, 2, 1]


def test_what_is_asked_during_a_pass_is_read_together_in_the_next(batcher: Batcher, passes: Passes) -> None:
    asks = [begin(batcher, passes), *(ask(10) for _ in range(9))]
    for each in asks[1:]:
        batcher.submit([each])
    passes.go.set()
    assert [each.future.result(60) for each in asks] == [ANSWER] * 10
    assert passes.sizes == [[5], [10] * 9]
    assert len(passes.prepared) == 2


def test_a_pass_holds_what_fits_in_the_order_of_asking(batcher: Batcher, passes: Passes) -> None:
    begin(batcher, passes)
    asks = [ask(length) for length in (60, 40, 1, 250, 30, 80, 20)]
    batcher.submit(asks)
    passes.go.set()
    for each in asks:
        each.future.result(60)
    assert passes.sizes == [[5], [60, 40], [1], [250], [30], [80, 20]]


def test_who_asks_later_joins_the_next_pass_and_need_not_wait_for_all_before(batcher: Batcher, passes: Passes) -> None:
    begin(batcher, passes)
    many, late = [ask(60), ask(60), ask(30)], ask(5)
    batcher.submit(many)
    batcher.submit([late])
    passes.go.set()
    late.future.result(60)
    assert passes.sizes == [[5], [60], [60, 30, 5]]


def test_the_cancelled_are_not_read(batcher: Batcher, passes: Passes) -> None:
    first = begin(batcher, passes)
    asks = [ask(10 + number) for number in range(6)]
    batcher.submit(asks)
    assert all(each.future.cancel() for each in asks[::2])
    assert not first.future.cancel()
    passes.go.set()
    for each in asks[1::2]:
        each.future.result(60)
    assert passes.sizes == [[5], [11, 13, 15]]


def test_those_cancelled_between_two_passes_are_not_read_either(batcher: Batcher, passes: Passes) -> None:
    begin(batcher, passes)
    asks = [ask(70) for _ in range(3)]
    batcher.submit(asks)
    batcher.run(lambda: asks[2].future.cancel())
    passes.go.set()
    assert asks[1].future.result(60) == ANSWER
    batcher.run(lambda: None).result(60)
    assert sum(map(len, passes.sizes)) == 3


def test_what_is_known_is_answered_without_a_pass(batcher: Batcher, passes: Passes) -> None:
    passes.go.set()
    known = ask(first=42)
    batcher.submit([known])
    assert known.future.result(60) == ANSWER
    assert passes.read_ == []


def test_a_pass_that_fails_fails_its_own_batch_alone(batcher: Batcher, passes: Passes) -> None:
    begin(batcher, passes)
    broken, other = [ask(90), ask(first=99)], ask(80)
    batcher.submit([*broken, other])
    passes.go.set()
    for each in broken:
        with pytest.raises(OSError, match="device is gone"):
            each.future.result(60)
    assert other.future.result(60) == ANSWER


def test_preparing_that_fails_reaches_those_who_have_no_answer_yet(batcher: Batcher, passes: Passes) -> None:
    passes.go.set()
    asks = [ask(first=42), ask(first=13), ask(3)]
    batcher.submit(asks)
    assert asks[0].future.result(60) == ANSWER
    for each in asks[1:]:
        with pytest.raises(ValueError, match="unlucky"):
            each.future.result(60)
    later = ask(3)
    batcher.submit([later])
    assert later.future.result(60) == ANSWER

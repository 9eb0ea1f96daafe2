"""Several workers: answers in order, few chunks in memory, and nothing lost where workers die."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trinity_mlx.batches.chunks import Chunk, chunks
from trinity_mlx.batches.engines.crew import AHEAD, Crew, Worker, WorkerLost
from trinity_mlx.batches.records import Question, Routed
from trinity_mlx.contracts.errors import InputFileError, SelectionError, WorkersLost

from .echo import Echo

QUESTION = Question()


def source(count: int) -> Iterator[Chunk]:
    return chunks(io.BytesIO(b"".join(b"line %d\n" % number for number in range(count))), "x", whole=True, most=1)


class Hand:
    """A worker in this process that answers as ``Echo`` does, and fails with certain chunks, so many times."""

    def __init__(self, failures: dict[int, list[BaseException]], answered: list[int]) -> None:
        self._failures = failures
        self._answered = answered
        self.aborted = threading.Event()

    def ready(self) -> None:
        if failures := self._failures.get(0):
            raise failures.pop(0)

    def answer(self, chunk: Chunk) -> Routed:
        if failures := self._failures.get(chunk.first):
            raise failures.pop(0)
        self._answered.append(chunk.first)
        return Echo().answer(chunk, QUESTION)

    def abort(self) -> None:
        self.aborted.set()


class Team:
    """A crew of hands that share their failures, and what it said."""

    def __init__(self, size: int, failures: dict[int, list[BaseException]] | None = None) -> None:
        self.answered: list[int] = []
        self.told: list[str] = []
        self.failures = failures or {}
        self.crew = Crew([(f"d{place}", self.start) for place in range(size)], self.told.append)

    @contextmanager
    def start(self, question: Question) -> Iterator[Worker]:
        yield Hand(self.failures, self.answered)

    def route(self, count: int) -> list[int]:
        return [chunk.first for chunk, routed in self.crew.route(source(count), QUESTION) if routed.records]


def lost(times: int = 1) -> list[BaseException]:
    return [WorkerLost("signal 9") for _ in range(times)]


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(0, 30), st.sets(st.integers(1, 30), max_size=5))
def test_every_chunk_is_answered_once_in_order_whoever_dies(size: int, count: int, deadly: set[int]) -> None:
    team = Team(size, {first: lost() for first in deadly})
    assert team.route(count) == list(range(1, count + 1))
    assert Counter(team.answered) == Counter(range(1, count + 1))
    assert len(team.told) == len([first for first in deadly if first <= count])


def test_a_slow_worker_holds_up_no_other_and_nothing_goes_out_of_order() -> None:
    others, waited = threading.Semaphore(0), []

    class Slow(Hand):
        def answer(self, chunk: Chunk) -> Routed:
            if chunk.first == 1:
                waited.append(others.acquire(timeout=60))
            routed = super().answer(chunk)
            others.release()
            return routed

    team = Team(2)

    @contextmanager
    def start(question: Question) -> Iterator[Worker]:
        yield Slow(team.failures, team.answered)

    crew = Crew([("a", start), ("b", start)])
    assert [chunk.first for chunk, _ in crew.route(source(6), QUESTION)] == [1, 2, 3, 4, 5, 6]
    assert waited == [True]
    assert team.answered[0] != 1


@pytest.mark.parametrize("size", [1, 3])
def test_no_more_chunks_are_in_memory_than_the_workers_need(size: int) -> None:
    read = fetched = 0
    ahead: list[int] = []

    def counted() -> Iterator[Chunk]:
        nonlocal read
        for chunk in source(2_000):
            read += 1
            ahead.append(read - fetched)
            yield chunk

    for _ in Team(size).crew.route(counted(), QUESTION):
        fetched += 1
    assert read == 2_000
    assert max(ahead) <= AHEAD * size + 1


def test_a_chunk_that_is_the_last_of_several_workers_ends_it_and_what_was_complete_is_given() -> None:
    """Whoever is given line 6 has answered all that the worker with line 5 had not."""
    others_done = threading.Event()

    class Deadly(Hand):
        def answer(self, chunk: Chunk) -> Routed:
            if chunk.first == 6:
                others_done.set()
            if chunk.first == 5:
                assert others_done.wait(300)
                raise WorkerLost("signal 9")
            return super().answer(chunk)

    @contextmanager
    def start(question: Question) -> Iterator[Worker]:
        yield Deadly({}, [])

    seen: list[int] = []
    with pytest.raises(WorkersLost, match="with lines 5 to 5"):
        seen.extend(chunk.first for chunk, _ in Crew([("a", start), ("b", start)]).route(source(40), QUESTION))
    assert seen == [1, 2, 3, 4]


def test_workers_that_die_while_they_load_are_given_up() -> None:
    team = Team(2, {0: lost(9)})
    with pytest.raises(WorkersLost, match="no worker is left"):
        team.route(3)
    assert len(team.told) == 4


def test_a_worker_that_dies_while_it_loads_is_replaced() -> None:
    team = Team(1, {0: lost(1)})
    assert team.route(3) == [1, 2, 3]
    assert team.told == ["a worker on d0 has died (signal 9); its lines are given to another"]


@pytest.mark.parametrize("place", [0, 3])
def test_what_a_worker_cannot_do_is_raised(place: int) -> None:
    with pytest.raises(SelectionError, match="no slot 99"):
        Team(2, {place: [SelectionError("no slot 99")] * 4}).route(9)


def test_an_input_that_fails_is_told_after_what_was_read_before() -> None:
    def failing() -> Iterator[Chunk]:
        yield from source(3)
        raise InputFileError("the disk is gone")

    seen: list[int] = []
    with pytest.raises(InputFileError, match="the disk is gone"):
        seen.extend(chunk.first for chunk, _ in Team(2).crew.route(failing(), QUESTION))
    assert seen == [1, 2, 3]


def test_who_stops_fetching_ends_the_workers() -> None:
    stuck, aborted = threading.Event(), threading.Event()

    class Stuck(Hand):
        def answer(self, chunk: Chunk) -> Routed:
            if chunk.first == 2:
                stuck.set()
                aborted.wait(60)
                raise WorkerLost("aborted")
            return super().answer(chunk)

        def abort(self) -> None:
            aborted.set()

    team = Team(1)

    @contextmanager
    def start(question: Question) -> Iterator[Worker]:
        yield Stuck({}, team.answered)

    routes = Crew([("a", start)], team.told.append).route(source(9), QUESTION)
    assert next(iter(routes))[0].first == 1
    assert stuck.wait(60)
    routes.close()  # type: ignore[attr-defined]
    assert aborted.is_set()
    assert team.told == []
    assert not [thread for thread in threading.enumerate() if thread.name == "trinity-mlx-a"]

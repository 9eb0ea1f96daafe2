"""A thread that owns something makes it, uses it and frees it, all by itself."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import pytest

from trinity_mlx.sharing.owner import OwnerThread


class Maker:
    """Makes a thing, noting on which threads it is made and freed; fails as often as told."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.made: list[threading.Thread] = []
        self.freed: list[threading.Thread] = []

    @contextmanager
    def __call__(self) -> Iterator[str]:
        if self.failures:
            self.failures -= 1
            raise OSError("not yet")
        self.made.append(threading.current_thread())
        yield "thing"
        self.freed.append(threading.current_thread())


def test_everything_happens_on_one_thread_in_order() -> None:
    maker = Maker()
    owner = OwnerThread(maker, name="owner")
    order: list[tuple[int, str, threading.Thread]] = []

    def work(number: int, thing: str) -> None:
        order.append((number, thing, threading.current_thread()))

    for number in range(9):
        owner.submit(partial(work, number))
    owner.close()
    assert order == [(number, "thing", maker.made[0]) for number in range(9)]
    assert maker.made == maker.freed
    assert threading.current_thread() not in maker.made


def test_nothing_is_made_before_it_is_needed() -> None:
    maker = Maker()
    OwnerThread(maker, name="owner").close()
    assert maker.made == []


def test_what_work_raises_reaches_the_one_who_asked_and_the_rest_goes_on() -> None:
    owner = OwnerThread(nullcontext, name="owner")
    with pytest.raises(ZeroDivisionError):
        owner.run(lambda _: 1 // 0)
    assert owner.run(lambda _: 3) == 3
    owner.close()


def test_a_thing_that_cannot_be_made_is_tried_again_for_the_next_work() -> None:
    owner = OwnerThread(Maker(failures=2), name="owner")
    for _ in range(2):
        with pytest.raises(OSError, match="not yet"):
            owner.run(str.upper)
    assert owner.run(str.upper) == "THING"
    owner.close()


def test_cancelled_work_is_not_done() -> None:
    owner = OwnerThread(nullcontext, name="owner")
    gate, done = threading.Event(), list[int]()

    def work(number: int, _: None) -> None:
        done.append(number)

    owner.submit(lambda _: gate.wait(60))
    futures = [owner.submit(partial(work, number)) for number in range(4)]
    futures[1].cancel()
    gate.set()
    owner.close()
    assert done == [0, 2, 3]


def test_a_dropped_owner_ends_its_thread_without_being_waited_for() -> None:
    owner = OwnerThread(nullcontext, name="dropped")
    gate = threading.Event()
    thread = owner.run(lambda _: threading.current_thread())
    owner.submit(lambda _: gate.wait(60))
    del owner
    assert thread.is_alive()
    gate.set()
    thread.join(60)
    assert not thread.is_alive()


def test_work_after_the_end_fails_and_does_not_hang() -> None:
    owner = OwnerThread(nullcontext, name="owner")
    owner.close()
    owner.close()
    with pytest.raises(RuntimeError, match="has ended"):
        owner.run(lambda _: 1)


def test_what_is_owned_at_the_end_of_a_process_is_freed_by_its_thread() -> None:
    program = """
from contextlib import contextmanager
from trinity_mlx.sharing.owner import OwnerThread

@contextmanager
def thing():
    yield 1
    print("freed")

owner = OwnerThread(thing, name="owner")
owner.run(print)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr, done.returncode) == ("1\nfreed\n", "", 0)

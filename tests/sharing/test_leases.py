"""Loaded models are shared, counted, evicted and never half-loaded."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from dataclasses import dataclass, field

import pytest

from trinity_mlx.sharing.leases import SharedPool


@dataclass(eq=False)
class Thing:
    name: str
    nbytes: int = 10


@dataclass
class Loader:
    """Makes things, counting how often; slow enough for threads to meet."""

    nbytes: int = 10
    delay: float = 0.0
    made: list[str] = field(default_factory=list)

    def __call__(self, name: str) -> Thing:
        time.sleep(self.delay)
        self.made.append(name)
        return Thing(name, self.nbytes)


def pool_of(limit: int) -> tuple[SharedPool[str, Thing], list[str]]:
    gone: list[str] = []
    return SharedPool(limit, dispose=lambda thing: gone.append(thing.name)), gone


def test_the_same_key_gives_the_same_value() -> None:
    pool, _ = pool_of(100)
    load = Loader()
    first, second = (pool.lease("a", lambda: load("a")) for _ in range(2))
    assert first.value is second.value
    assert load.made == ["a"]


def test_a_value_in_use_is_never_evicted() -> None:
    pool, gone = pool_of(0)
    load = Loader()
    first, second = (pool.lease("a", lambda: load("a")) for _ in range(2))
    first.release()
    assert gone == []
    second.release()
    assert gone == ["a"]


def test_releasing_twice_counts_once() -> None:
    pool, gone = pool_of(0)
    first, second = (pool.lease("a", lambda: Thing("a")) for _ in range(2))
    first.release()
    first.release()
    assert gone == []
    second.release()
    assert gone == ["a"]


def test_idle_values_stay_within_the_limit_and_the_least_recently_used_goes_first() -> None:
    pool, gone = pool_of(20)
    load = Loader()
    for name in ("a", "b", "a", "c"):
        pool.lease(name, lambda name=name: load(name)).release()
    assert gone == ["b"]
    assert load.made == ["a", "b", "c"]
    pool.lease("a", lambda: load("a")).release()
    assert load.made == ["a", "b", "c"]


def test_clear_disposes_of_everything_idle() -> None:
    pool, gone = pool_of(100)
    held = pool.lease("held", lambda: Thing("held"))
    pool.lease("idle", lambda: Thing("idle")).release()
    pool.clear()
    assert gone == ["idle"]
    assert len(pool) == 1
    held.release()


def test_concurrent_first_requests_load_once() -> None:
    pool, _ = pool_of(100)
    load = Loader(delay=0.05)
    found: list[Thing] = []
    threads = [
        threading.Thread(target=lambda: found.append(pool.lease("a", lambda: load("a")).value)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load.made == ["a"]
    assert len({id(thing) for thing in found}) == 1


def test_a_failed_load_reaches_all_who_wait_and_leaves_nothing_behind() -> None:
    pool, _ = pool_of(100)
    errors: list[str] = []

    def fail() -> Thing:
        time.sleep(0.05)
        raise ValueError("no such file")

    def ask() -> None:
        try:
            pool.lease("a", fail)
        except ValueError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == ["no such file"] * 4
    assert len(pool) == 0
    assert pool.lease("a", lambda: Thing("a")).value.name == "a"


def test_a_slow_load_does_not_hold_up_other_keys() -> None:
    pool, _ = pool_of(100)
    started = threading.Event()
    finish = threading.Event()

    def slow() -> Thing:
        started.set()
        finish.wait(60)
        return Thing("slow")

    thread = threading.Thread(target=lambda: pool.lease("slow", slow))
    thread.start()
    started.wait(60)
    assert pool.lease("fast", lambda: Thing("fast")).value.name == "fast"
    finish.set()
    thread.join()


class CollectingKey(str):
    """A key that has the garbage collected whenever it is looked up: in the middle of the pool's own work."""

    __slots__ = ()

    def __hash__(self) -> int:
        gc.collect()
        return super().__hash__()


def drop_in_a_cycle(pool: SharedPool[str, Thing], key: str) -> None:
    """Lose a user in a reference cycle, so that only the collector releases its lease."""

    class User:
        def __init__(self) -> None:
            self.me = self

    weakref.finalize(User(), pool.lease(key, lambda: Thing(key)).release)


@pytest.mark.timeout(120)
def test_a_lease_released_by_the_collector_inside_the_pool_neither_hangs_nor_is_lost() -> None:
    pool, gone = pool_of(0)
    drop_in_a_cycle(pool, "lost")
    lease = pool.lease(CollectingKey("other"), lambda: Thing("other"))
    assert gone == ["lost"]
    drop_in_a_cycle(pool, "lost again")
    lease.release()
    pool.lease(CollectingKey("third"), lambda: Thing("third"))
    assert gone == ["lost", "other", "lost again"]


def test_a_release_that_meets_a_busy_pool_is_made_up_for_by_whoever_is_in_it() -> None:
    entered, leave = threading.Event(), threading.Event()

    class SlowKey(str):
        __slots__ = ()

        def __hash__(self) -> int:
            entered.set()
            leave.wait(60)
            return super().__hash__()

    pool, gone = pool_of(0)
    lease = pool.lease("a", lambda: Thing("a"))
    thread = threading.Thread(target=lambda: pool.lease(SlowKey("b"), lambda: Thing("b")))
    thread.start()
    entered.wait(60)
    lease.release()
    assert gone == []
    leave.set()
    thread.join()
    assert gone == ["a"]


@pytest.mark.parametrize("limit", [0, 5, 15])
def test_many_threads_never_meet_a_disposed_value(limit: int) -> None:
    disposed: set[int] = set()
    pool: SharedPool[int, Thing] = SharedPool(limit, dispose=lambda thing: disposed.add(id(thing)))
    kept: list[Thing] = []
    met_disposed: list[int] = []

    def work(seed: int) -> None:
        for step in range(100):
            lease = pool.lease((seed + step) % 3, lambda: Thing("x"))
            kept.append(lease.value)
            if id(lease.value) in disposed:
                met_disposed.append(step)
            lease.release()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert met_disposed == []

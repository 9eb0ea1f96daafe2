"""The circuit breaker, against a clock that the test sets and a plain model of the rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import (
    ProviderError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
    ProviderUnreachable,
    ReplyInvalid,
)
from trinity_mlx.runs.breaker import BreakerPolicy, BreakerState, CircuitBreaker, Pass

FAULT = ProviderUnavailable("down")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(BreakerPolicy(failures=3, rest_s=10), clock)


def admitted(breaker: CircuitBreaker) -> Pass:
    held = breaker.admit()
    assert held is not None
    return held


def fail(breaker: CircuitBreaker, times: int = 1, error: ProviderError = FAULT) -> None:
    for _ in range(times):
        breaker.failed(admitted(breaker), error)


def test_it_opens_after_that_many_failures_in_a_row(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker)
    assert breaker.state is BreakerState.OPEN
    assert breaker.admit() is None
    assert breaker.rest_left_s == 10
    assert breaker.failures == 3


def test_a_success_in_between_starts_the_count_again(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    breaker.succeeded(admitted(breaker))
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize(
    "error",
    [ProviderUnreachable("x"), ProviderTimeout("x"), ProviderUnavailable("x"), ReplyInvalid("x")],
    ids=lambda error: type(error).__name__,
)
def test_what_is_the_providers_fault_counts(breaker: CircuitBreaker, error: ProviderError) -> None:
    fail(breaker, 3, error)
    assert breaker.state is BreakerState.OPEN


@pytest.mark.parametrize(
    "error",
    [ProviderRefused("x"), ProviderRateLimited("x"), ReplyInvalid("cut", retryable=False)],
    ids=lambda error: type(error).__name__,
)
def test_what_is_the_requests_fault_does_not_count(breaker: CircuitBreaker, error: ProviderError) -> None:
    fail(breaker, 10, error)
    assert breaker.state is BreakerState.CLOSED
    assert breaker.failures == 0


def test_after_the_rest_one_attempt_at_a_time_may_try(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 9.99
    assert breaker.admit() is None
    clock.now += 0.01
    assert breaker.state is BreakerState.HALF_OPEN
    probe = admitted(breaker)
    assert probe.is_probe
    assert breaker.admit() is None
    breaker.succeeded(probe)
    assert breaker.state is BreakerState.CLOSED
    assert not admitted(breaker).is_probe
    assert breaker.failures == 0


def test_a_failed_try_opens_it_for_another_rest(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 10
    fail(breaker)
    assert breaker.state is BreakerState.OPEN
    assert breaker.rest_left_s == 10


@pytest.mark.parametrize("error", [None, ProviderRefused("x"), ProviderRateLimited("x")])
def test_a_try_that_tells_nothing_leaves_room_for_the_next(
    breaker: CircuitBreaker, clock: Clock, error: ProviderError | None
) -> None:
    fail(breaker, 3)
    clock.now += 10
    probe = admitted(breaker)
    if error:
        breaker.failed(probe, error)
    else:
        breaker.abandoned(probe)
    assert breaker.state is BreakerState.HALF_OPEN
    assert admitted(breaker).is_probe


def test_attempts_begun_before_it_opened_neither_prolong_the_rest_nor_free_the_try(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    early = [admitted(breaker) for _ in range(3)]
    fail(breaker, 3)
    clock.now += 6
    breaker.failed(early[0], FAULT)
    assert breaker.rest_left_s == 4
    clock.now += 4
    probe = admitted(breaker)
    breaker.failed(early[1], FAULT)
    breaker.abandoned(early[2])
    assert breaker.admit() is None
    breaker.succeeded(probe)
    assert breaker.admit()


@given(
    steps=st.lists(st.sampled_from(["succeed", "fail", "refuse", "abandon", "wait"]), max_size=60),
    threshold=st.integers(1, 4),
)
def test_one_attempt_after_the_other_it_keeps_the_rules(steps: list[str], threshold: int) -> None:
    """Against a model: a count, and the time at which it rests no more."""
    clock = Clock()
    breaker = CircuitBreaker(BreakerPolicy(threshold, rest_s=5), clock)
    count, rests_until = 0, 0.0
    for step in steps:
        if step == "wait":
            clock.now += 2
            continue
        held = breaker.admit()
        assert (held is None) == (clock.now < rests_until)
        if held is None:
            continue
        if step == "succeed":
            breaker.succeeded(held)
            count = 0
        elif step == "fail":
            breaker.failed(held, FAULT)
            count += 1
            rests_until = clock.now + 5 if count >= threshold else 0.0
        elif step == "refuse":
            breaker.failed(held, ProviderRefused("x"))
        else:
            breaker.abandoned(held)

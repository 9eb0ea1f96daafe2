"""Limits, and the two moments at which a run is held against them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import BudgetExceeded, UsageError
from trinity_mlx.rules.budgets import Limits, Spent, check_after_call, check_before_call

NAMES = ("wall_time_s", "provider_calls", "call_latency_s", "verifier_revisions", "cost_usd", "tokens")


def exceeded(call: Any, *arguments: Any) -> tuple[str, float, float] | None:
    try:
        call(*arguments)
    except BudgetExceeded as error:
        return error.kind, error.limit, error.observed
    return None


@pytest.mark.parametrize(
    ("limits", "spent", "wall", "expected"),
    [
        (Limits(wall_time_s=10), Spent(), 9.9, None),
        (Limits(wall_time_s=10), Spent(), 10.0, ("wall_time", 10, 10.0)),
        (Limits(provider_calls=3), Spent(provider_calls=2), 0, None),
        (Limits(provider_calls=3), Spent(provider_calls=3), 0, ("provider_calls", 3, 4)),
        (Limits(provider_calls=0), Spent(), 0, ("provider_calls", 0, 1)),
        (Limits(cost_usd=0.5), Spent(cost_usd=0.49), 0, None),
        (Limits(cost_usd=0.5), Spent(cost_usd=0.5), 0, ("cost", 0.5, 0.5)),
        (Limits(tokens=100), Spent(tokens=99), 0, None),
        (Limits(tokens=100), Spent(tokens=100), 0, ("tokens", 100, 100)),
        (Limits(verifier_revisions=0, call_latency_s=1), Spent(verifier_revisions=9), 0, None),
    ],
)
def test_before_a_call(limits: Limits, spent: Spent, wall: float, expected: Any) -> None:
    assert exceeded(check_before_call, limits, spent, wall) == expected


@pytest.mark.parametrize(
    ("limits", "spent", "wall", "latency", "expected"),
    [
        (Limits(wall_time_s=10), Spent(), 9.9, 1, None),
        (Limits(wall_time_s=10), Spent(), 10.0, 1, ("wall_time", 10, 10.0)),
        (Limits(call_latency_s=2), Spent(), 0, 2.0, None),
        (Limits(call_latency_s=2), Spent(), 0, 2.1, ("call_latency", 2, 2.1)),
        (Limits(verifier_revisions=1), Spent(verifier_revisions=1), 0, 0, None),
        (Limits(verifier_revisions=1), Spent(verifier_revisions=2), 0, 0, ("verifier_revisions", 1, 2)),
        (Limits(verifier_revisions=0), Spent(verifier_revisions=1), 0, 0, ("verifier_revisions", 0, 1)),
        (Limits(cost_usd=0.5), Spent(cost_usd=0.5), 0, 0, None),
        (Limits(cost_usd=0.5), Spent(cost_usd=0.51), 0, 0, ("cost", 0.5, 0.51)),
        (Limits(tokens=100), Spent(tokens=100), 0, 0, None),
        (Limits(tokens=100), Spent(tokens=101), 0, 0, ("tokens", 100, 101)),
        (Limits(provider_calls=1), Spent(provider_calls=1), 0, 0, None),
    ],
)
def test_after_a_call(limits: Limits, spent: Spent, wall: float, latency: float, expected: Any) -> None:
    assert exceeded(check_after_call, limits, spent, wall, latency) == expected


def test_the_first_of_several_is_reported() -> None:
    limits = Limits(wall_time_s=1, provider_calls=1, call_latency_s=1, verifier_revisions=1, cost_usd=1, tokens=1)
    spent = Spent(provider_calls=9, verifier_revisions=9, cost_usd=9, tokens=9)
    assert exceeded(check_before_call, limits, spent, 9) == ("wall_time", 1, 9)
    assert exceeded(check_before_call, limits, spent, 0) == ("provider_calls", 1, 10)
    assert exceeded(check_after_call, limits, spent, 0, 9) == ("call_latency", 1, 9)
    assert exceeded(check_after_call, limits, spent, 0, 0) == ("verifier_revisions", 1, 9)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1e6), st.integers(0, 10**9), st.floats(0, 1e6))
def test_nothing_is_exceeded_without_limits(calls: int, revisions: int, cost: float, tokens: int, time: float) -> None:
    spent = Spent(calls, revisions, cost, tokens)
    assert exceeded(check_before_call, Limits(), spent, time) is None
    assert exceeded(check_after_call, Limits(), spent, time, time) is None


@given(st.integers(0, 20))
def test_a_limit_of_n_calls_allows_n(limit: int) -> None:
    spent, made = Spent(), 0
    while exceeded(check_before_call, Limits(provider_calls=limit), spent, 0.0) is None:
        spent, made = spent.called(), made + 1
    assert made == limit


def test_a_sum_of_prices_is_not_exceeded_by_its_rounding() -> None:
    spent = Spent()
    for _ in range(3):
        spent = spent.replied(cost_usd=0.1)
    assert spent.cost_usd > 0.3
    assert exceeded(check_after_call, Limits(cost_usd=0.3), spent, 0.0, 0.0) is None


def test_running_totals_add_up_and_leave_the_old_ones_alone() -> None:
    start = Spent()
    after = start.called().replied(10, 0.25, revised=True).called().replied(5, 0.5)
    assert after == Spent(provider_calls=2, verifier_revisions=1, cost_usd=0.75, tokens=15)
    assert start == Spent()


def test_limits_as_a_mapping_name_only_what_is_limited() -> None:
    assert Limits().to_dict() == {}
    assert Limits(provider_calls=0, cost_usd=0.5).to_dict() == {"provider_calls": 0, "cost_usd": 0.5}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [-1, -0.5, math.nan, math.inf, -math.inf, "3", True, [1]])
def test_values_that_are_no_limit_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"limit {name} is "):
        Limits(**{name: value})


@pytest.mark.parametrize("name", ["provider_calls", "verifier_revisions", "tokens"])
def test_counts_are_whole(name: str) -> None:
    with pytest.raises(UsageError, match=f"limit {name} is 1.5: it must be a whole number"):
        Limits(**{name: 1.5})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_zero_means_none_at_all_for_calls_and_revisions_only(name: str) -> None:
    if name in ("provider_calls", "verifier_revisions"):
        assert Limits(**{name: 0}).to_dict() == {name: 0}  # type: ignore[arg-type]
    else:
        with pytest.raises(UsageError, match="above 0"):
            Limits(**{name: 0})  # type: ignore[arg-type]

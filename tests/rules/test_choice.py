"""From logits to a choice, against numpy: argmax, softmax, sampling, masks, margins and ties."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import SelectionError
from trinity_mlx.contracts.routing import Guard, GuardRule, Role, RouteLogits, Selection, SelectionMode
from trinity_mlx.rules.choice import choose, margin, softmax, uniform

FLOATS = st.floats(-1e4, 1e4, width=32)
COARSE = st.integers(-2, 2).map(float)
VALUES = st.one_of(st.lists(FLOATS, min_size=1, max_size=9), st.lists(COARSE, min_size=1, max_size=9))
ROLES = st.one_of(st.tuples(FLOATS, FLOATS, FLOATS), st.tuples(COARSE, COARSE, COARSE))
TEMPERATURES = st.floats(1e-300, 1e6)
SAMPLE = SelectionMode.SAMPLE
ROLE = (0.0, 1.0, 0.0)


@st.composite
def masked_logits(draw: st.DrawFn) -> tuple[RouteLogits, list[int]]:
    values = draw(VALUES)
    allowed = draw(st.lists(st.sampled_from(range(len(values))), min_size=1, unique=True))
    return RouteLogits(tuple(values), draw(ROLES)), allowed


def numpy_softmax(values: Any, temperature: float) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        scaled = (np.asarray(values, dtype=np.float64) - np.max(values)) / temperature
        weights = np.exp(scaled)
    return np.asarray(weights / weights.sum())


@given(masked_logits())
def test_argmax_takes_the_largest_allowed_logit_and_the_lowest_index_among_equals(
    case: tuple[RouteLogits, list[int]],
) -> None:
    logits, allowed = case
    masked = np.full(len(logits.agent), -np.inf)
    masked[allowed] = np.array(logits.agent)[allowed]
    choice = choose(logits, allow_slots=allowed)
    assert choice.slot == np.argmax(masked)
    assert choice.role == np.argmax(logits.role)
    assert choice.probabilities is None


@given(masked_logits())
def test_ranking_lists_the_allowed_slots_from_the_largest_logit_down(case: tuple[RouteLogits, list[int]]) -> None:
    logits, allowed = case
    places = np.sort(allowed)
    expected = places[np.argsort(-np.array(logits.agent)[places], kind="stable")]
    choice = choose(logits, allow_slots=allowed)
    assert list(choice.ranking) == list(expected)
    assert choice.ranking[0] == choice.slot


@given(masked_logits())
def test_margins_are_largest_minus_second_largest_of_what_may_be_chosen(case: tuple[RouteLogits, list[int]]) -> None:
    logits, allowed = case
    margins = choose(logits, allow_slots=allowed).margins
    assert margins.role == np.subtract(*np.sort(logits.role)[:-3:-1])
    if len(allowed) == 1:
        assert margins.agent is None
    else:
        assert margins.agent == np.subtract(*np.sort(np.array(logits.agent)[allowed])[:-3:-1])


@given(masked_logits())
def test_a_tie_is_never_silent(case: tuple[RouteLogits, list[int]]) -> None:
    logits, allowed = case
    choice = choose(logits, allow_slots=allowed)
    values = np.array(logits.agent)
    leaders = [slot for slot in sorted(allowed) if values[slot] == values[allowed].max()]
    assert list(choice.tied_slots) == (leaders if len(leaders) > 1 else [])
    assert bool(choice.tied_slots) == (choice.margins.agent == 0)
    assert bool(choice.tied_roles) == (choice.margins.role == 0)


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_an_all_zero_head_ties_every_slot_and_every_role(zero: float) -> None:
    choice = choose(RouteLogits((zero,) * 7, (zero,) * 3))
    assert choice.tied_slots == tuple(range(7))
    assert choice.tied_roles == tuple(Role)
    assert choice.margins.agent == choice.margins.role == 0


@given(masked_logits(), TEMPERATURES)
def test_softmax_mode_chooses_as_argmax_and_reports_numpys_probabilities(
    case: tuple[RouteLogits, list[int]], temperature: float
) -> None:
    logits, allowed = case
    choice = choose(logits, Selection.parse("softmax", temperature), allowed)
    plain = choose(logits, allow_slots=allowed)
    assert (choice.slot, choice.role) == (plain.slot, plain.role)
    assert choice.selection.seed is None
    assert choice.probabilities is not None
    masked = np.full(len(logits.agent), -np.inf)
    masked[allowed] = np.array(logits.agent)[allowed]
    np.testing.assert_allclose(choice.probabilities.agent, numpy_softmax(masked, temperature), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(
        choice.probabilities.role, numpy_softmax(logits.role, temperature), rtol=1e-12, atol=1e-300
    )


@given(VALUES, TEMPERATURES)
def test_probabilities_sum_to_one_and_keep_the_order_of_the_logits(values: list[float], temperature: float) -> None:
    probabilities = softmax(values, temperature)
    assert math.isclose(math.fsum(probabilities), 1.0, rel_tol=1e-12)
    order = np.argsort(values)
    assert np.all(np.diff(np.array(probabilities)[order]) >= 0)


@given(VALUES, st.sampled_from([5e-324, 1e-300, 1e-38]))
def test_tiny_temperatures_put_everything_on_the_largest_logits(values: list[float], temperature: float) -> None:
    spread = np.array(values) - max(values)
    assume(not np.any((spread < 0) & (spread > -1e-30)))
    leaders = spread == 0
    np.testing.assert_allclose(softmax(values, temperature), leaders / leaders.sum())


def test_margin_of_fewer_than_two_values_is_none() -> None:
    assert margin([]) is None
    assert margin([3.0]) is None
    assert margin([3.0, -math.inf]) is None


def test_the_same_seed_and_key_give_the_same_draw() -> None:
    logits = RouteLogits((0.1, 0.2, 0.3), (0.1, 0.2, 0.3))
    for seed in (0, 1, 2**63):
        selection = Selection(SAMPLE, SAMPLE, seed=seed)
        assert choose(logits, selection, draw_key="k") == choose(logits, selection, draw_key="k")


def test_agent_and_role_are_drawn_apart() -> None:
    logits = RouteLogits((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    selection = Selection(SAMPLE, SAMPLE, seed=1)
    choices = [choose(logits, selection, draw_key=str(key)) for key in range(200)]
    assert len({(choice.slot, choice.role) for choice in choices}) == 9


def test_seed_zero_is_a_seed() -> None:
    logits = RouteLogits((0.0,) * 64, ROLE)
    zero = [choose(logits, Selection(SAMPLE, seed=0), draw_key=str(key)) for key in range(20)]
    assert {choice.selection.seed for choice in zero} == {0}
    again = [choose(logits, Selection(SAMPLE, seed=0), draw_key=str(key)).slot for key in range(20)]
    assert [choice.slot for choice in zero] == again
    one = [choose(logits, Selection(SAMPLE, seed=1), draw_key=str(key)).slot for key in range(20)]
    assert again != one


def test_without_a_seed_each_draw_has_a_fresh_one_that_replays_it() -> None:
    logits = RouteLogits((0.0,) * 64, (0.0, 0.0, 0.0))
    first = [choose(logits, Selection(SAMPLE, SAMPLE), draw_key="k") for _ in range(20)]
    assert len({choice.selection.seed for choice in first}) == 20
    assert len({choice.slot for choice in first}) > 1
    assert [choose(logits, choice.selection, draw_key="k") for choice in first] == first


def test_a_seed_is_recorded_only_where_something_is_drawn() -> None:
    logits = RouteLogits((0.0, 1.0), ROLE)
    assert choose(logits).selection.seed is None
    assert choose(logits, Selection.parse("role=sample")).selection.seed is not None
    assert choose(logits, Selection.parse("argmax", seed=5)).selection.seed == 5


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_over_many_keys_follow_the_softmax(temperature: float) -> None:
    values = (1.0, 0.0, -1.0, 0.5)
    selection = Selection(SAMPLE, SAMPLE, temperature, seed=0)
    choices = [choose(RouteLogits(values, values[:3]), selection, draw_key=str(key)) for key in range(6000)]
    for drawn, logits in (([c.slot for c in choices], values), ([int(c.role) for c in choices], values[:3])):
        expected = numpy_softmax(logits, temperature) * len(drawn)
        counts = np.array([Counter(drawn)[index] for index in range(len(logits))])
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        assert chi_square < 21.1  # 1 in 10,000 at three degrees of freedom; the draws are fixed by the seed


@settings(max_examples=200)
@given(masked_logits(), st.integers(0, 2**64), st.sampled_from([1e-300, 0.1, 1.0, 1e6]), st.text(max_size=5))
def test_sampling_never_draws_a_masked_slot(
    case: tuple[RouteLogits, list[int]], seed: int, temperature: float, key: str
) -> None:
    logits, allowed = case
    assert choose(logits, Selection(SAMPLE, SAMPLE, temperature, seed), allowed, key).slot in allowed


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9, unique=True), st.integers(0, 2**32))
def test_sampling_at_a_tiny_temperature_is_argmax(values: list[int], seed: int) -> None:
    logits = RouteLogits(tuple(map(float, values)), ROLE)
    choice = choose(logits, Selection(SAMPLE, SAMPLE, 1e-12, seed))
    assert (choice.slot, choice.role) == (int(np.argmax(values)), Role.THINKER)


def test_a_split_that_is_not_sampled_is_not_drawn() -> None:
    logits = RouteLogits((0.0, 0.1), (0.0, 0.1, 0.0))
    choices = [choose(logits, Selection.parse("agent=sample", seed=seed)) for seed in range(40)]
    assert {choice.role for choice in choices} == {Role.THINKER}
    assert {choice.slot for choice in choices} == {0, 1}


@pytest.mark.parametrize(
    ("allowed", "message"),
    [([], "no slot is allowed"), ([3], "no slot 3: .* 0 to 2"), ([0, -1], "no slot -1"), ([7, 5], "no slot 5")],
)
def test_slots_that_the_head_does_not_have_are_refused(allowed: list[int], message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        choose(RouteLogits((0.0, 1.0, 2.0), ROLE), allow_slots=allowed)


def test_the_only_allowed_slot_is_chosen_however_small_its_logit() -> None:
    choice = choose(RouteLogits((-1e4, 5.0, 5.0), ROLE), allow_slots={0})
    assert (choice.slot, choice.ranking, choice.tied_slots, choice.margins.agent) == (0, (0,), (), None)


@given(st.integers(0), st.text())
def test_uniform_lies_in_the_half_open_unit_interval(seed: int, key: str) -> None:
    assert 0.0 <= uniform(seed, key) < 1.0


def test_uniform_is_the_top_53_bits_of_a_sha256() -> None:
    # sha256("0:") = 0xba768b331fd86cec...
    assert uniform(0, "") == (0xBA768B331FD86CEC >> 11) / 2**53
    assert uniform(0, "a") != uniform(1, "a")


def test_uniform_fills_the_interval_evenly() -> None:
    points = np.array([uniform(7, str(key)) for key in range(20_000)])
    counts, _ = np.histogram(points, bins=20, range=(0.0, 1.0))
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 49.5  # 1 in 10,000 at nineteen degrees of freedom


GUARD = Guard(slot=2, margin=0.5, distance=3.0)


@pytest.mark.parametrize(
    ("agent", "distance", "slot", "rule"),
    [
        ((0.0, 2.0, 1.0), 2.0, 1, None),
        ((0.0, 2.0, 1.6), 2.0, 2, GuardRule.MARGIN),
        ((0.0, 2.0, 1.0), 3.5, 2, GuardRule.DISTANCE),
        ((0.0, 2.0, 1.6), 3.5, 2, GuardRule.DISTANCE),
        ((0.0, 2.0, 1.0), None, 1, None),
    ],
)
def test_a_guard_takes_what_is_unclear_or_unlike_all_that_was_trained_on(
    agent: tuple[float, ...], distance: float | None, slot: int, rule: GuardRule | None
) -> None:
    logits = RouteLogits(agent, (0.0, 1.0, 0.0), distance)
    choice, bare = choose(logits, guard=GUARD), choose(logits)
    assert (choice.slot, choice.guarded) == (slot, rule)
    assert (choice.margins, choice.ranking, choice.role) == (bare.margins, bare.ranking, bare.role)


@pytest.mark.parametrize("limit", [{"margin": 0.5}, {"distance": 3.0}])
def test_a_limit_that_is_not_set_is_not_looked_at(limit: dict[str, float]) -> None:
    logits = RouteLogits((0.0, 2.0, 1.9), (0.0, 1.0, 0.0), 9.0)
    assert choose(logits, guard=Guard(2, **limit)).guarded == GuardRule(next(iter(limit)))
    assert choose(logits, guard=Guard(2)).guarded is None


def test_a_guard_is_not_heard_where_it_is_off_or_its_slot_is_not_allowed() -> None:
    logits = RouteLogits((0.0, 2.0, 1.9), (0.0, 1.0, 0.0), 9.0)
    off = choose(logits, Selection.parse("argmax,guard=off"), guard=GUARD)
    assert (off.slot, off.guarded) == (1, None)
    barred = choose(logits, allow_slots=[0, 1], guard=GUARD)
    assert (barred.slot, barred.guarded) == (1, None)
    with pytest.raises(SelectionError, match="guard=on or guard=off"):
        Selection.parse("guard=no")


@pytest.mark.parametrize("broken", [{"slot": -1}, {"slot": 0, "margin": -1.0}, {"slot": 0, "distance": math.nan}])
def test_a_guard_of_impossible_limits_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(SelectionError, match="is no guard"):
        Guard(**broken)

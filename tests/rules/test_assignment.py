"""Whose turn it is: seats, the order of the rules, stickiness, floor, bypass and confidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import PoolInvalid
from trinity_mlx.contracts.routing import Role, RouteLogits
from trinity_mlx.rules.assignment import Adjustment, Confidence, Routing, Situation, assign
from trinity_mlx.rules.policy import Policy

WORKER, THINKER, VERIFIER = Role
ALL = frozenset(Role)
FOUR = dict.fromkeys(range(4), ALL)
BANDS = {"low_agent_margin": 0.5, "low_role_margin": 0.5, "high_agent_margin": 2.0, "high_role_margin": 2.0}


def logits(*agent: float, role: Role = WORKER, lead: float = 1.0) -> RouteLogits:
    return RouteLogits(agent, tuple(lead if each is role else 0.0 for each in Role))


def route(
    read: RouteLogits,
    seats: Mapping[int, frozenset[Role]] = FOUR,
    has_answer: bool = True,
    override: tuple[Role, Adjustment] | None = None,
    last_slot: int | None = None,
    **options: Any,
) -> Routing:
    situation = Situation(seats, "key", has_answer, override, last_slot)
    return assign(Policy().with_options(**options), situation, read)


def test_the_router_has_its_way_where_no_rule_applies() -> None:
    routing = route(logits(0, 3, 1, 2, role=VERIFIER))
    assert (routing.slot, routing.role, routing.adjustments) == (1, VERIFIER, ())
    assert (routing.raw_slot, routing.raw_role) == (1, VERIFIER)
    assert routing.ranking == (1, 3, 2, 0)
    assert (routing.margins.agent, routing.margins.role) == (1, 1)
    assert (routing.confidence, routing.next_role) == (None, None)


def test_a_slot_that_the_pool_lacks_is_masked_and_never_wrapped() -> None:
    routing = route(logits(2, 1, 0, 0, 0, 9, 0), seats={0: ALL, 1: ALL})
    assert routing.raw_slot == 5
    assert routing.slot == 0  # and not 5 modulo 2
    assert routing.ranking == (0, 1)
    assert routing.margins.agent == 1
    assert routing.adjustments == (Adjustment.NO_AGENT,)


def test_the_role_is_decided_first_and_masks_the_slots() -> None:
    seats = {0: ALL, 1: frozenset({WORKER}), 2: frozenset({VERIFIER})}
    routing = route(logits(0, 3, 1, role=VERIFIER), seats)
    assert (routing.slot, routing.role, routing.ranking) == (2, VERIFIER, (2, 0))
    assert routing.adjustments == (Adjustment.ROLE_NOT_ALLOWED,)


@pytest.mark.parametrize("role", [THINKER, VERIFIER])
def test_a_role_that_no_agent_may_take_becomes_the_workers(role: Role) -> None:
    routing = route(logits(0, 1, role=role), dict.fromkeys(range(2), frozenset({WORKER})))
    assert (routing.slot, routing.role, routing.raw_role) == (1, WORKER, role)
    assert routing.adjustments == (Adjustment.NO_SEAT_FOR_ROLE,)


def test_a_pool_larger_than_the_head_is_refused() -> None:
    with pytest.raises(PoolInvalid, match="an agent in slot 3, but this router has slots 0 to 2"):
        route(logits(0, 1, 2))


@pytest.mark.parametrize(
    ("rule", "role", "adjustments"),
    [
        ("worker", WORKER, (Adjustment.EARLY_VERIFIER,)),
        ("allow", VERIFIER, ()),
        ("error", VERIFIER, ()),
    ],
)
def test_a_verifier_with_nothing_to_check(rule: str, role: Role, adjustments: tuple[Adjustment, ...]) -> None:
    routing = route(logits(0, 1, 0, 0, role=VERIFIER), has_answer=False, early_verifier=rule)
    assert (routing.slot, routing.role, routing.raw_role, routing.adjustments) == (1, role, VERIFIER, adjustments)


def test_a_suggestion_replaces_the_role_and_leaves_the_agent() -> None:
    read = logits(0, 1, 0, 0, role=THINKER)
    routing = route(read, override=(VERIFIER, Adjustment.SUGGESTION))
    assert (routing.slot, routing.role, routing.raw_role) == (1, VERIFIER, THINKER)
    assert routing.adjustments == (Adjustment.SUGGESTION,)
    assert route(read, override=(THINKER, Adjustment.SUGGESTION)).adjustments == ()


def test_a_suggested_verifier_obeys_the_rule_for_early_ones() -> None:
    wanted = (VERIFIER, Adjustment.SUGGESTION)
    routing = route(logits(0, 1, 0, 0, role=THINKER), has_answer=False, override=wanted)
    assert routing.role is WORKER
    assert routing.adjustments == (Adjustment.SUGGESTION, Adjustment.EARLY_VERIFIER)
    error = route(logits(0, 1, 0, 0), has_answer=False, override=wanted, early_verifier="error")
    assert error.role is VERIFIER


@pytest.mark.parametrize(
    ("agent", "role", "confidence"),
    [
        (0.4, 3, Confidence.LOW),
        (3, 0.4, Confidence.LOW),
        (0.5, 0.5, Confidence.MEDIUM),
        (3, 1.9, Confidence.MEDIUM),
        (1.9, 3, Confidence.MEDIUM),
        (2, 2, Confidence.HIGH),
    ],
)
def test_confidence_by_both_margins(agent: float, role: float, confidence: Confidence) -> None:
    read = logits(agent, 0, role=THINKER, lead=role)
    assert route(read, {0: ALL, 1: ALL}, **BANDS).confidence is confidence


@pytest.mark.parametrize("missing", ["medium", "low"])
def test_a_missing_margin_has_the_class_that_the_policy_says(missing: str) -> None:
    assert route(logits(1), {0: ALL}, missing_margin=missing, **BANDS).confidence == missing


def test_the_margin_of_confidence_is_the_pools() -> None:
    assert route(logits(0, 5, 5), {0: ALL, 1: ALL}, **BANDS | {"high_role_margin": 1}).confidence is Confidence.HIGH


@pytest.mark.parametrize(
    ("raw", "role", "next_role", "adjustments"),
    [
        (WORKER, THINKER, VERIFIER, (Adjustment.LOW_MARGIN,)),
        (THINKER, THINKER, VERIFIER, ()),
        (VERIFIER, VERIFIER, None, ()),
    ],
)
def test_the_low_margin_path(
    raw: Role, role: Role, next_role: Role | None, adjustments: tuple[Adjustment, ...]
) -> None:
    routing = route(logits(0, 0.1, 0, 0, role=raw), **BANDS)
    assert (routing.slot, routing.role, routing.next_role) == (1, role, next_role)
    assert (routing.raw_role, routing.adjustments) == (raw, adjustments)


@pytest.mark.parametrize("raw", Role)
def test_no_other_confidence_changes_anything(raw: Role) -> None:
    for lead in (1, 3):
        routing = route(logits(0, lead, 0, 0, role=raw, lead=lead), **BANDS)
        assert (routing.slot, routing.role, routing.next_role, routing.adjustments) == (1, raw, None, ())


def test_a_role_that_was_decided_before_is_not_on_the_low_margin_path() -> None:
    routing = route(logits(0, 0.1, 0, 0), override=(WORKER, Adjustment.SUGGESTION), **BANDS)
    assert (routing.role, routing.next_role, routing.confidence) == (WORKER, None, Confidence.LOW)


@pytest.mark.parametrize("rule", ["worker", "error"])
def test_the_paths_own_verifier_is_a_worker_where_there_is_nothing_to_check(rule: str) -> None:
    forced = (VERIFIER, Adjustment.LOW_MARGIN_VERIFIER)
    routing = route(logits(0, 1, 0, 0, role=THINKER), has_answer=False, override=forced, early_verifier=rule)
    assert routing.role is WORKER
    assert routing.adjustments == (Adjustment.LOW_MARGIN_VERIFIER, Adjustment.EARLY_VERIFIER)


@pytest.mark.parametrize(("has_answer", "rule"), [(True, "error"), (False, "allow")])
def test_otherwise_it_is_called(has_answer: bool, rule: str) -> None:
    forced = (VERIFIER, Adjustment.LOW_MARGIN_VERIFIER)
    assert route(logits(0, 1, 0, 0), has_answer=has_answer, override=forced, early_verifier=rule).role is VERIFIER


@pytest.mark.parametrize(("lead", "slot", "adjustments"), [(0.9, 2, (Adjustment.STICKY,)), (1.0, 1, ()), (5.0, 1, ())])
def test_the_last_agent_stays_unless_another_leads_by_the_margin(
    lead: float, slot: int, adjustments: tuple[Adjustment, ...]
) -> None:
    routing = route(logits(0, 1 + lead, 1, 0), last_slot=2, sticky_margin=1)
    assert (routing.slot, routing.raw_slot, routing.adjustments) == (slot, 1, adjustments)


def test_nothing_sticks_without_an_agent_that_may_stay() -> None:
    read = logits(0, 1, 0.9, 0, role=VERIFIER)
    assert route(read, last_slot=None, sticky_margin=1).slot == 1
    assert route(read, last_slot=2).slot == 1
    assert route(read, {0: ALL, 1: ALL, 2: frozenset({WORKER})}, last_slot=2, sticky_margin=1).slot == 1
    assert route(read, {0: ALL, 1: ALL}, last_slot=2, sticky_margin=1).slot == 1


@pytest.mark.parametrize(
    ("margin", "slot", "adjustments"), [(0.1, 3, (Adjustment.MARGIN_FLOOR,)), (0.5, 1, ()), (0.6, 1, ())]
)
def test_under_the_floor_the_default_slot_takes_the_turn(
    margin: float, slot: int, adjustments: tuple[Adjustment, ...]
) -> None:
    routing = route(logits(0, margin, 0, -9), floor_margin=0.5, default_slot=3)
    assert (routing.slot, routing.adjustments) == (slot, adjustments)


def test_the_floor_needs_a_default_that_may_take_the_role() -> None:
    seats = {0: ALL, 1: ALL, 3: frozenset({WORKER})}
    assert route(logits(0, 0.1, 0, 0, role=VERIFIER), seats, floor_margin=0.5, default_slot=3).slot == 1


def test_the_floor_looks_at_those_who_may_take_the_role() -> None:
    seats = {0: ALL, 1: frozenset({WORKER}), 2: ALL}
    options = {"floor_margin": 0.5, "default_slot": 2}
    assert route(logits(1, 1, 0, 0, role=VERIFIER), seats, **options).slot == 0
    assert route(logits(1, 1, 0, 0, role=WORKER), seats, **options).slot == 2


def test_the_only_agent_has_no_margin_to_fall_under() -> None:
    seats = {1: frozenset({VERIFIER}), 2: frozenset({WORKER})}
    routing = route(logits(0, 1, 0, role=VERIFIER), seats, floor_margin=9, default_slot=2)
    assert (routing.slot, routing.margins.agent) == (1, None)


def test_an_agent_that_is_kept_stands_under_the_floor() -> None:
    options = {"sticky_margin": 1, "floor_margin": 0.5, "default_slot": 3}
    assert route(logits(0, 0.1, 0, 0), last_slot=1, **options).slot == 1
    assert route(logits(0, 0.1, 0, 0), last_slot=2, **options).slot == 2
    assert route(logits(0, 0.1, 0, 0), last_slot=None, **options).slot == 3


def test_a_bypass_names_the_agent_and_the_router_the_role() -> None:
    routing = route(logits(9, 0, 1, 2, role=THINKER), bypass_slot=1, sticky_margin=9, last_slot=3)
    assert (routing.slot, routing.role, routing.raw_slot, routing.raw_role) == (1, THINKER, None, THINKER)
    assert routing.adjustments == (Adjustment.BYPASS,)
    assert routing.ranking == (0, 3, 2, 1)


def test_a_bypass_to_an_agent_that_may_not_take_the_role_is_a_workers_turn() -> None:
    routing = route(logits(9, 0, role=VERIFIER), {0: ALL, 1: frozenset({WORKER})}, bypass_slot=1)
    assert (routing.slot, routing.role) == (1, WORKER)
    assert routing.adjustments == (Adjustment.NO_SEAT_FOR_ROLE, Adjustment.BYPASS)


LOGITS = st.builds(
    RouteLogits,
    st.lists(st.floats(-9, 9) | st.integers(-1, 1).map(float), min_size=7, max_size=7).map(tuple),
    st.lists(st.floats(-9, 9) | st.integers(-1, 1).map(float), min_size=3, max_size=3).map(tuple),
)
SEATS = st.dictionaries(st.integers(0, 6), st.frozensets(st.sampled_from(Role)), min_size=1)
OPTIONS = st.fixed_dictionaries(
    {
        "early_verifier": st.sampled_from(["worker", "allow"]),
        "agent_selection": st.sampled_from(["argmax", "softmax", "sample"]),
        "role_selection": st.sampled_from(["argmax", "sample"]),
        "seed": st.integers(0, 9),
        "sticky_margin": st.sampled_from([None, 0.5, 9]),
        "missing_margin": st.sampled_from(["low", "medium"]),
    },
    optional={name: st.just(value) for name, value in BANDS.items() if name.startswith("high")},
)
OVERRIDES = st.none() | st.tuples(
    st.sampled_from([WORKER, VERIFIER]), st.sampled_from([Adjustment.SUGGESTION, Adjustment.LOW_MARGIN_VERIFIER])
)


@given(LOGITS, SEATS, OPTIONS, OVERRIDES, st.none() | st.integers(0, 6), st.booleans(), st.data())
def test_a_turn_is_always_taken_by_an_agent_that_may(
    read: RouteLogits,
    seats: dict[int, frozenset[Role]],
    options: dict[str, Any],
    override: tuple[Role, Adjustment] | None,
    last_slot: int | None,
    has_answer: bool,
    data: st.DataObject,
) -> None:
    workers = [slot for slot, roles in seats.items() if WORKER in roles]
    assume(workers)
    special = data.draw(st.sampled_from([{}, {"bypass_slot": workers[0]}, {"default_slot": workers[0]}]))
    if "default_slot" in special:
        special = special | {"floor_margin": 1}
    routing = route(read, seats, has_answer, override, last_slot, **options, **special)
    assert routing.role in seats[routing.slot]
    assert routing == route(read, seats, has_answer, override, last_slot, **options, **special)
    assert sorted(routing.ranking) == sorted(slot for slot, roles in seats.items() if routing.role in roles)
    assert len(set(routing.adjustments)) == len(routing.adjustments)
    rules_of_slots = set(routing.adjustments) & {*list(Adjustment)[5:]}
    assert bool(rules_of_slots) >= (routing.slot != routing.raw_slot)
    if not routing.adjustments:
        assert (routing.slot, routing.role) == (routing.raw_slot, routing.raw_role)
    if options["early_verifier"] == "worker" and not has_answer:
        assert routing.role is not VERIFIER


@pytest.mark.parametrize(
    ("last", "has_answer", "role"),
    [(None, False, WORKER), (WORKER, True, VERIFIER), (VERIFIER, True, WORKER), (THINKER, False, WORKER)],
)
def test_a_router_that_says_nothing_about_roles_has_them_taken_in_turn(
    last: Role | None, has_answer: bool, role: Role
) -> None:
    situation = Situation(FOUR, "key", has_answer, last_role=last)
    routing = assign(Policy(), situation, RouteLogits((0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0)))
    assert routing.role is role
    assert routing.adjustments == (Adjustment.ROLES_IN_TURN,)

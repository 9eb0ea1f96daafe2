"""From logits to whose turn it is: the rules of a policy, applied in one order and recorded by name.

The role comes first: the router's, a suggestion's, or that of the low-margin path; then whether it is possible at all.
Then the agent, among those whose seats allow the role: the one that is named, kept, chosen, or the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ..contracts.errors import PoolInvalid
from ..contracts.routing import Choice, GuardRule, Margins, Role, RouteLogits
from .choice import choose, guard_rule, margin, pick_role, pick_slot
from .policy import EarlyVerifier, Policy

Seats = Mapping[int, frozenset[Role]]
"""The roles that the agent of each slot may take; a slot that is not there has no agent."""


class Adjustment(StrEnum):
    """A rule that made something else of the router's choice, in the order in which they apply."""

    SUGGESTION = "thinker_suggestion"
    """The role that the Thinker of the turn before suggested."""
    ROLES_IN_TURN = "roles_in_turn"
    """Worker and Verifier in turn, where the router's role logits are all equal: it says nothing about roles."""
    LOW_MARGIN = "low_margin"
    """A Thinker for a Worker that was chosen with low confidence."""
    LOW_MARGIN_VERIFIER = "low_margin_verifier"
    """The Verifier that follows on the low-margin path."""
    EARLY_VERIFIER = "verifier_before_worker"
    """A Worker for a Verifier that had nothing to check."""
    NO_SEAT_FOR_ROLE = "no_seat_for_role"
    """A Worker for a role that no agent may take."""
    NO_AGENT = "slot_without_agent"
    """Another slot for one that the pool lacks."""
    ROLE_NOT_ALLOWED = "slot_without_role"
    """Another slot for one whose agent may not take the role."""
    BYPASS = "bypass"
    """The slot that the policy names; the router was not asked."""
    STICKY = "sticky"
    """The agent that spoke last."""
    MARGIN_FLOOR = "margin_floor"
    """The default slot, because none led clearly."""
    DISTANCE_FLOOR = "distance_floor"
    """The default slot, because nothing like the transcript was trained on."""
    FALLBACK = "fallback"
    """The next best slot, because an agent failed."""
    GOES_ON = "goes_on"
    """The Worker that had called tools goes on with their results, and the router is not asked."""


class Confidence(StrEnum):
    """The class of a choice by its margins."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Situation:
    """What a turn's assignment depends on besides policy and logits.

    ``override`` is a role that the turn before decided, with the rule that did. ``last_slot`` is the agent that spoke
    last, ``last_role`` the role in which it did.
    """

    seats: Seats
    draw_key: str
    has_answer: bool
    override: tuple[Role, Adjustment] | None = None
    last_slot: int | None = None
    last_role: Role | None = None


@dataclass(frozen=True, slots=True)
class Routing:
    """Whose turn it is, and how that came about.

    ``raw_slot`` and ``raw_role`` are the router's own choice among all slots of its head; ``raw_slot`` is None where it
    was not asked. ``choice`` is its choice among the slots that may take ``role``; that and ``raw_role`` are None for a
    Worker that goes on without a route. ``confidence`` is None where the policy does not class choices. ``next_role``
    is the role that the low-margin path wants for the next turn.
    """

    slot: int
    role: Role
    raw_slot: int | None
    raw_role: Role | None
    adjustments: tuple[Adjustment, ...]
    choice: Choice | None
    confidence: Confidence | None = None
    next_role: Role | None = None

    @property
    def margins(self) -> Margins:
        """Margins of both splits, the agent's among the slots that may take the role."""
        return self.choice.margins if self.choice else Margins(None, None)

    @property
    def ranking(self) -> tuple[int, ...]:
        """The slots that may take the role, best first."""
        return self.choice.ranking if self.choice else (self.slot,)


def assign(policy: Policy, situation: Situation, logits: RouteLogits) -> Routing:
    """Whose turn it is.

    A Verifier with nothing to check is let through where the policy calls that an error: the caller fails the run.

    Raises:
        PoolInvalid: an agent sits in a slot that the router does not have.
    """
    _check_slots(situation.seats, logits)
    raw_slot = pick_slot(logits.agent, policy.selection, situation.draw_key)
    raw_role = pick_role(logits, policy.selection, situation.draw_key)
    confidence = _confidence(policy, situation.seats, logits)
    role, role_rules = _role(policy, situation, logits, raw_role, confidence)
    choice = choose(logits, policy.selection, _slots_for(role, situation.seats), situation.draw_key)
    slot, slot_rules = _slot(policy, situation, logits, raw_slot, choice)
    is_low = confidence is Confidence.LOW and situation.override is None
    return Routing(
        slot=slot,
        role=role,
        raw_slot=raw_slot if policy.bypass_slot is None else None,
        raw_role=raw_role,
        adjustments=(*role_rules, *slot_rules),
        choice=choice,
        confidence=confidence,
        next_role=Role.VERIFIER if is_low and raw_role is not Role.VERIFIER else None,
    )


def _check_slots(seats: Seats, logits: RouteLogits) -> None:
    if max(seats) >= len(logits.agent):
        raise PoolInvalid(
            f"the pool has an agent in slot {max(seats)}, but this router has slots 0 to {len(logits.agent) - 1}: "
            "take the agent out, or use a router with more slots"
        )


def _slots_for(role: Role, seats: Seats) -> list[int]:
    return [slot for slot, roles in seats.items() if role in roles]


def _confidence(policy: Policy, seats: Seats, logits: RouteLogits) -> Confidence | None:
    """Low where either margin is under its low mark, high where both reach their high one."""
    if not policy.has_confidence:
        return None
    margins = Margins(margin([logits.agent[slot] for slot in seats]), margin(logits.role))
    if margins.agent is None or margins.role is None:
        return Confidence(policy.missing_margin)
    if margins.agent < policy.low_agent_margin or margins.role < policy.low_role_margin:
        return Confidence.LOW
    is_high = margins.agent >= policy.high_agent_margin and margins.role >= policy.high_role_margin
    return Confidence.HIGH if is_high else Confidence.MEDIUM


def _role(
    policy: Policy, situation: Situation, logits: RouteLogits, raw: Role, confidence: Confidence | None
) -> tuple[Role, list[Adjustment]]:
    """The role of the turn, and the rules that changed it; ``ROLES_IN_TURN`` is named even where it changed nothing."""
    planned, reason = _planned(policy, situation, logits, raw, confidence)
    useful = planned if _is_useful(planned, policy, situation) else Role.WORKER
    seated = useful if useful in _possible_roles(policy, situation.seats) else Role.WORKER
    steps = (
        (raw, planned, reason),
        (planned, useful, Adjustment.EARLY_VERIFIER),
        (useful, seated, Adjustment.NO_SEAT_FOR_ROLE),
    )
    applied = [rule for before, after, rule in steps if before is not after or rule is Adjustment.ROLES_IN_TURN]
    return seated, applied


def _planned(
    policy: Policy, situation: Situation, logits: RouteLogits, raw: Role, confidence: Confidence | None
) -> tuple[Role, Adjustment]:
    """The role that is wanted, and the rule that would have changed the router's to it."""
    if situation.override:
        return situation.override
    if policy.roles_in_turn and len(set(logits.role)) == 1:
        is_checked_next = situation.has_answer and situation.last_role is Role.WORKER
        return Role.VERIFIER if is_checked_next else Role.WORKER, Adjustment.ROLES_IN_TURN
    is_low_worker = raw is Role.WORKER and confidence is Confidence.LOW
    return Role.THINKER if is_low_worker else raw, Adjustment.LOW_MARGIN


def _is_useful(role: Role, policy: Policy, situation: Situation) -> bool:
    """False for a Verifier with nothing to check, unless the policy lets it pass.

    Where such a Verifier is an error, one that the low-margin path asked for is none: nobody chose it.
    """
    if role is not Role.VERIFIER or situation.has_answer or policy.early_verifier is EarlyVerifier.ALLOW:
        return True
    is_chosen = situation.override is None or situation.override[1] is Adjustment.SUGGESTION
    return is_chosen and policy.early_verifier is EarlyVerifier.ERROR


def _possible_roles(policy: Policy, seats: Seats) -> frozenset[Role]:
    if policy.bypass_slot is not None:
        return seats[policy.bypass_slot]
    return frozenset().union(*seats.values())


def _slot(
    policy: Policy, situation: Situation, logits: RouteLogits, raw: int, choice: Choice
) -> tuple[int, list[Adjustment]]:
    """The slot of the turn, and the rules that changed it."""
    if policy.bypass_slot is not None:
        return policy.bypass_slot, [Adjustment.BYPASS]
    slot, rule = _preferred(policy, situation, logits, choice)
    masked = Adjustment.ROLE_NOT_ALLOWED if raw in situation.seats else Adjustment.NO_AGENT
    steps = ((raw, choice.slot, masked), (choice.slot, slot, rule))
    return slot, [rule for before, after, rule in steps if before != after]


def _preferred(policy: Policy, situation: Situation, logits: RouteLogits, choice: Choice) -> tuple[int, Adjustment]:
    """The agent that spoke last, the default, or the choice itself; and what the first two are called.

    An agent that is kept stands however small the margin: the floor is for a turn that nobody has a claim to.
    """
    last, default = situation.last_slot, policy.default_slot
    if policy.sticky_margin is not None and last is not None and last in choice.ranking:
        lead = logits.agent[choice.slot] - logits.agent[last]
        if lead < policy.sticky_margin:
            return last, Adjustment.STICKY
    rule = guard_rule(policy.guard, choice.margins.agent, logits.distance)
    named = Adjustment.DISTANCE_FLOOR if rule is GuardRule.DISTANCE else Adjustment.MARGIN_FLOOR
    return (default if rule and default is not None and default in choice.ranking else choice.slot), named

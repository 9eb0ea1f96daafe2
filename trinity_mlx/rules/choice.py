"""From logits to a choice: argmax, softmax, seeded sampling, masks and ties.

Pure functions: the same logits, selection, allowed slots and draw key give the same choice on every machine.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Collection, Sequence
from dataclasses import replace

from ..contracts.errors import SelectionError
from ..contracts.routing import (
    Choice,
    Guard,
    GuardRule,
    Margins,
    Probabilities,
    Role,
    RouteLogits,
    Selection,
    SelectionMode,
)

_MASKED = -math.inf


def choose(
    logits: RouteLogits,
    selection: Selection | None = None,
    allow_slots: Collection[int] | None = None,
    draw_key: str = "",
    guard: Guard | None = None,
) -> Choice:
    """Choose the slot and the role (docs/method.md, section 1).

    Args:
        logits: both splits of one transcript.
        selection: how to choose; argmax by default.
        allow_slots: the slots that may be chosen; the others are masked. ``None`` allows all.
        draw_key: what ``sample`` mixes with its seed, so that one seed gives each transcript a draw of its own.
        guard: whom to ask where the router is not to be followed; not heard where its slot is not allowed.

    Raises:
        SelectionError: no slot is allowed, or one that the head does not have.
    """
    selection = _with_seed(selection or Selection())
    agent = _mask(logits.agent, allow_slots)
    is_heard = selection.guarded and guard is not None and agent[guard.slot] != _MASKED
    rule = guard_rule(guard, margin(agent), logits.distance) if is_heard else None
    return Choice(
        slot=guard.slot if guard and rule else pick_slot(agent, selection, draw_key),
        role=pick_role(logits, selection, draw_key),
        margins=Margins(margin(agent), margin(logits.role)),
        ranking=_ranking(agent),
        selection=selection,
        tied_slots=_tied(agent),
        tied_roles=tuple(Role(index) for index in _tied(logits.role)),
        probabilities=_probabilities(agent, logits.role, selection),
        guarded=rule,
    )


def guard_rule(guard: Guard | None, margin: float | None, distance: float | None) -> GuardRule | None:
    """Why ``guard`` takes a choice of this agent margin and distance out of the router's hands; None where it does not.

    A router and a run ask here alike. Distance comes first: a large margin on something never seen says nothing.
    """
    if guard is None:
        return None
    if guard.distance is not None and distance is not None and distance > guard.distance:
        return GuardRule.DISTANCE
    is_unclear = guard.margin is not None and margin is not None and margin < guard.margin
    return GuardRule.MARGIN if is_unclear else None


def pick_slot(agent: Sequence[float], selection: Selection, draw_key: str = "") -> int:
    """The slot alone, from the logits of all slots; one of minus infinity is never taken."""
    return _pick(agent, selection.agent, selection, f"agent:{draw_key}")


def pick_role(logits: RouteLogits, selection: Selection, draw_key: str = "") -> Role:
    """The role alone: it does not depend on which slots are allowed."""
    return Role(_pick(logits.role, selection.role, selection, f"role:{draw_key}"))


def margin(values: Sequence[float]) -> float | None:
    """Largest minus second largest of the values that are not masked; ``None`` with fewer than two."""
    finite = sorted((value for value in values if value != _MASKED), reverse=True)
    return finite[0] - finite[1] if len(finite) > 1 else None


def softmax(values: Sequence[float], temperature: float) -> tuple[float, ...]:
    """Probabilities of ``values / temperature``; a masked value gets 0."""
    peak = max(values)
    weights = [math.exp((value - peak) / temperature) for value in values]
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def uniform(seed: int, key: str) -> float:
    """A number in [0, 1) that depends on ``seed`` and ``key`` alone, by sha256: alike on every platform."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _with_seed(selection: Selection) -> Selection:
    """The selection with a seed wherever it samples, so that every draw can be repeated."""
    samples = SelectionMode.SAMPLE in (selection.agent, selection.role)
    return replace(selection, seed=secrets.randbelow(2**53)) if samples and selection.seed is None else selection


def _mask(values: Sequence[float], allowed: Collection[int] | None) -> tuple[float, ...]:
    if allowed is None:
        return tuple(values)
    unknown = sorted(slot for slot in allowed if not 0 <= slot < len(values))
    if unknown:
        raise SelectionError(f"no slot {unknown[0]}: this router has slots 0 to {len(values) - 1}")
    if not allowed:
        raise SelectionError("no slot is allowed: name at least one")
    return tuple(value if slot in allowed else _MASKED for slot, value in enumerate(values))


def _pick(values: Sequence[float], mode: SelectionMode, selection: Selection, key: str) -> int:
    if mode is not SelectionMode.SAMPLE or selection.seed is None:
        return max(range(len(values)), key=values.__getitem__)
    return _draw(softmax(values, selection.temperature), uniform(selection.seed, key))


def _draw(probabilities: Sequence[float], point: float) -> int:
    """The index whose stretch of the unit interval holds ``point``; never one of probability 0."""
    passed = 0.0
    candidates = [index for index, probability in enumerate(probabilities) if probability > 0]
    for index in candidates:
        passed += probabilities[index]
        if point < passed:
            return index
    return candidates[-1]


def _ranking(values: Sequence[float]) -> tuple[int, ...]:
    allowed = [index for index, value in enumerate(values) if value != _MASKED]
    return tuple(sorted(allowed, key=lambda index: (-values[index], index)))


def _tied(values: Sequence[float]) -> tuple[int, ...]:
    peak = max(values)
    leaders = tuple(index for index, value in enumerate(values) if value == peak)
    return leaders if len(leaders) > 1 else ()


def _probabilities(agent: Sequence[float], role: Sequence[float], selection: Selection) -> Probabilities | None:
    if selection.agent is selection.role is SelectionMode.ARGMAX:
        return None
    return Probabilities(softmax(agent, selection.temperature), softmax(role, selection.temperature))

"""What one request may ask of its run, always less than the operator allows: agents left out, limits, options.

By header (``X-Trinity-Deny: a, b``) or in ``metadata`` (``trinity_deny``); a header wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from ..contracts.pool import Pool
from ..rules.budgets import Limits
from ..rules.policy import Policy
from .asgi import Scope
from .problems import invalid

LIMITS = {
    "max_seconds": ("wall_time_s", float),
    "max_calls": ("provider_calls", int),
    "max_call_seconds": ("call_latency_s", float),
    "max_revisions": ("verifier_revisions", int),
    "max_cost": ("cost_usd", float),
    "max_tokens": ("tokens", int),
}
"""What a request may call a limit: the limit's own name, and its type."""
ALLOWED_OPTIONS = frozenset({"max_turns"})
"""Options of a policy that a request may set wherever the operator says nothing; ``max_turns`` can only go down."""
_HEADER = b"x-trinity-"
_OPTIONS = tuple(each.name for each in fields(Policy) if each.name != "name")


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What a request asked for: agents left out, limits, options, and whether a verified answer alone counts."""

    deny: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    options: tuple[tuple[str, str], ...] = ()
    require_verified: bool = False


def read_narrowing(scope: Scope, metadata: Mapping[str, str]) -> Narrowing:
    """What a request asks for.

    Raises:
        Problem: a value cannot be read.
    """
    wishes = {key.removeprefix("trinity_"): text for key, text in metadata.items() if key.startswith("trinity_")}
    wishes |= {
        key[len(_HEADER) :].decode("latin-1").replace("-", "_"): value.decode("latin-1")
        for key, value in scope["headers"]
        if key.startswith(_HEADER)
    }
    asked = wishes.get
    limits: dict[str, Any] = {
        own: _number(name, text, kind) for name, (own, kind) in LIMITS.items() if (text := asked(name))
    }
    options = [(name, text) for name in _OPTIONS if (text := asked(name))]
    return Narrowing(
        deny=tuple(name.strip() for name in (asked("deny") or "").split(",") if name.strip()),
        limits=Limits(**limits),
        options=tuple(options),
        require_verified=(asked("require_verified") or "").lower() in ("1", "true", "yes"),
    )


def denied_slots(narrowing: Narrowing, pool: Pool) -> tuple[int, ...]:
    """The slots of the agents that a request leaves out.

    Raises:
        Problem: one of them is not in the pool.
    """
    slots = {agent.name: agent.slot for agent in pool.agents}
    for name in narrowing.deny:
        if name not in slots:
            raise invalid(f"there is no agent {name[:100]!r} to leave out: there are {', '.join(slots)}")
    return tuple(slots[name] for name in narrowing.deny)


@lru_cache(256)
def narrowed_policy(
    operator: Policy, options: tuple[tuple[str, str], ...], allowed: frozenset[str], *, before: int, once: bool
) -> Policy:
    """The operator's policy with the options that a request may set, and the turns that are left.

    Args:
        operator: the policy.
        options: what the request asks for.
        allowed: the options that it may set.
        before: turns that earlier requests of the same run have taken.
        once: whether one turn is all.

    Raises:
        Problem: an option is not among those.
        PolicyInvalid: its value does not fit.
    """
    for name, _ in options:
        if name not in allowed:
            raise invalid(f"the option {name} may not be set by a request: {', '.join(sorted(allowed)) or 'none'} may")
    policy = operator.with_options(**dict(options))
    left = max(1, min(policy.max_turns, operator.max_turns) - before)
    return policy.with_options(max_turns=1 if once else left)


def _number(name: str, text: str, kind: type[float]) -> float:
    try:
        return kind(text)
    except ValueError:
        raise invalid(f"the limit {name} is {text[:40]!r}: give a number") from None

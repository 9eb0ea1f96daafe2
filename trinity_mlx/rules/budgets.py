"""What a run may spend, what it has spent, and the two checks between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from operator import ge, gt

from ..contracts.errors import BudgetExceeded, UsageError

_COUNTS = ("provider_calls", "verifier_revisions", "tokens")
_FROM_ZERO = ("provider_calls", "verifier_revisions")
_MOST = 2**53
"""Above this a float no longer counts in ones."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one run; ``None`` leaves a thing unlimited.

    ``wall_time_s`` and ``call_latency_s`` are seconds, of the run and of one call. ``provider_calls`` counts attempts.
    ``verifier_revisions`` counts Verifier replies that did not accept. ``cost_usd`` is in US dollars.

    Raises:
        UsageError: a limit is not a number above 0 and up to 2**53. Calls, revisions and tokens are whole numbers, and
            for calls and revisions 0 is one too: none at all.
    """

    wall_time_s: float | None = None
    provider_calls: int | None = None
    call_latency_s: float | None = None
    verifier_revisions: int | None = None
    cost_usd: float | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.to_dict().items():
            _check_limit(name, value)

    def within(self, other: Limits) -> Limits:
        """Each limit, or that of ``other`` where it is tighter or the only one."""
        if self == other:
            return self
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in _NAMES)
        return Limits(**{name: min((each for each in both if each is not None), default=None) for name, *both in pairs})

    def to_dict(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return {name: value for name in _NAMES if (value := getattr(self, name)) is not None}


_NAMES = tuple(field.name for field in fields(Limits))


def _check_limit(name: str, value: float) -> None:
    counted, may_be_zero = name in _COUNTS, name in _FROM_ZERO
    is_number = isinstance(value, int if counted else int | float) and not isinstance(value, bool)
    if is_number and value <= _MOST and (value > 0 or (may_be_zero and value == 0)):
        return
    least = "of 0 or more" if may_be_zero else "above 0"
    expected = f"a {'whole ' if counted else ''}number {least}, at most 2**53"
    raise UsageError(f"limit {name} is {value!r}: it must be {expected}; leave it out for no limit")


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has used so far, apart from time; made anew with each call and each reply."""

    provider_calls: int = 0
    verifier_revisions: int = 0
    cost_usd: float = 0.0
    tokens: int = 0

    def called(self) -> Spent:
        """After one more attempt at a provider, whatever comes of it."""
        return replace(self, provider_calls=self.provider_calls + 1)

    def replied(self, tokens: int = 0, cost_usd: float = 0.0, revised: bool = False) -> Spent:
        """After a reply: ``tokens`` in and out, ``cost_usd``, and whether a Verifier did not accept.

        Neither count can lower what was spent; a cost that is no number is more than any limit.
        """
        return replace(
            self,
            verifier_revisions=self.verifier_revisions + revised,
            cost_usd=self.cost_usd + (math.inf if math.isnan(cost_usd) else max(0.0, cost_usd)),
            tokens=self.tokens + max(0, tokens),
        )


def check_before_call(limits: Limits, spent: Spent, wall_time_s: float) -> None:
    """Refuse an attempt at a provider that would exceed a limit, ``wall_time_s`` seconds into the run.

    In this order, the first that holds:

    - ``wall_time``: the time passed >= the limit;
    - ``provider_calls``: the attempts made + 1 > the limit;
    - ``cost``: the dollars spent >= the limit;
    - ``tokens``: the tokens used >= the limit.

    Raises:
        BudgetExceeded: with the limit, and what was compared with it.
    """
    _check(
        limits,
        ("wall_time_s", wall_time_s, ge),
        ("provider_calls", spent.provider_calls + 1, gt),
        ("cost_usd", _dollars(spent), ge),
        ("tokens", spent.tokens, ge),
    )


def check_after_call(limits: Limits, spent: Spent, wall_time_s: float, call_latency_s: float) -> None:
    """Stop a run that has exceeded a limit by a call which took ``call_latency_s`` seconds and is counted in ``spent``.

    In this order, the first that holds:

    - ``wall_time``: the time passed >= the limit;
    - ``call_latency``: the time of this call > the limit;
    - ``verifier_revisions``: the revisions > the limit;
    - ``cost``: the dollars spent > the limit;
    - ``tokens``: the tokens used > the limit.

    Raises:
        BudgetExceeded: with the limit, and what was compared with it.
    """
    _check(
        limits,
        ("wall_time_s", wall_time_s, ge),
        ("call_latency_s", call_latency_s, gt),
        ("verifier_revisions", spent.verifier_revisions, gt),
        ("cost_usd", _dollars(spent), gt),
        ("tokens", spent.tokens, gt),
    )


def _dollars(spent: Spent) -> float:
    """Cost without the last digits, in which a sum of floats goes astray."""
    return round(spent.cost_usd, 9)


def _check(limits: Limits, *measures: tuple[str, float, Callable[[float, float], bool]]) -> None:
    for name, observed, exceeds in measures:
        limit = getattr(limits, name)
        if limit is not None and exceeds(observed, limit):
            raise BudgetExceeded(name.removesuffix("_s").removesuffix("_usd"), limit, observed)

"""What a reading window does to decisions: every case read whole and read through the window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..contracts.errors import TrinityError
from ..contracts.routing import Gap, RouteDecision, Window
from ..routing.router import Router
from ..rules.distance import Distance
from .gates import route_case
from .suite import Case, Suite


@dataclass(frozen=True, slots=True)
class WindowedCase:
    """One case both ways. ``whole`` is None where the base has too few positions for it, and ``problem`` says so."""

    id: str
    token_count: int
    gap: Gap | None
    whole: RouteDecision | None
    windowed: RouteDecision | None
    problem: str = ""

    @property
    def kept(self) -> bool | None:
        """Whether slot and role are the same; None where one of the two is not known."""
        if self.whole is None or self.windowed is None:
            return None
        return (self.whole.slot, self.whole.role) == (self.windowed.slot, self.windowed.role)

    @property
    def distance(self) -> Distance | None:
        """How far the logits through the window are from those of the whole."""
        if self.whole is None or self.windowed is None:
            return None
        return Distance.between(self.windowed.logits.row, self.whole.logits.row)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "id": self.id,
            "token_count": self.token_count,
            "left_out": self.gap.to_dict() if self.gap else None,
            "whole": _decision(self.whole),
            "windowed": _decision(self.windowed),
            "kept": self.kept,
            "distance": self.distance.to_dict() if self.distance else None,
            "problem": self.problem or None,
        }


@dataclass(frozen=True, slots=True)
class WindowComparison:
    """A suite read whole and through a window."""

    suite: Suite
    window: Window
    artifact: str
    cases: tuple[WindowedCase, ...]

    @property
    def cut(self) -> list[WindowedCase]:
        """The cases of which something was left out."""
        return [case for case in self.cases if case.gap]

    @property
    def changed(self) -> list[WindowedCase]:
        """The cases that are decided otherwise."""
        return [case for case in self.cases if case.kept is False]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the object that ``trinity-mlx eval --window ... --json`` prints."""
        return {
            "suite": self.suite.name,
            "artifact": self.artifact,
            "window": {"head": self.window.head, "tail": self.window.tail, "step": self.window.step},
            "summary": {
                "cases": len(self.cases),
                "cut": len(self.cut),
                "kept": sum(case.kept is True for case in self.cases),
                "changed": len(self.changed),
                "unknown": sum(case.kept is None for case in self.cases),
            },
            "cases": [case.to_dict() for case in self.cases],
        }


def compare_window(
    router: Router, suite: Suite, window: Window, tick: Callable[[], None] = lambda: None
) -> WindowComparison:
    """Route every case of ``suite`` whole and through ``window``; ``tick`` is called after each case.

    Raises:
        UsageError: the window is wider than the base of ``router``.
        NonFiniteLogits: the model itself is broken.
    """
    whole, windowed = router.through(None), router.through(window)
    cases = []
    for case in suite.cases:
        cases.append(_compare(case, whole, windowed))
        tick()
    return WindowComparison(suite, window, router.identity.artifact.name, tuple(cases))


def _compare(case: Case, whole: Router, windowed: Router) -> WindowedCase:
    full, through = route_case(whole, case), route_case(windowed, case)
    problem = next((str(outcome) for outcome in (through, full) if isinstance(outcome, TrinityError)), "")
    one, other = (None if isinstance(outcome, TrinityError) else outcome for outcome in (full, through))
    known = other or one
    return WindowedCase(case.id, known.token_count if known else 0, other.gap if other else None, one, other, problem)


def _decision(decision: RouteDecision | None) -> dict[str, Any] | None:
    if decision is None:
        return None
    return {
        "slot": decision.slot,
        "role": int(decision.role),
        "margins": {"agent": decision.margins.agent, "role": decision.margins.role},
    }

"""What an evaluation found: the one object behind the terminal's table, the JSON, the HTML page and the JUnit file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ..contracts.routing import Role, RouteDecision
from ..rules.distance import Distance
from .snapshot import Snapshot, SnapshotCase
from .suite import Case, Suite


class Status(StrEnum):
    """What became of a case."""

    PASS = "pass"
    FAIL = "fail"
    REPORT = "report"
    """It would have failed, and nothing is asserted."""


@dataclass(frozen=True, slots=True)
class Floors:
    """The least margin of each split that a case needs, in logits; None asks nothing."""

    agent: float | None
    role: float | None
    agent_source: str
    role_source: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "agent": self.agent,
            "role": self.role,
            "agent_source": self.agent_source,
            "role_source": self.role_source,
        }


@dataclass(frozen=True, slots=True)
class Worst:
    """The smallest margin of a split, and the case that it belongs to."""

    value: float
    case: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"value": self.value, "case": self.case}


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case after all its runs.

    ``decision`` is the first run's, None where it could not be routed (``reasons`` then says why). ``recorded`` is
    the snapshot's entry and ``distance`` how far the logits are from it; both are None without one.
    ``route_hash_drifted`` is None where hashes cannot be compared.
    """

    case: Case
    status: Status
    reasons: tuple[str, ...]
    decision: RouteDecision | None
    recorded: SnapshotCase | None = None
    distance: Distance | None = None
    route_hash_drifted: bool | None = None

    def to_dict(self, with_logits: bool = False) -> dict[str, Any]:
        """JSON-ready: one element of ``cases`` in ``trinity-mlx eval --json``."""
        decision = self.decision
        expected = self.case.expected
        return {
            "id": self.case.id,
            "status": str(self.status),
            "reasons": list(self.reasons),
            "expected": {"slot": expected.slot, "role": int(expected.role)},
            "returned": {"slot": decision.slot, "role": int(decision.role)} if decision else None,
            "token_count": decision.token_count if decision else None,
            "margins": {"agent": decision.margins.agent, "role": decision.margins.role} if decision else None,
            "transcript_hash": decision.transcript_hash if decision else self.case.transcript.sha256,
            "route_hash": decision.route_hash if decision else None,
            "route_hash_drifted": self.route_hash_drifted,
            "recorded": _recorded(self.recorded) if self.recorded else None,
            "snapshot_distance": self.distance.to_dict() if self.distance else None,
        } | ({"logits": _logits(decision)} if with_logits else {})


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A suite run against one lane.

    ``environment`` describes the router, the variant and the machine in plain values. ``notes`` are lines for people:
    what could not be checked, and why.
    """

    suite: Suite
    results: tuple[CaseResult, ...]
    floors: Floors
    snapshot: Snapshot | None
    labels: tuple[str, ...]
    determinism_runs: int
    elapsed_s: float
    environment: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> list[CaseResult]:
        """The cases that did not pass a gate, in order, whether or not that was asserted."""
        return [result for result in self.results if result.reasons]

    @property
    def gate_failed(self) -> bool:
        """Whether a case failed that was asserted."""
        return any(result.status is Status.FAIL for result in self.results)

    @property
    def worst_agent(self) -> Worst | None:
        """The smallest agent margin."""
        return self._worst(
            {result.case.id: result.decision.margins.agent for result in self.results if result.decision}
        )

    @property
    def worst_role(self) -> Worst | None:
        """The smallest role margin."""
        return self._worst({result.case.id: result.decision.margins.role for result in self.results if result.decision})

    @property
    def slots(self) -> dict[int, int]:
        """How many cases chose each slot, every slot of the head among them."""
        counts = Counter(result.decision.slot for result in self.results if result.decision)
        return {slot: counts[slot] for slot in range(len(self.labels))}

    @property
    def roles(self) -> dict[Role, int]:
        """How many cases chose each role."""
        counts = Counter(result.decision.role for result in self.results if result.decision)
        return {role: counts[role] for role in Role}

    @property
    def distance(self) -> Distance | None:
        """All cases' logits against the snapshot's, as one long row; None where nothing can be compared."""
        return Distance.over(
            (result.decision.logits.row, result.recorded.logits)
            for result in self.results
            if result.decision and result.recorded and result.distance
        )

    def to_dict(self, with_logits: bool = False) -> dict[str, Any]:
        """JSON-ready: the object that ``trinity-mlx eval --json`` prints."""
        failed = len(self.failed)
        distance = self.distance
        return {
            "summary": {
                "suite": self.suite.name,
                "passed": len(self.results) - failed,
                "failed": failed,
                "gate_failed": self.gate_failed,
                "worst_agent_margin": self.worst_agent.to_dict() if self.worst_agent else None,
                "worst_role_margin": self.worst_role.to_dict() if self.worst_role else None,
                "roles": {role.label: count for role, count in self.roles.items()},
                "slots": {str(slot): count for slot, count in self.slots.items()},
                "determinism_runs": self.determinism_runs,
                "snapshot_distance": distance.to_dict() if distance else None,
                "elapsed_s": round(self.elapsed_s, 3),
            },
            "floors": self.floors.to_dict(),
            "snapshot": self.snapshot.origin if self.snapshot else None,
            "environment": dict(self.environment),
            "notes": list(self.notes),
            "cases": [result.to_dict(with_logits) for result in self.results],
        }

    @staticmethod
    def _worst(margins: Mapping[str, float | None]) -> Worst | None:
        known = {case: value for case, value in margins.items() if value is not None}
        if not known:
            return None
        case = min(known, key=known.__getitem__)
        return Worst(known[case], case)


def _recorded(case: SnapshotCase) -> dict[str, Any]:
    return {
        "slot": case.agent_id,
        "role": case.role_id,
        "token_count": case.token_count,
        "transcript_hash": case.transcript_hash,
        "route_hash": case.route_hash,
    }


def _logits(decision: RouteDecision | None) -> dict[str, list[float]] | None:
    return {"agent": list(decision.logits.agent), "role": list(decision.logits.role)} if decision else None

"""Two lanes side by side: decisions, logits, margins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..rules.distance import Distance
from .lane import Lane
from .snapshot import SnapshotCase


@dataclass(frozen=True, slots=True)
class ComparedCase:
    """One case that both lanes have; ``distance`` is None where the heads differ in size."""

    id: str
    first: SnapshotCase
    second: SnapshotCase
    distance: Distance | None

    @property
    def same_decision(self) -> bool:
        """Whether slot and role agree."""
        return (self.first.agent_id, self.first.role_id) == (self.second.agent_id, self.second.role_id)

    @property
    def same_input(self) -> bool:
        """Whether both read the same transcript as the same number of tokens."""
        first, second = self.first, self.second
        return (first.transcript_hash, first.token_count) == (second.transcript_hash, second.token_count)


@dataclass(frozen=True, slots=True)
class LaneComparison:
    """What two lanes have in common and where they part."""

    first: Lane
    second: Lane
    cases: tuple[ComparedCase, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def agree(self) -> bool:
        """Whether every shared case has one decision on one input, and there is at least one."""
        return bool(self.cases) and all(case.same_decision and case.same_input for case in self.cases)

    @property
    def distance(self) -> Distance | None:
        """All shared logits as one long row; None where nothing can be compared."""
        return Distance.over((case.second.logits, case.first.logits) for case in self.cases if case.distance)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the object that ``trinity-mlx compare-lanes --json`` prints."""
        distance = self.distance
        return {
            "agree": self.agree,
            "first": _lane(self.first),
            "second": _lane(self.second),
            "distance": distance.to_dict() if distance else None,
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
            "cases": [_case(case) for case in self.cases],
        }


def compare_lanes(first: Lane, second: Lane) -> LaneComparison:
    """The shared cases of two lanes, in the first one's order."""
    ours, theirs = ({case.id: case for case in lane.cases} for lane in (first, second))
    shared = [name for name in ours if name in theirs]
    return LaneComparison(
        first,
        second,
        tuple(_compare(ours[name], theirs[name]) for name in shared),
        tuple(name for name in ours if name not in theirs),
        tuple(name for name in theirs if name not in ours),
    )


def _compare(ours: SnapshotCase, theirs: SnapshotCase) -> ComparedCase:
    comparable = len(ours.logits) == len(theirs.logits)
    return ComparedCase(ours.id, ours, theirs, Distance.between(theirs.logits, ours.logits) if comparable else None)


def _lane(lane: Lane) -> dict[str, Any]:
    return {
        "name": lane.name,
        "status": lane.status,
        "floors": lane.floors.model_dump() if lane.floors else None,
        "worst": lane.worst.model_dump() if lane.worst else None,
    }


def _case(case: ComparedCase) -> dict[str, Any]:
    return {
        "id": case.id,
        "same_decision": case.same_decision,
        "same_input": case.same_input,
        "first": {"slot": case.first.agent_id, "role": case.first.role_id},
        "second": {"slot": case.second.agent_id, "role": case.second.role_id},
        "margins": {
            "first": {"agent": case.first.agent_margin, "role": case.first.role_margin},
            "second": {"agent": case.second.agent_margin, "role": case.second.role_margin},
        },
        "distance": case.distance.to_dict() if case.distance else None,
    }

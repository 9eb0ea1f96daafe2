"""Snapshots: what each case of a suite once gave, to see later what has moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ..contracts.errors import InputFileError, SnapshotInvalid
from ..contracts.routing import Role, RouteDecision, RouteLogits
from ..files.atomic import write_json
from ..files.models import Faults, Lenient, plain, read_model
from ..rules.distance import Distance

SCHEMA_VERSION = 1
OWN_HASHES: Literal["trinity-mlx-1"] = "trinity-mlx-1"
"""Marks hashes that this package computed; those of other systems are shown and never compared."""

_LARGEST = 3.5e38
"""No float32 is larger."""
_Rounded = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST), AfterValidator(lambda value: round(value, 6))]


class SnapshotCase(Lenient):
    """One case as the public files have it; margins and logits are rounded to six decimals."""

    id: Annotated[str, Field(min_length=1)]
    agent_id: Annotated[int, Field(ge=0)]
    role_id: Annotated[int, Field(ge=0, lt=len(Role))]
    token_count: Annotated[int, Field(ge=1)]
    agent_margin: _Rounded | None
    role_margin: _Rounded | None
    agent_logits_rounded: Annotated[list[_Rounded], Field(min_length=1)]
    role_logits_rounded: Annotated[list[_Rounded], Field(min_length=len(Role), max_length=len(Role))]
    transcript_hash: str
    route_hash: str

    @property
    def logits(self) -> list[float]:
        """Both splits in one row, agent first."""
        return self.agent_logits_rounded + self.role_logits_rounded


class _File(Lenient):
    schema_version: Annotated[int, Field(ge=1, le=1)]
    hashes: str | None = None
    cases: list[SnapshotCase]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Earlier routes by case. ``origin`` says where they come from; ``own_hashes`` whether hashes can be compared."""

    origin: str
    own_hashes: bool
    cases: dict[str, SnapshotCase]


def read_snapshot(path: Path) -> Snapshot:
    """The snapshot in a file, one of ours or a public ``qwen_router_prompt_eval_logits.json``.

    Raises:
        InputFileError: the file cannot be read.
        SnapshotInvalid: it holds something else, or a case twice.
    """
    document, _ = read_model(path, _File, Faults(SnapshotInvalid, InputFileError))
    return make_snapshot(plain(str(path)), document.hashes == OWN_HASHES, document.cases)


def make_snapshot(origin: str, own_hashes: bool, cases: Sequence[SnapshotCase]) -> Snapshot:
    """A snapshot of ``cases``.

    Raises:
        SnapshotInvalid: a case stands there twice.
    """
    by_id = {case.id: case for case in cases}
    if len(by_id) < len(cases):
        twice = next(case.id for case in cases if [other.id for other in cases].count(case.id) > 1)
        raise SnapshotInvalid(f"{origin}: case {twice!r} stands there twice")
    return Snapshot(origin, own_hashes, by_id)


def snapshot_case(case_id: str, decision: RouteDecision) -> SnapshotCase:
    """What a decision leaves in a snapshot."""
    return SnapshotCase(
        id=case_id,
        agent_id=decision.slot,
        role_id=int(decision.role),
        token_count=decision.token_count,
        agent_margin=decision.margins.agent,
        role_margin=decision.margins.role,
        agent_logits_rounded=list(decision.logits.agent),
        role_logits_rounded=list(decision.logits.role),
        transcript_hash=decision.transcript_hash,
        route_hash=decision.route_hash,
    )


def write_snapshot(path: Path, cases: Sequence[SnapshotCase]) -> None:
    """Write ``cases`` in the public shape, whole or not at all.

    Raises:
        FolderUnavailable: it cannot be written.
    """
    listed = [case.model_dump(mode="json") for case in cases]
    write_json(path, {"schema_version": SCHEMA_VERSION, "hashes": OWN_HASHES, "cases": listed})


def distance(logits: RouteLogits, case: SnapshotCase) -> Distance | None:
    """How far ``logits`` are from the snapshot's; None where the splits differ in size."""
    if len(logits.agent) != len(case.agent_logits_rounded):
        return None
    return Distance.between(logits.row, case.logits)

"""The gates: a suite routed several times from nothing, each case against what is expected of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contracts.errors import NonFiniteLogits, SuiteInvalid, TrinityError
from ..contracts.routing import RouteDecision
from ..routing.router import Router, RouterIdentity
from ..rules.distance import Distance
from .determinism import reproducing
from .provenance import describe_machine, describe_software
from .results import CaseResult, Evaluation, Floors, Status
from .snapshot import Snapshot, SnapshotCase, distance
from .suite import Case, Suite

Outcome = RouteDecision | TrinityError
"""What one case gave in one run."""


@dataclass(frozen=True, slots=True)
class Gates:
    """What is asked of every case. With ``asserting`` off, failures are reported and nothing fails."""

    floors: Floors
    snapshot: Snapshot | None = None
    determinism_runs: int = 1
    asserting: bool = True
    notes: tuple[str, ...] = ()


def evaluate(
    router: Router,
    suite: Suite,
    gates: Gates,
    tick: Callable[[], None] = lambda: None,
    config_dir: Path | None = None,
) -> Evaluation:
    """Run ``suite`` on ``router`` and hold every case against the gates; ``tick`` is called after each route.

    Each run computes every case from nothing, one case at a time, so that a result depends on the case alone, and
    under the settings that ``determinism`` finds for the router's profile, which may be one of ``config_dir``.

    Raises:
        SuiteInvalid: a case expects a slot that the router does not have.
        NonFiniteLogits: the model itself is broken.
    """
    check_fit(suite, router.identity)
    started = time.perf_counter()
    with reproducing(router.identity, config_dir) as settings:
        runs = [route_suite(router, suite, tick) for _ in range(gates.determinism_runs)]
    results = tuple(_judge(case, outcomes, gates) for case, *outcomes in zip(suite.cases, *runs, strict=True))
    return Evaluation(
        suite=suite,
        results=results,
        floors=gates.floors,
        snapshot=gates.snapshot,
        labels=router.identity.labels,
        determinism_runs=gates.determinism_runs,
        elapsed_s=time.perf_counter() - started,
        environment={**describe_environment(router.identity), "determinism": dict(settings)},
        notes=(*gates.notes, *_coverage_notes(results, gates.snapshot)),
    )


def check_fit(suite: Suite, identity: RouterIdentity) -> None:
    """Refuse a suite that was written for a router with more slots.

    Raises:
        SuiteInvalid: a case expects a slot that the router does not have.
    """
    slots = len(identity.labels)
    for case in suite.cases:
        if case.expected.slot >= slots:
            raise SuiteInvalid(
                f"suite {suite.name}: case {case.id!r} expects slot {case.expected.slot}, and "
                f"{identity.artifact.name} has slots 0 to {slots - 1}: use a suite that was made for it"
            )


def route_suite(router: Router, suite: Suite, tick: Callable[[], None] = lambda: None) -> list[Outcome]:
    """Every case once (see ``route_case``).

    Raises:
        NonFiniteLogits: the model itself is broken.
    """
    outcomes = []
    for case in suite.cases:
        outcomes.append(route_case(router, case))
        tick()
    return outcomes


def describe_environment(identity: RouterIdentity) -> Mapping[str, Any]:
    """The router, its variant and the machine, in plain values."""
    return {
        "artifact": identity.artifact.name,
        "adapter_ref": identity.artifact.adapter_ref,
        "base_ref": identity.artifact.base_ref,
        "head_ref": identity.head_ref,
        "profile": identity.profile,
        "device": identity.device,
        "dtype": identity.dtype,
        "kernels": identity.variant.kernels,
        "quantize": identity.variant.quantize,
        "text_format": str(identity.text_format),
        "part_format": str(identity.part_format),
        "receipt": identity.receipt.recorded if identity.receipt else None,
        "software": describe_software(),
        "machine": describe_machine(),
    }


def route_case(router: Router, case: Case) -> Outcome:
    """One case from nothing; a transcript that cannot be routed gives its error.

    Raises:
        NonFiniteLogits: the model itself is broken.
    """
    router.forget()
    try:
        return router.route(case.transcript)
    except NonFiniteLogits:
        raise
    except TrinityError as error:
        return error


def _judge(case: Case, outcomes: Sequence[Outcome], gates: Gates) -> CaseResult:
    first = outcomes[0]
    if isinstance(first, TrinityError):
        reasons = [f"cannot be routed: {first}"]
        return CaseResult(case, _status(reasons, gates), tuple(reasons), None)
    recorded = gates.snapshot.cases.get(case.id) if gates.snapshot else None
    own_hashes = gates.snapshot is not None and gates.snapshot.own_hashes
    reasons = [
        *_expectation_reasons(case, first),
        *_floor_reasons(first, gates.floors),
        *(_drift_reasons(first, recorded, own_hashes) if recorded else []),
        *_determinism_reasons(first, outcomes[1:]),
    ]
    return CaseResult(
        case=case,
        status=_status(reasons, gates),
        reasons=tuple(reasons),
        decision=first,
        recorded=recorded,
        distance=distance(first.logits, recorded) if recorded else None,
        route_hash_drifted=first.route_hash != recorded.route_hash if recorded and own_hashes else None,
    )


def _status(reasons: Sequence[str], gates: Gates) -> Status:
    if not reasons:
        return Status.PASS
    return Status.FAIL if gates.asserting else Status.REPORT


def _expectation_reasons(case: Case, decision: RouteDecision) -> list[str]:
    expected = case.expected
    reasons = []
    if (decision.slot, decision.role) != (expected.slot, expected.role):
        reasons.append(
            f"decision: expected slot {expected.slot} as {expected.role.label}, "
            f"got slot {decision.slot} as {decision.role.label}"
        )
    if case.token_count not in (None, decision.token_count):
        reasons.append(f"token count: the suite states {case.token_count}, got {decision.token_count}")
    return reasons


def _floor_reasons(decision: RouteDecision, floors: Floors) -> list[str]:
    splits = (
        ("agent", decision.margins.agent, floors.agent, floors.agent_source),
        ("role", decision.margins.role, floors.role, floors.role_source),
    )
    return [
        f"{split} margin: {margin:.6f} is under the floor {floor:g} ({source})"
        for split, margin, floor, source in splits
        if margin is not None and floor is not None and margin < floor
    ]


def _drift_reasons(decision: RouteDecision, recorded: SnapshotCase, own_hashes: bool) -> list[str]:
    fields = [
        ("slot", recorded.agent_id, decision.slot),
        ("role", recorded.role_id, int(decision.role)),
        ("token count", recorded.token_count, decision.token_count),
    ]
    if own_hashes:
        fields.append(("transcript hash", recorded.transcript_hash, decision.transcript_hash))  # type: ignore[arg-type]
    return [f"drift: {name} was {old} in the snapshot, and is {new}" for name, old, new in fields if old != new]


def _determinism_reasons(first: RouteDecision, others: Sequence[Outcome]) -> list[str]:
    """Runs whose logits are not those of the first run, bit for bit."""
    reasons = []
    for number, other in enumerate(others, start=2):
        if isinstance(other, TrinityError):
            reasons.append(f"determinism: run {number} could not be routed: {other}")
        elif other.logits != first.logits:
            apart = Distance.between(other.logits.row, first.logits.row)
            reasons.append(f"determinism: run {number} gave other logits than run 1, by up to {apart.largest:.3g}")
    return reasons


def _coverage_notes(results: Sequence[CaseResult], snapshot: Snapshot | None) -> list[str]:
    if snapshot is None:
        return ["there is no snapshot to compare with"]
    missing = [result.case.id for result in results if result.case.id not in snapshot.cases]
    resized = [result.case.id for result in results if result.decision and result.recorded and not result.distance]
    notes = []
    if missing:
        notes.append(f"{len(missing)} of {len(results)} cases are not in the snapshot, {missing[0]} among them")
    if resized:
        notes.append(
            "the snapshot was made with another number of slots: "
            f"logits are not compared in {len(resized)} of {len(results)} cases"
        )
    if not snapshot.own_hashes:
        notes.append("the snapshot's hashes were made by another system: they are not compared")
    return notes

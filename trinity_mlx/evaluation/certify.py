"""Certification: what a lane gives on this machine, seen several times in one process and in fresh ones."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from fractions import Fraction
from multiprocessing import get_context, parent_process
from typing import Any, Literal

from ..contracts.errors import EnvironmentUnavailable, ProfileUnavailable, TrinityError
from ..contracts.routing import RouteDecision
from ..profiles.backends import load_backend
from ..profiles.registry import ProfileRegistry
from ..routing.recipe import Recipe
from ..routing.router import RouterIdentity
from ..routing.selfcheck import LENGTHS, SHORT, SelfCheck, check_device
from ..rules.distance import Distance
from .determinism import reproducing
from .gates import Gates, Outcome, evaluate, route_suite
from .lane import Lane, LaneFloors, measured_lane
from .results import Evaluation, Floors
from .suite import Suite

NO_FLOORS = Floors(None, None, "none asked", "none asked")


@dataclass(frozen=True)
class Certificate:
    """What a certification found.

    ``faults`` holds what forbids a lane, a line each; ``lane`` is None where there are any. ``kernels`` tells how the
    other kernels compare: their ``name``, with ``decisions_changed`` and ``distance`` or why they ``cannot_run``.
    """

    evaluation: Evaluation
    faults: tuple[str, ...]
    lane: Lane | None
    kernels: dict[str, Any] = field(default_factory=dict)


def certify(
    recipe: Recipe,
    suite: Suite,
    *,
    runs: int,
    processes: int,
    floor_ratio: float,
    provenance: dict[str, Any],
    tick: Callable[[], None] = lambda: None,
) -> Certificate:
    """Route ``suite`` ``runs`` times in this process and once in each of ``processes`` fresh ones.

    Floors are ``floor_ratio`` of the worst margins, cut to two decimals. ``tick`` is called after each route here and
    after each fresh process.

    Raises:
        TrinityError: the router cannot be loaded, the suite does not fit it, or a fresh process died.
    """
    with recipe.load(remember=False) as router:
        evaluation = evaluate(router, suite, Gates(NO_FLOORS, determinism_runs=runs), tick, recipe.config_dir)
        identity = router.identity
    faults = [f"{result.case.id}: {reason}" for result in evaluation.failed for reason in result.reasons]
    for number in range(1, processes + 1):
        outcomes = _in_fresh_process(recipe, suite)
        faults += [f"fresh process {number}: {line}" for line in _differences(evaluation, outcomes)]
        tick()
    kernels = _compare_kernels(recipe, suite, evaluation)
    faults += [f"{case}: {kernels['name']} kernels decide otherwise" for case in kernels.get("decisions_changed", [])]
    heads = _check_heads(recipe, identity) if not faults else None
    if heads:
        faults += [f"at Qwen3's own head size, not so: {law}" for law in heads.failures]
        kernels["at_head_size_128"] = dict(heads.differences)
    if faults or evaluation.worst_agent is None or evaluation.worst_role is None:
        return Certificate(evaluation, tuple(faults), None, kernels)
    floors = LaneFloors(
        agent=margin_floor(evaluation.worst_agent.value, floor_ratio),
        role=margin_floor(evaluation.worst_role.value, floor_ratio),
    )
    environment = {
        key: evaluation.environment[key] for key in ("device", "dtype", "kernels", "quantize", "determinism")
    }
    receipt = {"receipt": identity.receipt.recorded} if identity.receipt else {}
    measured = {"runs": runs, "fresh_processes": processes, "floor_ratio": floor_ratio} | receipt
    machine = {key: dict(evaluation.environment[key]) for key in ("machine", "software")}
    about = provenance | environment | measured | machine | {"other_kernels": kernels}
    return Certificate(evaluation, (), measured_lane(evaluation, identity, floors, about), kernels)


def _in_fresh_process(recipe: Recipe, suite: Suite) -> list[Outcome]:
    """The suite routed once by a process that has never loaded anything."""
    with ProcessPoolExecutor(1, get_context("spawn"), _end_with_parent) as pool:
        try:
            return pool.submit(_load_and_route, recipe, suite).result()
        except BrokenProcessPool:
            raise EnvironmentUnavailable(
                "a fresh process was killed before it had routed the suite: free memory, or use no fresh process"
            ) from None


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for its next task for ever."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _load_and_route(recipe: Recipe, suite: Suite) -> list[Outcome]:
    with recipe.load(remember=False) as router, reproducing(router.identity, recipe.config_dir):
        return route_suite(router, suite)


def _differences(evaluation: Evaluation, outcomes: Sequence[Outcome]) -> list[str]:
    """The cases whose logits are not those of this process, bit for bit."""
    return [
        f"{result.case.id} gave other logits"
        for result, outcome in zip(evaluation.results, outcomes, strict=True)
        if result.decision and (isinstance(outcome, TrinityError) or outcome.logits != result.decision.logits)
    ]


def _compare_kernels(recipe: Recipe, suite: Suite, evaluation: Evaluation) -> dict[str, Any]:
    """The same suite on the other kernels: decisions that changed, and the distance of the logits."""
    other: Literal["fused", "composed"] = "composed" if recipe.variant.kernels == "fused" else "fused"
    try:
        with replace(recipe, variant=replace(recipe.variant, kernels=other)).load() as router:
            outcomes = route_suite(router, suite)
    except ProfileUnavailable as error:
        return {"name": other, "cannot_run": str(error)}
    pairs = [
        (result.case.id, result.decision, outcome)
        for result, outcome in zip(evaluation.results, outcomes, strict=True)
        if result.decision and isinstance(outcome, RouteDecision)
    ]
    changed = [case for case, one, another in pairs if (one.slot, one.role) != (another.slot, another.role)]
    distance = Distance.over((another.logits.row, one.logits.row) for _, one, another in pairs)
    return {
        "name": other,
        "decisions_changed": changed,
        "distance": {name: round(value, 9) for name, value in distance.to_dict().items()} if distance else {},
    }


def _check_heads(recipe: Recipe, identity: RouterIdentity) -> SelfCheck | None:
    """The laws of reading at Qwen3's own head size, whatever the artifact's is; None without kernels to compare with.

    In short on the CPU, whose kernels are tested where this package is built.
    """
    backend = load_backend(ProfileRegistry(recipe.config_dir).get(identity.profile).backend)
    longest = SHORT if identity.device == "cpu" else LENGTHS[-1]
    try:
        return check_device(backend, identity.device, identity.dtype, longest)
    except ProfileUnavailable:
        return None


def margin_floor(worst: float, ratio: float) -> float:
    """``ratio`` of ``worst``, cut to two decimals; in decimals, since 0.8 * 0.3 in binary can fall short of 0.24."""
    return math.floor(Fraction(repr(ratio)) * Fraction(repr(worst)) * 100) / 100

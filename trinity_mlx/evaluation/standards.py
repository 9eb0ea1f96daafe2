"""What a loaded router is held against: its lane, the suite that goes with it, floors and snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..contracts.errors import UsageError
from ..profiles.registry import Floors as ProfileFloors
from ..profiles.registry import Profile, ProfileRegistry
from ..routing.router import Router
from .gates import Gates
from .lane import Lane, LaneFloors, find_lane
from .results import Floors
from .snapshot import Snapshot
from .suite import Suite, builtin_suites, find_suite

DEFAULT_SUITES = {"nano": "nano-64", "sakana": "seed-12", "sakana-adapted": "seed-12"}
"""The suite of an artifact whose lane names none."""


def default_suite(artifact: str, lane: Lane | None = None) -> Suite:
    """The suite of the lane where it ships with the package, else the one that ships for the artifact.

    Raises:
        UsageError: none of these is known.
    """
    of_lane = lane.suite.name if lane and lane.suite else None
    name = of_lane if of_lane in builtin_suites() else DEFAULT_SUITES.get(artifact)
    if name is None:
        measured = f"; its lane was measured with {of_lane}" if of_lane else ""
        raise UsageError(f"no suite that ships with this package is for {artifact}: give one of your own{measured}")
    return find_suite(name)


def lane_for(router: Router, config_dir: Path | None = None) -> tuple[Lane | None, list[str]]:
    """The lane that belongs to a loaded router, and what people should know about it, a line each.

    Raises:
        LaneInvalid: its file is malformed, or is about something else.
    """
    identity = router.identity
    lane = find_lane(identity.profile, identity.artifact.name, identity.variant, config_dir)
    if lane is None:
        return None, [f"no lane is known for {identity.artifact.name} on {identity.profile}: certify measures one"]
    if not lane.describes(identity.artifact, identity.head_ref):
        return None, [f"lane {lane.name} was measured with another {identity.artifact.name}: it is not used"]
    notes = []
    if lane.status != "measured":
        notes.append(f"lane {lane.name} is {lane.status}{': ' if lane.note else ''}{lane.note}")
    if lane.variant != identity.variant.label:
        notes.append(f"{identity.variant.label} has no lane of its own: it is held against {lane.name}")
    for name, actual in (("dtype", identity.dtype), ("device", identity.device)):
        recorded = lane.provenance.get(name)
        if recorded not in (None, actual):
            notes.append(f"lane {lane.name} was measured with {name} {recorded}, and this is {actual}")
    return lane, notes


def floors_for(
    router: Router,
    lane: Lane | None,
    config_dir: Path | None = None,
    *,
    agent: float | None = None,
    role: float | None = None,
) -> Floors:
    """The floors of a router: what is given, else its lane's, else its profile's, else none."""
    profiles = ProfileRegistry(config_dir)
    profile = profiles.get(router.identity.profile) if router.identity.profile in profiles.names else None
    return choose_floors(agent, role, lane, profile, router.identity.artifact.name)


def choose_floors(
    agent: float | None, role: float | None, lane: Lane | None, profile: Profile | None, artifact: str
) -> Floors:
    """The floor of each split: the given one, else the lane's, else the profile's, else none."""
    sources: list[tuple[LaneFloors | ProfileFloors, str]] = []
    if lane and lane.floors:
        sources.append((lane.floors, f"lane {lane.name}, {lane.status}"))
    if profile and (known := profile.floors.get(artifact)):
        sources.append((known, f"profile {profile.name}, {known.source}"))
    agents = [(agent, "given"), *((floors.agent, source) for floors, source in sources), (None, "none known")]
    roles = [(role, "given"), *((floors.role, source) for floors, source in sources), (None, "none known")]
    (agent, agent_source), (role, role_source) = (_first_known(each) for each in (agents, roles))
    return Floors(agent, role, agent_source, role_source)


def _first_known(candidates: Sequence[tuple[float | None, str]]) -> tuple[float | None, str]:
    return next((candidate for candidate in candidates if candidate[0] is not None), candidates[-1])


def gates_for(
    router: Router,
    suite: Suite | None = None,
    config_dir: Path | None = None,
    *,
    snapshot: Snapshot | None = None,
    agent: float | None = None,
    role: float | None = None,
    determinism_runs: int = 1,
    asserting: bool = True,
) -> tuple[Suite, Gates]:
    """The suite to run on a router, and what its cases are held against.

    Args:
        router: the router; its lane is found by its identity.
        suite: instead of the lane's own.
        config_dir: the folder with the user's own lanes and profiles.
        snapshot: instead of the lane's own.
        agent: the floor of the agent margin, instead of the lane's.
        role: the floor of the role margin, instead of the lane's.
        determinism_runs: how often everything is routed.
        asserting: whether a failure fails.

    Raises:
        UsageError: no suite is known for the router.
        LaneInvalid: the lane's file is malformed, or is about something else.
    """
    lane, notes = lane_for(router, config_dir)
    suite = suite or default_suite(router.identity.artifact.name, lane)
    if lane and lane.suite and lane.suite.sha256 != suite.sha256:
        notes.append(f"lane {lane.name} was measured with another suite, or with {suite.name} as it was before")
    gates = Gates(
        floors=floors_for(router, lane, config_dir, agent=agent, role=role),
        snapshot=snapshot or (lane.snapshot if lane else None),
        determinism_runs=determinism_runs,
        asserting=asserting,
        notes=tuple(notes),
    )
    return suite, gates

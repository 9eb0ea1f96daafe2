"""What a renewed lane changes of the one before, and whether it may."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..contracts.errors import FloorLowered
from ..rules.distance import Distance
from .lane import Lane
from .snapshot import SnapshotCase


def check_floors(new: Lane, old: Lane | None, allow_lower: bool) -> None:
    """Refuse a lane that asks for less room than the one it replaces, unless that is allowed.

    Raises:
        FloorLowered: a floor would fall.
    """
    if allow_lower or old is None or old.floors is None or new.floors is None:
        return
    for split in ("agent", "role"):
        before, after = getattr(old.floors, split), getattr(new.floors, split)
        if after < before:
            raise FloorLowered(
                f"the {split} floor of lane {new.name} would fall from {before:g} to {after:g}: find out what made the "
                "margins smaller, or allow lower floors"
            )


def changes(new: Lane, old: Lane | None) -> list[str]:
    """What is different from the lane that is replaced, a line each, for people."""
    if old is None:
        return ["there was no lane before"]
    lines = [
        f"{name}: {before} before, {after} now"
        for (name, before), (_, after) in zip(_facts(old), _facts(new), strict=True)
        if before != after
    ]
    lines += _provenance_changes(old.provenance, new.provenance)
    lines += _case_changes(old.cases, new.cases)
    return lines or ["nothing but the date"]


def _facts(lane: Lane) -> list[tuple[str, object]]:
    """What a lane says in single values, under names for people."""
    floors, suite = lane.floors, lane.suite
    return [
        ("status", lane.status),
        ("note", lane.note or "none"),
        ("signed off by", lane.signed_off.by if lane.signed_off else "nobody"),
        ("adapter", _short(lane.artifact.adapter_ref)),
        ("base", _short(lane.artifact.base_ref)),
        ("head", _short(lane.artifact.head_ref)),
        ("suite", f"{suite.name} ({_short(suite.sha256)})" if suite else "none"),
        ("agent floor", floors.agent if floors else "none"),
        ("role floor", floors.role if floors else "none"),
    ]


def _provenance_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted((before.keys() | after.keys()) - {"date"}):
        was, now = before.get(key), after.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from _provenance_changes(was, now)
        elif isinstance(was, list) and isinstance(now, list) and was != now:
            yield f"{key.replace('_', ' ')}: {sum(one not in was for one in now)} of {len(now)} are not as before"
        elif was != now:
            yield f"{key.replace('_', ' ')}: {_or_none(was)} before, {_or_none(now)} now"


def _case_changes(was: Sequence[SnapshotCase], now: Sequence[SnapshotCase]) -> list[str]:
    before, after = ({case.id: case for case in cases} for cases in (was, now))
    shared = [(before[each], after[each]) for each in after if each in before]
    lines = [f"case {each} is new" for each in after if each not in before]
    lines += [f"case {each} is gone" for each in before if each not in after]
    lines += [f"case {one.id}: {line}" for one, other in shared for line in _changes_of_case(one, other)]
    moved = [
        Distance.between(other.logits, one.logits).largest
        for one, other in shared
        if len(other.logits) == len(one.logits)
    ]
    if any(moved):
        lines.append(f"logits moved in {sum(map(bool, moved))} of {len(moved)} cases, by up to {max(moved):.6f}")
    return lines


def _changes_of_case(was: SnapshotCase, now: SnapshotCase) -> list[str]:
    fields = (
        ("slot", was.agent_id, now.agent_id),
        ("role", was.role_id, now.role_id),
        ("tokens", was.token_count, now.token_count),
        ("slots", len(was.agent_logits_rounded), len(now.agent_logits_rounded)),
        ("transcript", _short(was.transcript_hash), _short(now.transcript_hash)),
    )
    return [f"{name} {before} before, {after} now" for name, before, after in fields if before != after]


def _short(ref: str | None) -> str:
    return ref[:12] if ref else "unknown"


def _or_none(value: object) -> object:
    """A value in few words: what holds others is told by how many."""
    if isinstance(value, dict | list):
        return f"{len(value)} entries"
    return "none" if value is None else value

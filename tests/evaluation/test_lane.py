"""Lanes: the shipped ones hold, a user's own go first, and nothing else is taken for one."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.backend import Variant
from trinity_mlx.contracts.errors import InputFileError, LaneInvalid, TrinityError
from trinity_mlx.contracts.routing import ArtifactIdentity
from trinity_mlx.evaluation.gates import Gates, evaluate
from trinity_mlx.evaluation.lane import (
    find_lane,
    lane_file,
    lane_names,
    read_lane,
    shipped_lanes,
    user_lanes,
    write_lane,
)
from trinity_mlx.evaluation.standards import choose_floors, lane_for
from trinity_mlx.evaluation.suite import builtin_suites, find_suite
from trinity_mlx.profiles.registry import Floors as ProfileFloors
from trinity_mlx.profiles.registry import Profile, ProfileRegistry
from trinity_mlx.routing.loading import load_router

from ..evaluation_cases import (
    LONG,
    attempt,
    faulty_json,
    is_one_line,
    lane_document,
    lane_of,
    nano_source,
    reasons,
    write_json,
)

SHIPPED = sorted(shipped_lanes().glob("*/*.json"))
PUBLISHED_FLOORS = {"cuda": (0.24, 1.06), "mlx": (0.33, 0.82)}


def test_lanes_are_shipped() -> None:
    assert SHIPPED
    assert {"cpu/nano", "mlx/nano", "cuda/sakana", "mlx/sakana"} <= set(lane_names())
    assert {"cpu/nano+int8", "mlx/nano+int8"} <= set(lane_names())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_shipped_lane_is_about_its_place_and_its_suite(path: Path) -> None:
    lane = read_lane(path)
    assert lane.name == f"{path.parent.name}/{path.stem}"
    assert lane.profile in ProfileRegistry().names
    if lane.suite:
        assert lane.suite.name in builtin_suites()
        suite = find_suite(lane.suite.name)
        assert lane.suite.sha256 == suite.sha256
        assert [case.id for case in lane.cases] in ([], [case.id for case in suite.cases])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_figures_of_a_shipped_lane_follow_from_one_another(path: Path) -> None:
    lane = read_lane(path)
    for case in lane.cases:
        for split in ("agent", "role"):
            logits = getattr(case, f"{split}_logits_rounded")
            chosen, margin = getattr(case, f"{split}_id"), getattr(case, f"{split}_margin")
            second, first = sorted(logits)[-2:]
            assert logits[chosen] == first
            assert margin == pytest.approx(first - second, abs=2e-6)
    if lane.cases:
        assert lane.status == "measured"
        assert {"date", "command", "machine", "software", "floor_ratio"} <= set(lane.provenance)
        for split in ("agent", "role"):
            worst = min(lane.cases, key=lambda case: getattr(case, f"{split}_margin"))
            held = getattr(lane.worst, split)
            assert (held.case, held.value) == (worst.id, getattr(worst, f"{split}_margin"))
            share = Fraction(str(held.value)) * Fraction(str(lane.provenance["floor_ratio"]))
            assert getattr(lane.floors, split) == math.floor(share * 100) / 100


@pytest.mark.parametrize("profile", PUBLISHED_FLOORS)
def test_published_floors_are_those_that_were_published(profile: str) -> None:
    lane = find_lane(profile, "sakana", Variant())
    assert lane is not None
    assert lane.floors is not None
    assert (lane.status, lane.cases, lane.snapshot) == ("published", [], None)
    assert (lane.floors.agent, lane.floors.role) == PUBLISHED_FLOORS[profile]


@pytest.mark.parametrize("profile", ["cpu", "mlx"])
@pytest.mark.parametrize("long", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_lane_of_nano_is_green(profile: str, long: bool) -> None:
    """Decisions, floors, snapshot, and three runs alike bit for bit."""
    lane = find_lane(profile, "nano", Variant())
    assert lane is not None
    with nano_source(profile).load() as router:
        suite = find_suite("nano-64")
        suite = suite if long else suite.only(tuple(case.id for case in suite.cases if case.id not in LONG))
        assert lane.describes(router.identity.artifact, router.identity.head_ref)
        floors = choose_floors(None, None, lane, ProfileRegistry().get(profile), "nano")
        evaluation = evaluate(router, suite, Gates(floors, lane.snapshot, determinism_runs=3))
    assert reasons(evaluation) == {}
    assert evaluation.notes == ()
    assert evaluation.distance is not None
    assert evaluation.distance.relative_l2 < 0.05
    assert (floors.agent or 0) > 0
    assert (floors.role or 0) > 0


def test_a_lane_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = lane_file(tmp_path, "mlx", "nano", Variant())
    write_lane(path, lane_of())
    assert json.loads(path.read_text(encoding="utf-8")) == lane_document()
    assert read_lane(path) == lane_of().model_copy(update={"origin": path})


def test_a_lane_is_a_snapshot_of_its_own(tmp_path: Path) -> None:
    from trinity_mlx.evaluation.snapshot import read_snapshot

    lane = read_lane(write_json(tmp_path / "nano.json", lane_document()))
    assert lane.snapshot is not None
    assert lane.snapshot.own_hashes
    assert lane.snapshot.cases == read_snapshot(tmp_path / "nano.json").cases
    assert lane_of(cases=[]).snapshot is None


def test_a_users_own_lane_goes_first_and_a_variants_before_the_usual(tmp_path: Path) -> None:
    own = user_lanes(tmp_path)
    quantized = Variant(quantize=8)

    def found(variant: Variant) -> str | None:
        lane = find_lane("mlx", "mine", variant, tmp_path)
        return lane.note if lane else None

    def add(variant: Variant, note: str) -> None:
        document = lane_document(artifact={"name": "mine"}, variant=variant.label, note=note)
        write_json(lane_file(own, "mlx", "mine", variant), document)

    assert found(quantized) is None
    add(Variant(), "usual")
    assert (found(quantized), found(Variant())) == ("usual", "usual")
    add(quantized, "int8")
    assert (found(quantized), found(Variant()), found(Variant("composed"))) == ("int8", "usual", "usual")
    assert {"mlx/mine", "mlx/mine+int8"} <= set(lane_names(tmp_path))
    shipped = next(path for path in SHIPPED if not read_lane(path).variant)
    place = Path(shipped.parent.name) / shipped.name
    write_json(own / place, json.loads(shipped.read_text(encoding="utf-8")) | {"note": "my own"})
    lane = find_lane(shipped.parent.name, read_lane(shipped).artifact.name, Variant(), tmp_path)
    assert lane is not None
    assert lane.note == "my own"


@pytest.mark.parametrize(
    "changes", [{"profile": "cpu"}, {"artifact": {"name": "sakana"}}, {"variant": "int8"}], ids="-".join
)
def test_a_lane_that_lies_in_another_ones_place_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_json(lane_file(user_lanes(tmp_path), "mlx", "nano", Variant()), lane_document(**changes))
    with pytest.raises(LaneInvalid, match=r"is about .*, and lies where mlx/nano belongs"):
        find_lane("mlx", "nano", Variant(), tmp_path)


@pytest.mark.parametrize("name", ["../../up", "/etc/x", "a/b", "..", "nano+int8", "é", "x" * 300, "a\0b"])
def test_an_artifacts_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    path = lane_file(tmp_path, "mlx", name, Variant())
    assert path.parent == tmp_path / "mlx"
    assert path.resolve().parent == (tmp_path / "mlx").resolve() if "\0" not in name else True
    assert path != lane_file(tmp_path, "mlx", "nano", Variant(quantize=8))
    assert find_lane("mlx", name, Variant(), tmp_path) is None


def test_a_lane_describes_the_artifact_that_it_was_measured_with() -> None:
    same, head = ArtifactIdentity("nano", "a" * 64, "b" * 64), "c" * 64
    assert lane_of().describes(same, head)
    assert not lane_of().describes(ArtifactIdentity("nano", "0" * 64, "b" * 64), head)
    assert not lane_of().describes(ArtifactIdentity("nano", "a" * 64, "0" * 64), head)
    assert not lane_of().describes(same, "0" * 64)
    assert lane_of(artifact={"name": "nano"}).describes(same, head)


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"status": "guessed"}, "status"),
        ({"floors": {"agent": -0.1, "role": 1.0}}, "floors.agent"),
        ({"floors": {"agent": float("nan"), "role": 1.0}}, "floors.agent"),
        ({"floors": {"agent": float("inf"), "role": 1.0}}, "floors.agent"),
        ({"floors": {"agent": 0.1}}, "floors.role"),
        ({"artifact": {}}, "artifact.name"),
        ({"hashes": "other"}, "hashes"),
        ({"surprise": 1}, "surprise"),
        ({"cases": [lane_document()["cases"][0]] * 2}, "case 'one' stands there twice"),
    ],
)
def test_what_is_no_lane_is_refused(tmp_path: Path, changes: dict[str, Any], fragment: str) -> None:
    with pytest.raises(LaneInvalid, match=r"lane\.json: ") as caught:
        read_lane(write_json(tmp_path / "lane.json", lane_document(**changes)))
    assert fragment in str(caught.value)


def test_a_lane_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="cannot read"):
        read_lane(tmp_path / "missing.json")


@given(data=st.data())
def test_a_faulty_file_is_refused_in_one_line_or_written_back(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "faulty-lane.json"
    path.write_bytes(data.draw(faulty_json(lane_document())))
    found = attempt(lambda: read_lane(path))
    if isinstance(found, TrinityError):
        assert isinstance(found, LaneInvalid)
        assert is_one_line(str(found))
    else:
        assert found.snapshot is None or len(found.snapshot.cases) == len(found.cases)


FLOOR = st.none() | st.floats(0, 9)
HELD = st.none() | st.tuples(st.floats(0, 9), st.floats(0, 9))


@given(agent=FLOOR, role=FLOOR, held=HELD, known=HELD)
def test_a_floor_is_the_flags_else_the_lanes_else_the_profiles(
    agent: float | None, role: float | None, held: Any, known: Any
) -> None:
    lane = lane_of(floors={"agent": held[0], "role": held[1]} if held else None)
    floors = choose_floors(agent, role, lane, profile_with(known), "nano")
    for given_, split, index in ((agent, "agent", 0), (role, "role", 1)):
        value, source = getattr(floors, split), getattr(floors, f"{split}_source")
        if given_ is not None:
            assert (value, source) == (given_, "given")
        elif held:
            assert (value, source) == (held[index], "lane mlx/nano, measured")
        elif known:
            assert (value, source) == (known[index], "profile mlx, published")
        else:
            assert (value, source) == (None, "none known")
    assert choose_floors(None, None, None, profile_with((1.0, 2.0)), "other").agent is None


def profile_with(known: tuple[float, float] | None) -> Profile:
    """The profile ``mlx`` with floors of its own for nano, or with none."""
    floors = {"nano": ProfileFloors(agent=known[0], role=known[1], source="published")} if known else {}
    return ProfileRegistry().get("mlx").model_copy(update={"floors": floors})


@pytest.mark.parametrize("profile", ["cpu", "mlx"])
def test_int8_is_held_against_a_lane_of_its_own(profile: str) -> None:
    with load_router("nano", profile=profile, quantize=8) as router:
        lane, notes = lane_for(router)
    assert lane is not None
    assert (lane.name, lane.status) == (f"{profile}/nano+int8", "measured")
    assert not [note for note in notes if "no lane of its own" in note]

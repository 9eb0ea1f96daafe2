"""Certification: what establishes a lane, what forbids one, and what is said about the lane before."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx import Role
from trinity_mlx.contracts.errors import EnvironmentUnavailable, FloorLowered, SuiteInvalid
from trinity_mlx.evaluation.certify import Certificate, certify, margin_floor
from trinity_mlx.evaluation.lane import Lane
from trinity_mlx.evaluation.lane_changes import changes, check_floors
from trinity_mlx.evaluation.suite import Route, Suite
from trinity_mlx.routing.recipe import Recipe

from ..evaluation_cases import few, install_odd_backends, lane_document, lane_of, nano_source, snapshot_of

PROVENANCE = {"date": "2026-01-02", "command": "trinity-mlx certify"}


def run(source: Recipe, suite: Suite, *, processes: int = 0, ratio: float = 0.8) -> Certificate:
    """Two runs here, and no fresh process unless there should be some."""
    return certify(source, suite, runs=2, processes=processes, floor_ratio=ratio, provenance=PROVENANCE)


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of settings with a profile for each odd backend."""
    install_odd_backends(tmp_path, tmp_path / "config", monkeypatch)
    return tmp_path / "config"


def test_a_lane_holds_what_was_seen() -> None:
    ticks: list[None] = []
    suite, source = few(), nano_source()
    certificate = certify(
        source,
        suite,
        runs=3,
        processes=1,
        floor_ratio=0.5,
        provenance=PROVENANCE,
        tick=lambda: ticks.append(None),
    )
    lane = certificate.lane
    assert lane is not None
    with source.load() as router:
        assert {case.id: case for case in lane.cases} == snapshot_of(router, suite).cases
        assert lane.describes(router.identity.artifact, router.identity.head_ref)
    assert (lane.name, lane.status, lane.variant) == ("mlx/nano", "measured", "")
    assert lane.suite is not None
    assert (lane.suite.name, lane.suite.sha256) == (suite.name, suite.sha256)
    assert len(ticks) == 3 * 3 + 1
    assert lane.provenance.items() >= (PROVENANCE | {"runs": 3, "fresh_processes": 1, "floor_ratio": 0.5}).items()
    assert {"machine", "software", "device", "dtype", "kernels", "quantize"} <= set(lane.provenance)
    assert lane.floors is not None
    assert lane.worst is not None
    for split in ("agent", "role"):
        worst = min(getattr(case, f"{split}_margin") for case in lane.cases)
        assert getattr(lane.worst, split).value == worst
        assert 0 <= worst / 2 - getattr(lane.floors, split) < 0.01


def test_the_other_kernels_are_compared() -> None:
    certificate = run(nano_source(), few())
    assert certificate.kernels["name"] == "composed"
    assert certificate.kernels["decisions_changed"] == []
    assert 0 < certificate.kernels["distance"]["largest"] < 0.1
    assert certificate.lane is not None
    assert certificate.lane.provenance["other_kernels"] == certificate.kernels


def test_a_backend_without_other_kernels_can_be_certified(odd: Path) -> None:
    certificate = run(nano_source("plain", odd), few(1))
    assert certificate.lane is not None
    assert certificate.lane.name == "plain/nano"
    assert certificate.kernels == {"name": "composed", "cannot_run": "this backend has no composed kernels"}


def test_a_wrong_decision_forbids_a_lane() -> None:
    suite = few()
    wrong = replace(suite.cases[1], expected=Route(6, Role.WORKER))
    certificate = run(nano_source(), replace(suite, cases=(suite.cases[0], wrong)))
    assert certificate.lane is None
    assert certificate.faults == ("math_think_counting: decision: expected slot 6 as Worker, got slot 0 as Thinker",)


def test_runs_that_differ_forbid_a_lane(odd: Path) -> None:
    certificate = run(nano_source("wavering", odd), few(1))
    assert certificate.lane is None
    assert certificate.faults == (
        "math_open_fraction: determinism: run 2 gave other logits than run 1, by up to 0.001",
    )


def test_a_fresh_process_that_differs_forbids_a_lane(odd: Path) -> None:
    assert run(nano_source("estranged", odd), few(1)).lane is not None
    certificate = run(nano_source("estranged", odd), few(1), processes=2)
    assert certificate.lane is None
    assert certificate.faults == tuple(
        f"fresh process {number}: math_open_fraction gave other logits" for number in (1, 2)
    )


def test_a_fresh_process_that_dies_is_one_error(odd: Path) -> None:
    with pytest.raises(EnvironmentUnavailable, match="a fresh process was killed"):
        run(nano_source("mortal", odd), few(1), processes=1)


def test_a_suite_for_a_larger_head_is_refused() -> None:
    suite = few(1)
    larger = replace(suite, cases=(replace(suite.cases[0], expected=Route(7, Role.WORKER)),))
    with pytest.raises(SuiteInvalid, match="slots 0 to 6"):
        run(nano_source(), larger)


@given(worst=st.floats(0, 1e6), ratio=st.floats(0.01, 1))
def test_a_floor_is_at_most_its_share_and_less_than_a_hundredth_below(worst: float, ratio: float) -> None:
    share = Fraction(str(worst)) * Fraction(str(ratio))
    floor = margin_floor(worst, ratio)
    assert 0 <= share - Fraction(str(floor)) < Fraction(1, 100)


@given(worst=st.floats(0, 1e6))
def test_the_worst_case_is_never_under_a_floor_made_from_it(worst: float) -> None:
    assert margin_floor(worst, 1.0) <= worst


@pytest.mark.parametrize(
    ("worst", "ratio", "floor"),
    [
        (0.3, 0.8, 0.24),
        (1.335, 0.8, 1.06),
        (0.301, 0.8, 0.24),
        (0.417, 0.8, 0.33),
        (1.029, 0.8, 0.82),
        (0.29, 1.0, 0.29),
    ],
)
def test_floors_of_known_margins(worst: float, ratio: float, floor: float) -> None:
    assert margin_floor(worst, ratio) == floor


@pytest.mark.parametrize("split", ["agent", "role"])
def test_a_floor_falls_only_where_that_is_allowed(split: str) -> None:
    old = lane_of(floors={"agent": 1.0, "role": 1.6})
    lower = lane_of(floors={"agent": 1.0, "role": 1.6} | {split: 0.5})
    with pytest.raises(FloorLowered, match=rf"the {split} floor of lane mlx/nano would fall from .* to 0\.5"):
        check_floors(lower, old, allow_lower=False)
    check_floors(lower, old, allow_lower=True)
    check_floors(old, lower, allow_lower=False)
    check_floors(old, old, allow_lower=False)
    check_floors(lower, None, allow_lower=False)
    check_floors(lower, lane_of(floors=None), allow_lower=False)


def with_case(index: int, **fields: Any) -> Lane:
    """The lane with fields of one case replaced."""
    cases = lane_document()["cases"]
    cases[index] |= fields
    return lane_of(cases=cases)


@pytest.mark.parametrize(
    ("new", "lines"),
    [
        (lane_of(), ["nothing but the date"]),
        (lane_of(provenance=lane_document()["provenance"] | {"date": "2027-01-01"}), ["nothing but the date"]),
        (lane_of(status="published"), ["status: measured before, published now"]),
        (lane_of(note="older"), ["note: none before, older now"]),
        (
            lane_of(artifact={"name": "nano", "adapter_ref": "9" * 64, "base_ref": "8" * 64, "head_ref": "7" * 64}),
            [
                "adapter: aaaaaaaaaaaa before, 999999999999 now",
                "base: bbbbbbbbbbbb before, 888888888888 now",
                "head: cccccccccccc before, 777777777777 now",
            ],
        ),
        (
            lane_of(suite={"name": "pair", "sha256": "d" * 64}),
            ["suite: pair (cccccccccccc) before, pair (dddddddddddd) now"],
        ),
        (
            lane_of(floors={"agent": 0.5, "role": 2.0}),
            ["agent floor: 1.0 before, 0.5 now", "role floor: 1.6 before, 2.0 now"],
        ),
        (
            lane_of(provenance={"date": "x", "runs": 4, "machine": {"cores": "8"}, "dtype": "float32"}),
            ["dtype: none before, float32 now", "cores: 2 before, 8 now", "runs: 3 before, 4 now"],
        ),
        (with_case(0, agent_id=1), ["case one: slot 0 before, 1 now"]),
        (with_case(1, role_id=2), ["case two: role 0 before, 2 now"]),
        (with_case(0, token_count=10), ["case one: tokens 9 before, 10 now"]),
        (with_case(0, transcript_hash="e" * 64), ["case one: transcript abababababab before, eeeeeeeeeeee now"]),
        (with_case(0, agent_logits_rounded=[1.0, 2.0, 3.0]), ["case one: slots 2 before, 3 now"]),
        (
            with_case(1, role_logits_rounded=[4.5, 2.75, -1.0]),
            ["logits moved in 1 of 2 cases, by up to 0.250000"],
        ),
        (with_case(1, id="three"), ["case three is new", "case two is gone"]),
    ],
)
def test_what_changed_is_said(new: Lane, lines: list[str]) -> None:
    assert changes(new, lane_of()) == lines


def test_the_first_lane_has_nothing_before_it() -> None:
    assert changes(lane_of(), None) == ["there was no lane before"]

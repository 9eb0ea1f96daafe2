"""The gates: each of them passed, and each of them failed for its own reason."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx import Role, Router, Transcript, load_router
from trinity_mlx.contracts.errors import NonFiniteLogits, SuiteInvalid
from trinity_mlx.contracts.routing import RouteDecision
from trinity_mlx.evaluation.gates import Gates, evaluate
from trinity_mlx.evaluation.results import CaseResult, Evaluation, Floors, Status
from trinity_mlx.evaluation.snapshot import Snapshot, make_snapshot
from trinity_mlx.evaluation.suite import Case, Route, Suite
from trinity_mlx.rules.distance import Distance

from ..evaluation_cases import (
    AGENT_LOGITS,
    NO_FLOORS,
    ROLE_LOGITS,
    decision_of,
    few,
    install_odd_backends,
    reasons,
    snapshot_of,
)

FIRST = few().cases[0]
TOO_LONG = Case("too_long", Transcript.of("once more " * 3000), Route(0, Role.WORKER))


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    with load_router("nano", profile="mlx") as router:
        yield router


@pytest.fixture(scope="module")
def snapshot(router: Router) -> Snapshot:
    return snapshot_of(router, few())


def changed(snapshot: Snapshot, **changes: Any) -> Snapshot:
    """``snapshot`` with the first case's fields replaced."""
    cases = dict(snapshot.cases)
    cases[FIRST.id] = cases[FIRST.id].model_copy(update=changes)
    return replace(snapshot, cases=cases)


def suite_of(*cases: Case) -> Suite:
    return Suite("mine", "0" * 64, cases)


def test_a_suite_that_holds_passes_every_gate(router: Router, snapshot: Snapshot) -> None:
    ticks: list[None] = []
    gates = Gates(Floors(0.5, 0.5, "given", "given"), snapshot, determinism_runs=3)
    evaluation = evaluate(router, few(), gates, lambda: ticks.append(None))
    assert [result.status for result in evaluation.results] == [Status.PASS] * 3
    assert (evaluation.failed, evaluation.gate_failed, evaluation.notes) == ([], False, ())
    assert len(ticks) == 9
    assert evaluation.distance == Distance(pytest.approx(1.0), pytest.approx(0.0, abs=1e-6), pytest.approx(0, abs=1e-6))
    assert all(result.route_hash_drifted is False for result in evaluation.results)


def test_every_run_computes_from_nothing(router: Router) -> None:
    router.route(FIRST.transcript)
    evaluation = evaluate(router, suite_of(FIRST, replace(FIRST, id="again")), Gates(NO_FLOORS))
    assert [result.decision.reused_tokens for result in evaluation.results if result.decision] == [0, 0]


@pytest.mark.parametrize("expected", [Route(5, FIRST.expected.role), Route(FIRST.expected.slot, Role.VERIFIER)])
def test_another_decision_than_expected_fails(router: Router, expected: Route) -> None:
    evaluation = evaluate(router, suite_of(replace(FIRST, expected=expected)), Gates(NO_FLOORS))
    assert evaluation.gate_failed
    assert reasons(evaluation) == {
        FIRST.id: [f"decision: expected slot {expected.slot} as {expected.role.label}, got slot 0 as Worker"]
    }


def test_another_token_count_than_the_suite_states_fails(router: Router) -> None:
    evaluation = evaluate(router, suite_of(replace(FIRST, token_count=99)), Gates(NO_FLOORS))
    assert evaluation.gate_failed
    assert reasons(evaluation) == {FIRST.id: ["token count: the suite states 99, got 15"]}


@pytest.mark.parametrize("split", ["agent", "role"])
def test_a_margin_under_the_floor_fails_and_one_on_it_passes(router: Router, split: str) -> None:
    margin = getattr(router.route(FIRST.transcript).margins, split)
    for floor, fails in ((margin, False), (margin + 1e-6, True)):
        floors = replace(NO_FLOORS, **{split: floor, f"{split}_source": "lane mlx/nano, measured"})
        evaluation = evaluate(router, suite_of(FIRST), Gates(floors))
        assert evaluation.gate_failed == fails
    (reason,) = reasons(evaluation)[FIRST.id]
    assert reason.startswith(f"{split} margin: {margin:.6f} is under the floor {floor:g}")
    assert reason.endswith("(lane mlx/nano, measured)")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("agent_id", 3, "drift: slot was 3 in the snapshot, and is 0"),
        ("role_id", 2, "drift: role was 2 in the snapshot, and is 0"),
        ("token_count", 14, "drift: token count was 14 in the snapshot, and is 15"),
        (
            "transcript_hash",
            "f" * 64,
            f"drift: transcript hash was {'f' * 64} in the snapshot, and is {FIRST.transcript.sha256}",
        ),
    ],
)
def test_drift_in_a_decision_stable_field_fails(
    router: Router, snapshot: Snapshot, field: str, value: Any, reason: str
) -> None:
    evaluation = evaluate(router, few(), Gates(NO_FLOORS, changed(snapshot, **{field: value})))
    assert evaluation.gate_failed
    assert reasons(evaluation) == {FIRST.id: [reason]}


def test_drift_of_logits_and_route_hash_is_reported_and_fails_nothing(router: Router, snapshot: Snapshot) -> None:
    logits = snapshot.cases[FIRST.id].agent_logits_rounded
    other = changed(snapshot, route_hash="e" * 64, agent_logits_rounded=[logits[0] + 0.5, *logits[1:]])
    evaluation = evaluate(router, few(), Gates(NO_FLOORS, other))
    assert not evaluation.failed
    assert [result.route_hash_drifted for result in evaluation.results] == [True, False, False]
    moved = [result.distance.largest for result in evaluation.results if result.distance]
    assert moved == pytest.approx([0.5, 0.0, 0.0], abs=1e-6)
    assert evaluation.distance is not None
    assert evaluation.distance.largest == max(moved)


def test_the_distance_of_all_cases_is_that_of_one_long_row(router: Router, snapshot: Snapshot) -> None:
    noisy = [
        case.model_copy(update={"agent_logits_rounded": [value + index for value in case.agent_logits_rounded]})
        for index, case in enumerate(snapshot.cases.values())
    ]
    evaluation = evaluate(router, few(), Gates(NO_FLOORS, make_snapshot("noisy", True, noisy)))
    ours = [value for result in evaluation.results if result.decision for value in flat(result.decision)]
    theirs = [value for case in noisy for value in case.logits]
    assert evaluation.distance == Distance.between(ours, theirs)


def flat(decision: RouteDecision) -> list[float]:
    return [*decision.logits.agent, *decision.logits.role]


def test_hashes_of_another_system_are_shown_and_not_compared(router: Router, snapshot: Snapshot) -> None:
    foreign = replace(changed(snapshot, transcript_hash="term", route_hash="term"), own_hashes=False)
    evaluation = evaluate(router, few(), Gates(NO_FLOORS, foreign))
    assert not evaluation.failed
    assert {result.route_hash_drifted for result in evaluation.results} == {None}
    assert any("another system" in line for line in evaluation.notes)
    recorded = evaluation.to_dict()["cases"][0]["recorded"]
    assert (recorded["transcript_hash"], recorded["route_hash"]) == ("term", "term")
    assert evaluate(router, few(), Gates(NO_FLOORS, changed(foreign, token_count=2))).gate_failed


def test_a_case_that_the_snapshot_lacks_passes_and_is_counted(router: Router, snapshot: Snapshot) -> None:
    one = replace(snapshot, cases={FIRST.id: snapshot.cases[FIRST.id]})
    evaluation = evaluate(router, few(), Gates(NO_FLOORS, one))
    assert not evaluation.failed
    assert evaluation.notes == ("2 of 3 cases are not in the snapshot, math_think_counting among them",)
    assert evaluate(router, few(), Gates(NO_FLOORS)).notes == ("there is no snapshot to compare with",)


def test_logits_of_another_head_are_not_compared_and_that_is_said(router: Router, snapshot: Snapshot) -> None:
    five = changed(snapshot, agent_logits_rounded=[1.0] * 5)
    evaluation = evaluate(router, few(), Gates(NO_FLOORS, five))
    assert evaluation.results[0].distance is None
    assert evaluation.notes == (
        "the snapshot was made with another number of slots: logits are not compared in 1 of 3 cases",
    )


def test_a_transcript_that_cannot_be_routed_fails_alone(router: Router, snapshot: Snapshot) -> None:
    evaluation = evaluate(router, suite_of(FIRST, TOO_LONG), Gates(NO_FLOORS, snapshot, determinism_runs=2))
    assert [result.status for result in evaluation.results] == [Status.PASS, Status.FAIL]
    (reason,) = reasons(evaluation)["too_long"]
    assert reason.startswith("cannot be routed: the transcript has 6")
    assert evaluation.to_dict()["cases"][1]["returned"] is None
    assert evaluation.to_dict(with_logits=True)["cases"][1]["logits"] is None


def test_with_nothing_asserted_failures_are_reported(router: Router) -> None:
    wrong = replace(FIRST, expected=Route(6, Role.VERIFIER))
    evaluation = evaluate(router, suite_of(wrong, TOO_LONG, FIRST), Gates(NO_FLOORS, asserting=False))
    assert [result.status for result in evaluation.results] == [Status.REPORT, Status.REPORT, Status.PASS]
    assert len(evaluation.failed) == 2
    assert not evaluation.gate_failed


def test_a_suite_for_a_larger_head_is_refused(router: Router) -> None:
    larger = suite_of(FIRST, replace(FIRST, id="eighth", expected=Route(7, Role.WORKER)))
    with pytest.raises(SuiteInvalid, match="case 'eighth' expects slot 7, and nano has slots 0 to 6"):
        evaluate(router, larger, Gates(NO_FLOORS))


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of settings with a profile for each odd backend."""
    install_odd_backends(tmp_path, tmp_path / "config", monkeypatch)
    return tmp_path / "config"


def test_logits_that_differ_between_runs_fail(odd: Path) -> None:
    with load_router("nano", profile="wavering", config_dir=odd) as router:
        evaluation = evaluate(router, suite_of(FIRST), Gates(NO_FLOORS, determinism_runs=3))
        assert not evaluate(router, suite_of(FIRST), Gates(NO_FLOORS, determinism_runs=1)).gate_failed
    assert evaluation.gate_failed
    assert reasons(evaluation) == {
        FIRST.id: [f"determinism: run {run} gave other logits than run 1, by up to 0.00{run - 1}" for run in (2, 3)]
    }


def test_a_case_that_routes_only_once_fails(odd: Path) -> None:
    with load_router("nano", profile="tiring", config_dir=odd) as router:
        evaluation = evaluate(router, suite_of(FIRST), Gates(NO_FLOORS, determinism_runs=2))
    assert reasons(evaluation) == {
        FIRST.id: ["determinism: run 2 could not be routed: the device is gone: plug it in again"]
    }


def test_a_model_that_gives_no_numbers_ends_the_evaluation(odd: Path) -> None:
    with (
        load_router("nano", profile="overflowing", config_dir=odd) as router,
        pytest.raises(NonFiniteLogits, match="not finite"),
    ):
        evaluate(router, suite_of(FIRST), Gates(NO_FLOORS))


def judged(rows: list[tuple[tuple[float, ...], tuple[float, ...]] | None]) -> Evaluation:
    """An evaluation of made-up logits; None stands for a case that could not be routed."""
    results = [
        CaseResult(replace(FIRST, id=f"case {index}"), Status.PASS, (), decision_of(*row) if row else None)
        for index, row in enumerate(rows)
    ]
    labels = tuple(map(str, range(7)))
    return Evaluation(suite_of(*(each.case for each in results)), tuple(results), NO_FLOORS, None, labels, 1, 0.5, {})


@given(st.lists(st.none() | st.tuples(AGENT_LOGITS, ROLE_LOGITS), min_size=1, max_size=6))
def test_worst_margins_and_counts_are_those_of_a_plain_search(rows: list[Any]) -> None:
    evaluation = judged(rows)
    for split, worst in ((0, evaluation.worst_agent), (1, evaluation.worst_role)):
        found: Mapping[str, float] = {
            f"case {index}": sorted(row[split])[-1] - sorted(row[split])[-2]
            for index, row in enumerate(rows)
            if row and len(row[split]) > 1
        }
        if worst is None:
            assert not found
        else:
            assert (worst.value, found[worst.case]) == (min(found.values()), min(found.values()))
    routed = [row for row in rows if row]
    assert evaluation.slots == {slot: sum(row[0].index(max(row[0])) == slot for row in routed) for slot in range(7)}
    assert evaluation.roles == {role: sum(row[1].index(max(row[1])) == role for row in routed) for role in Role}
    assert evaluation.distance is None


def test_the_environment_names_versions_and_the_machine_and_nobody(router: Router) -> None:
    environment = evaluate(router, suite_of(FIRST), Gates(NO_FLOORS)).environment
    assert environment.items() >= {"artifact": "nano", "profile": "mlx", "kernels": "fused", "quantize": None}.items()
    assert environment["software"]["mlx"] == version("mlx")
    assert environment["software"]["python"] == platform.python_version()
    assert environment["machine"]["cores"] == str(os.cpu_count())
    assert all(environment["machine"].values())
    assert platform.node() not in json.dumps(dict(environment))
    assert str(Path.home()) not in json.dumps(dict(environment))


def test_the_json_has_every_documented_field(router: Router, snapshot: Snapshot) -> None:
    document = evaluate(router, few(), Gates(NO_FLOORS, snapshot)).to_dict()
    assert set(document) >= {"summary", "floors", "snapshot", "cases"}
    assert set(document["summary"]) >= {
        "passed",
        "failed",
        "worst_agent_margin",
        "worst_role_margin",
        "roles",
        "slots",
        "elapsed_s",
    }
    assert set(document["summary"]["worst_agent_margin"]) == {"value", "case"}
    assert set(document["cases"][0]) == {
        "id",
        "status",
        "reasons",
        "expected",
        "returned",
        "token_count",
        "margins",
        "transcript_hash",
        "route_hash",
        "route_hash_drifted",
        "recorded",
        "snapshot_distance",
    }
    assert document["cases"][0]["returned"] == {"slot": 0, "role": 0}
    assert set(document["cases"][0]["snapshot_distance"]) == {"cosine", "relative_l2", "largest"}

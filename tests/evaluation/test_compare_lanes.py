"""Two lanes side by side, as values and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.evaluation.compare import LaneComparison, compare_lanes
from trinity_mlx.evaluation.lane import Lane
from trinity_mlx.rules.distance import Distance

from ..evaluation_cases import FLOAT32, assert_fails, invoke, lane_document, lane_of, write_json

ROW = st.lists(FLOAT32, min_size=2, max_size=2)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRINITY_MLX_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("TRINITY_MLX_CACHE", str(tmp_path / "cache"))


def changed(index: int = 1, **fields: Any) -> dict[str, Any]:
    """The lane's document, of profile cpu, with fields of one case replaced."""
    document = lane_document(profile="cpu")
    document["cases"][index] |= fields
    return document


def compared(index: int = 1, **fields: Any) -> LaneComparison:
    return compare_lanes(lane_of(), Lane.model_validate(changed(index, **fields)))


def test_a_lane_agrees_with_itself() -> None:
    comparison = compare_lanes(lane_of(), lane_of())
    assert comparison.agree
    assert [case.id for case in comparison.cases] == ["one", "two"]
    assert comparison.distance == Distance(pytest.approx(1.0), 0.0, 0.0)
    assert (comparison.only_first, comparison.only_second) == ((), ())


@pytest.mark.parametrize(
    ("fields", "same_decision", "same_input"),
    [
        ({"agent_id": 0}, False, True),
        ({"role_id": 2}, False, True),
        ({"token_count": 10}, True, False),
        ({"transcript_hash": "e" * 64}, True, False),
        ({"route_hash": "e" * 64}, True, True),
        ({"agent_margin": None}, True, True),
    ],
)
def test_lanes_part_by_decision_or_by_input(fields: dict[str, Any], same_decision: bool, same_input: bool) -> None:
    comparison = compared(**fields)
    case = comparison.cases[1]
    assert (case.same_decision, case.same_input) == (same_decision, same_input)
    assert comparison.agree == (same_decision and same_input)
    assert comparison.cases[0].same_decision


@given(rows=st.tuples(ROW, ROW))
def test_distances_are_those_of_each_case_and_of_one_long_row(rows: tuple[list[float], list[float]]) -> None:
    document = changed()
    for case, row in zip(document["cases"], rows, strict=True):
        case["agent_logits_rounded"] = row
    first, second = lane_of(), Lane.model_validate(document)
    comparison = compare_lanes(first, second)
    long_rows = ([value for case in lane.cases for value in case.logits] for lane in (second, first))
    assert comparison.distance == Distance.between(*long_rows)
    for found, ours, theirs in zip(comparison.cases, first.cases, second.cases, strict=True):
        assert found.distance == Distance.between(theirs.logits, ours.logits)


def test_cases_of_one_lane_alone_are_named() -> None:
    comparison = compared(id="three")
    assert (comparison.only_first, comparison.only_second) == (("two",), ("three",))
    assert [case.id for case in comparison.cases] == ["one"]
    assert comparison.agree


def test_lanes_with_nothing_in_common_do_not_agree() -> None:
    comparison = compare_lanes(lane_of(), lane_of(cases=[]))
    assert not comparison.agree
    assert comparison.distance is None


def test_heads_of_other_sizes_have_no_distance() -> None:
    comparison = compared(agent_logits_rounded=[1.0, 2.0, 3.0])
    assert [case.distance is None for case in comparison.cases] == [False, True]


def test_the_command_finds_lanes_by_name_and_by_file(tmp_path: Path) -> None:
    lanes = tmp_path / "config" / "runtime_profiles"
    write_json(lanes / "mlx" / "mine.json", lane_document(artifact={"name": "mine"}))
    other = write_json(tmp_path / "other.json", changed(agent_margin=1.5))
    result = invoke("compare-lanes", "mlx/mine", other)
    assert result.exit_code == 0, result.output
    assert "first: mlx/mine, measured\nsecond: cpu/nano, measured\n" in result.stdout
    assert "2 cases in both, 0 decided differently" in result.stdout
    row = next(line for line in result.stdout.splitlines() if " two " in line)
    assert row.split() == ["same", "two", "1", "Worker", "4.750", "1.500", "2.000", "2.000", "0.0e+00"]
    assert max(map(len, result.stdout.splitlines())) <= 80 or "logits:" in result.stdout


def test_the_command_fails_where_a_decision_or_an_input_differs(tmp_path: Path) -> None:
    first = write_json(tmp_path / "first.json", lane_document())
    for fields, mark in (({"agent_id": 0}, "DIFFERS"), ({"token_count": 2}, "INPUT")):
        second = write_json(tmp_path / "second.json", changed(**fields))
        result = invoke("compare-lanes", first, second)
        assert result.exit_code == 1
        assert mark in result.stdout
    document = json.loads(invoke("compare-lanes", first, second, "--json").stdout)
    assert not document["agree"]
    assert [case["same_input"] for case in document["cases"]] == [True, False]
    assert document["cases"][0]["margins"]["second"] == {"agent": 1.25, "role": 2.0}
    empty = write_json(tmp_path / "empty.json", lane_document(cases=[]))
    nothing = invoke("compare-lanes", first, empty)
    assert nothing.exit_code == 1
    assert "no case in common" in nothing.stdout
    assert "only in the first: one, two\n" in nothing.stdout
    many = lane_document()["cases"][:1] * 11
    names = [case | {"id": f"case {number}"} for number, case in enumerate(many)]
    path = write_json(tmp_path / "many.json", lane_document(cases=names))
    assert "case 6, case 7 and 3 more\n" in invoke("compare-lanes", path, first).stdout


def test_the_command_refuses_what_is_no_lane_in_one_line(tmp_path: Path) -> None:
    good = write_json(tmp_path / "good.json", lane_document())
    bad = write_json(tmp_path / "bad.json", lane_document(status="odd"))
    assert_fails(invoke("compare-lanes", good, bad), 4, "bad.json: status")
    assert_fails(invoke("compare-lanes", good, "cpu/nobody"), 2, "no lane 'cpu/nobody'", "mlx/sakana")
    assert_fails(invoke("compare-lanes", good, tmp_path), 2, "no lane")
    assert_fails(invoke("compare-lanes", "x" * 5000, good), 2, "no lane")

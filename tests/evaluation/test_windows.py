"""A window's effect on decisions is measured case by case, and a change fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trinity_mlx.contracts.routing import Window
from trinity_mlx.evaluation.suite import Case, Suite, read_suite
from trinity_mlx.evaluation.windows import compare_window

from ..evaluation_cases import assert_fails, few, invoke, nano_source, write_json


def long_suite(folder: Path, repeats: int = 30) -> Path:
    """Two short cases, and one of which a small window leaves something out."""
    document = {
        "schema_version": 1,
        "cases": [
            {"id": "short", "messages": [{"role": "user", "content": "What is 17 + 25?"}], "expected": EXPECTED},
            {"id": "long", "messages": [message(number) for number in range(repeats)], "expected": EXPECTED},
        ],
    }
    return write_json(folder / "talks.json", document)


EXPECTED = {"agent_id": 0, "role_id": 0}


def message(number: int) -> dict[str, str]:
    return {"role": "user" if number % 2 == 0 else "assistant", "content": f"Line {number}: and what of {number * 7}?"}


def test_a_wide_window_changes_nothing() -> None:
    with nano_source().load() as router:
        comparison = compare_window(router, few(3), Window(1000, 1000))
    assert comparison.cut == comparison.changed == []
    assert all(case.kept and case.distance and case.distance.largest == 0 for case in comparison.cases)


def test_what_is_left_out_is_told_and_the_rest_is_the_routers_own(tmp_path: Path) -> None:
    suite, window = read_suite(long_suite(tmp_path)), Window(16, 48, 16)
    ticks: list[None] = []
    with nano_source().load() as router:
        comparison = compare_window(router, suite, window, lambda: ticks.append(None))
        expected = router.through(window).route(suite.cases[1].transcript)
        assert router.route(suite.cases[1].transcript).gap is None
    (cut,) = comparison.cut
    assert (cut.id, cut.gap) == ("long", window.gap(cut.token_count))
    assert cut.windowed is not None
    assert cut.windowed.logits == expected.logits
    assert cut.distance is not None
    assert cut.distance.largest > 0
    assert len(ticks) == 2


def test_a_case_that_fits_only_through_the_window_is_unknown_and_said(tmp_path: Path) -> None:
    with nano_source().load() as router:
        suite = read_suite(long_suite(tmp_path, repeats=router.identity.max_positions // 4))
        case = compare_window(router, Suite("one", "x", suite.cases[1:]), Window(16, 48, 16)).cases[0]
    assert (case.whole, case.kept, case.distance) == (None, None, None)
    assert case.windowed is not None
    assert "tokens" in case.problem


def test_the_command_shows_both_ways(tmp_path: Path) -> None:
    suite = long_suite(tmp_path)
    arguments = ("eval", "--artifact", "nano", "--profile", "mlx", "--suite", suite, "--window", "16,48,16")
    told = invoke(*arguments, "--no-assert")
    assert told.exit_code == 0
    assert "2 cases, 1 cut" in told.stdout
    found = invoke(*arguments, "--json")
    summary = json.loads(found.stdout)["summary"]
    assert (summary["cases"], summary["cut"], summary["unknown"]) == (2, 1, 0)
    assert found.exit_code == (1 if summary["changed"] else 0)


@pytest.mark.parametrize("window", ["512", "a,b", "1,2,3,4", "16,0", "-1,5", "9" * 50 + ",1", "100000000,100000000"])
def test_a_window_that_is_none_is_a_usage_error(window: str) -> None:
    assert_fails(invoke("eval", "--artifact", "nano", "--profile", "mlx", "--window", window), 2, "window")


def test_cases_are_kept_apart(tmp_path: Path) -> None:
    case: Case = read_suite(long_suite(tmp_path)).cases[0]
    with nano_source().load() as router:
        result = compare_window(router, Suite("one", "x", (case,)), Window(1, 4, 1)).cases[0]
    assert result.to_dict()["left_out"] == {
        "start": 1,
        "stop": result.token_count - 4,
        "tokens": result.token_count - 5,
    }

"""``trinity-mlx certify``: what it writes, when it refuses, and what a renewal says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trinity_mlx.evaluation.lane import read_lane, write_lane

from ..evaluation_cases import assert_fails, install_odd_backends, invoke, suite_document, write_json

FAST = ("--runs", "2", "--processes", "0")


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRINITY_MLX_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("TRINITY_MLX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def nano(tmp_path: Path) -> tuple[str, ...]:
    """The command for nano on the CPU with three cases of its suite."""
    suite = write_json(tmp_path / "short.json", suite_document())
    return ("certify", "--artifact", "nano", "--profile", "cpu", "--suite", str(suite))


@pytest.fixture
def quick_start(tmp_path: Path) -> tuple[str, ...]:
    """The same on MLX, which a fresh process imports sooner than torch."""
    suite = write_json(tmp_path / "short.json", suite_document())
    return ("certify", "--artifact", "nano", "--profile", "mlx", "--suite", str(suite), *FAST)


@pytest.fixture
def lane(tmp_path: Path) -> Path:
    """Where the lane lies unless ``--out`` says otherwise."""
    return tmp_path / "config" / "runtime_profiles" / "cpu" / "nano.json"


def in_fresh_process(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "trinity_mlx.cli", *arguments], check=True, capture_output=True)


def without_occasion(path: Path) -> dict[str, Any]:
    """A lane without when it was written, and by which words."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert document["provenance"].pop("date")
    assert document["provenance"].pop("command")
    return document


def test_a_lane_is_written_and_eval_holds_against_it(nano: tuple[str, ...], lane: Path, tmp_path: Path) -> None:
    result = invoke(*nano, "--runs", "2", "--processes", "1")
    assert result.exit_code == 0, result.output
    assert "3, alike bit for bit in 2 runs and 1 fresh process " in result.stdout
    assert "composed kernels  decisions changed: none" in result.stdout
    assert f"written to {lane}" in result.stdout
    written = read_lane(lane)
    assert written.floors is not None
    assert written.worst is not None
    worst = written.worst.agent
    assert worst.case == "math_think_counting"
    assert f"worst {worst.value:.3f} in {worst.case}, floor {written.floors.agent}" in result.stdout
    found = invoke("eval", *nano[1:], "--determinism-runs", "2")
    assert found.exit_code == 0
    assert f"floor {written.floors.agent:g} (lane cpu/nano, measured)" in found.stdout
    assert "note:" not in found.stdout
    strict = json.loads(lane.read_text(encoding="utf-8"))
    strict["floors"]["agent"] = 4.0
    write_json(lane, strict)
    failed = invoke("eval", *nano[1:])
    assert failed.exit_code == 1
    assert f"agent margin: {worst.value:.6f} is under the floor 4 (lane cpu/nano, measured)" in failed.stdout


def test_a_renewal_in_a_fresh_process_changes_nothing_but_the_date(
    quick_start: tuple[str, ...], tmp_path: Path
) -> None:
    lane = tmp_path / "lane.json"
    assert invoke(*quick_start, "--out", lane).exit_code == 0
    before = without_occasion(lane)
    lane.write_text(lane.read_text().replace('"date": "2', '"date": "1'), encoding="utf-8")
    in_fresh_process(*quick_start, "--out", str(lane))
    assert without_occasion(lane) == before
    assert '"date": "2' in lane.read_text()


def test_a_renewal_says_what_changed(nano: tuple[str, ...], lane: Path) -> None:
    against_shipped = invoke(*nano, *FAST).stdout
    assert "case code_open_list is gone" in against_shipped
    assert "suite: nano-64 (" in against_shipped
    assert "nothing but the date" in invoke(*nano, *FAST).stdout
    document = json.loads(invoke(*nano, *FAST, "--floor-ratio", "0.9", "--json").stdout)
    assert document["ok"]
    assert document["file"] == str(lane)
    assert [line.partition(":")[0] for line in document["changes"]] == ["agent floor", "role floor", "floor ratio"]
    assert document["lane"] == json.loads(lane.read_text(encoding="utf-8"))


def test_who_signs_off_stands_in_the_lane_until_it_is_measured_anew(nano: tuple[str, ...], lane: Path) -> None:
    result = invoke(*nano, *FAST, "--signed-off-by", " Ada Lovelace ")
    assert result.exit_code == 0, result.output
    written = read_lane(lane)
    assert written.signed_off is not None
    assert (written.signed_off.by, written.signed_off.date) == ("Ada Lovelace", written.provenance["date"])
    assert f"by Ada Lovelace on {written.signed_off.date}" in result.stdout
    raw = lane.read_bytes()
    write_lane(lane, written)
    assert lane.read_bytes() == raw
    assert "signed off by: Ada Lovelace before, nobody now" in invoke(*nano, *FAST).stdout
    assert read_lane(lane).signed_off is None


def test_a_floor_falls_only_where_that_is_allowed(nano: tuple[str, ...], lane: Path) -> None:
    assert invoke(*nano, *FAST).exit_code == 0
    before = lane.read_bytes()
    lower = invoke(*nano, *FAST, "--floor-ratio", "0.5")
    assert_fails(lower, 2, "the agent floor of lane cpu/nano would fall from", "--allow-lower")
    assert lane.read_bytes() == before
    assert invoke(*nano, *FAST, "--floor-ratio", "0.5", "--allow-lower").exit_code == 0
    assert lane.read_bytes() != before


def test_a_wrong_decision_writes_nothing(tmp_path: Path, lane: Path) -> None:
    document = suite_document()
    document["cases"][1]["expected"] = {"agent_id": 6, "role_id": 0}
    suite = write_json(tmp_path / "wrong.json", document)
    arguments = ("certify", "--artifact", "nano", "--profile", "cpu", "--suite", suite, *FAST)
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "math_think_counting: decision: expected slot 6 as Worker" in result.stderr
    assert "no lane was written" in result.stderr
    found = json.loads(invoke(*arguments, "--json").stdout)
    assert (found["ok"], len(found["faults"])) == (False, 1)
    assert not lane.exists()


@pytest.mark.parametrize(
    ("profile", "processes", "fault"),
    [
        ("wavering", "0", "determinism: run 2 gave other logits"),
        ("estranged", "1", "fresh process 1: math_open_fraction gave other logits"),
    ],
)
def test_results_that_change_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str, processes: str, fault: str
) -> None:
    install_odd_backends(tmp_path, tmp_path / "config", monkeypatch)
    suite = write_json(tmp_path / "one.json", suite_document(1))
    out = tmp_path / "lane.json"
    arguments = ("--artifact", "nano", "--profile", profile, "--suite", suite, "--out", out)
    result = invoke("certify", *arguments, "--runs", "2", "--processes", processes)
    assert result.exit_code == 1
    assert fault in result.stderr
    assert not out.exists()


def test_a_backend_without_other_kernels_is_certified_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_odd_backends(tmp_path, tmp_path / "config", monkeypatch)
    suite = write_json(tmp_path / "one.json", suite_document(1))
    result = invoke("certify", "--artifact", "nano", "--profile", "plain", "--suite", suite, *FAST)
    assert result.exit_code == 0, result.output
    assert "not compared: this backend has no composed kernels" in result.stdout


def test_a_variant_has_a_lane_of_its_own(nano: tuple[str, ...], lane: Path) -> None:
    assert invoke(*nano, *FAST).exit_code == 0
    composed = (*nano, "--kernels", "composed")
    usual = invoke("eval", *composed[1:])
    assert usual.exit_code == 0
    assert "composed has no lane of its own: it is held against cpu/nano" in usual.stdout
    result = invoke(*composed, *FAST)
    assert "there was no lane before" in result.stdout
    assert "fused kernels" in result.stdout
    assert read_lane(lane.with_name("nano+composed.json")).variant == "composed"
    assert "note:" not in invoke("eval", *composed[1:]).stdout


def test_a_suite_that_changed_since_is_noticed(tmp_path: Path, nano: tuple[str, ...]) -> None:
    assert invoke(*nano, *FAST).exit_code == 0
    write_json(tmp_path / "short.json", suite_document(2))
    found = json.loads(invoke("eval", *nano[1:], "--json").stdout)
    assert found["notes"] == ["lane cpu/nano was measured with another suite, or with short as it was before"]


def test_the_lane_may_be_written_anywhere(nano: tuple[str, ...], lane: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "lane.json"
    assert invoke(*nano, *FAST, "--out", out).exit_code == 0
    assert read_lane(out).name == "cpu/nano"
    assert not lane.exists()
    agreed = invoke("compare-lanes", out, out)
    assert agreed.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "fragment"),
    [
        (("--out", "{folder}"), 2, "cannot read"),
        (("--out", "{folder}/short.json"), 4, "short.json: "),
        (("--out", "{folder}/short.json/below.json"), 3, "cannot be written"),
        (("--suite", "missing.json"), 2, "no suite 'missing.json'"),
        (("--profile", "abacus"), 3, "no profile 'abacus'"),
    ],
)
def test_bad_input_gives_one_line(
    tmp_path: Path, nano: tuple[str, ...], arguments: tuple[str, ...], code: int, fragment: str
) -> None:
    given = [each.format(folder=tmp_path) for each in arguments]
    assert_fails(invoke(*nano, *FAST, *given), code, fragment)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--floor-ratio", "nan"),
        ("--floor-ratio", "0"),
        ("--floor-ratio", "1.1"),
        ("--runs", "1"),
        ("--processes", "-1"),
    ],
)
def test_figures_out_of_range_are_usage_errors(nano: tuple[str, ...], arguments: tuple[str, str]) -> None:
    result = invoke(*nano, *arguments)
    assert result.exit_code == 2
    assert f"Invalid value for '{arguments[0]}'" in result.stderr


def test_a_command_that_is_not_unicode_is_recorded_all_the_same(quick_start: tuple[str, ...], tmp_path: Path) -> None:
    out = bytes(tmp_path) + b"/caf\xe9.json"
    command = [sys.executable.encode(), b"-m", b"trinity_mlx.cli", *map(str.encode, quick_start), b"--out", out]
    found = subprocess.run(command, check=False, capture_output=True)
    assert found.returncode == 0, found.stderr
    (path,) = tmp_path.glob("caf*.json")
    assert "caf\ufffd.json" in read_lane(path).provenance["command"]

"""``trinity-mlx eval``: its gates and exit codes, its files, and what bad input gives."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from rich.text import Text
from tokenizers import Tokenizer

from trinity_mlx.contracts.artifact import Base, Bundle
from trinity_mlx.evaluation.snapshot import read_snapshot

from .. import builders
from ..evaluation.test_snapshot import PUBLIC as PUBLIC_LOGITS
from ..evaluation_cases import (
    assert_fails,
    few,
    install_odd_backends,
    invoke,
    lane_document,
    suite_document,
    write_json,
)

NANO = ("eval", "--artifact", "nano", "--profile", "mlx")
FIRST = "math_open_fraction"


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRINITY_MLX_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("TRINITY_MLX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Three cases of nano's suite."""
    return write_json(tmp_path / "short.json", suite_document())


@pytest.fixture
def snapshot(tmp_path: Path, suite: Path) -> dict[str, Any]:
    """What nano gives for them, as ``--snapshot-out`` wrote it."""
    path = tmp_path / "snapshot.json"
    assert invoke(*NANO, "--suite", suite, "--snapshot-out", path).exit_code == 0
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def lane_file(tmp_path: Path, **changes: Any) -> Path:
    """A lane of the user's own for nano on MLX, said to be of no artifact in particular."""
    document = lane_document(artifact={"name": "nano"}, cases=[], **changes)
    return write_json(tmp_path / "config" / "runtime_profiles" / "mlx" / "nano.json", document)


def failure(*arguments: object) -> str:
    """What a command prints that fails by a gate."""
    result = invoke(*arguments)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return result.stdout


def test_a_suite_that_holds_exits_with_0_and_shows_every_figure(suite: Path) -> None:
    result = invoke(*NANO, "--suite", suite, "--determinism-runs", 2)
    assert result.exit_code == 0, result.output
    row = next(line for line in result.stdout.splitlines() if FIRST in line)
    assert row.split()[0] == "pass"
    document = json.loads(invoke(*NANO, "--suite", suite, "--json").stdout)
    margins = document["cases"][0]["margins"]
    for figure in ("What is three eighths of 560?", "0 Worker", " 15 ", *(f"{each:.3f}" for each in margins.values())):
        assert figure in row
    for line in ("3 passed, 0 failed", "2 runs in", "Worker 1, Thinker 1, Verifier 1", "0 mathematics 3, 1 code 0"):
        assert line in result.stdout
    for split in ("agent", "role"):
        worst = min(document["cases"], key=lambda case: case["margins"][split])
        assert document["summary"][f"worst_{split}_margin"] == {"value": worst["margins"][split], "case": worst["id"]}
        assert f"{worst['margins'][split]:.3f} in {worst['id']}" in result.stdout
    assert "\x1b[" not in result.output


def test_a_wrong_expectation_fails(tmp_path: Path) -> None:
    document = suite_document()
    document["cases"][1]["expected"] = {"agent_id": 6, "role_id": 0}
    path = write_json(tmp_path / "wrong.json", document)
    found = failure(*NANO, "--suite", path)
    assert "FAIL math_think_counting\n  decision: expected slot 6 as Worker, got slot 0 as Thinker" in found
    assert "2 passed, 1 failed" in found


@pytest.mark.parametrize("split", ["agent", "role"])
def test_a_margin_under_the_flags_floor_fails(suite: Path, split: str) -> None:
    found = failure(*NANO, "--suite", suite, "--case", FIRST, f"--min-{split}-margin", 6.7)
    assert f"{split} margin: " in found
    assert "is under the floor 6.7 (given)" in found
    assert invoke(*NANO, "--suite", suite, "--case", FIRST, f"--min-{split}-margin", 4.4).exit_code == 0


def test_a_margin_under_the_lanes_floor_fails_and_the_flag_goes_first(tmp_path: Path, suite: Path) -> None:
    lane_file(tmp_path, floors={"agent": 1.0, "role": 6.7})
    arguments = (*NANO, "--suite", suite, "--case", FIRST)
    assert "under the floor 6.7 (lane mlx/nano, measured)" in failure(*arguments)
    assert invoke(*arguments, "--min-role-margin", 6.6).exit_code == 0


def test_a_margin_under_the_profiles_floor_fails_and_the_lane_goes_first(tmp_path: Path, suite: Path) -> None:
    profiles = tmp_path / "config" / "profiles"
    profiles.mkdir(parents=True)
    usual = 'summary = "x"\nbackend = "mlx"\ndevice = "cpu"\ndtype = "float32"\n'
    floors = '[floors.nano]\nagent = 9.5\nrole = 0.0\nsource = "measured here"\n'
    (profiles / "strict.toml").write_text(usual + floors)
    arguments = ("eval", "--artifact", "nano", "--profile", "strict", "--suite", suite, "--case", FIRST)
    assert "under the floor 9.5 (profile strict, measured here)" in failure(*arguments)
    lane = lane_document(profile="strict", artifact={"name": "nano"}, cases=[], floors={"agent": 0.5, "role": 0.5})
    write_json(tmp_path / "config" / "runtime_profiles" / "strict" / "nano.json", lane)
    assert invoke(*arguments).exit_code == 0


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("agent_id", 5, "drift: slot was 5 in the snapshot, and is 0"),
        ("role_id", 1, "drift: role was 1 in the snapshot, and is 0"),
        ("token_count", 16, "drift: token count was 16 in the snapshot, and is 15"),
        ("transcript_hash", "0" * 64, f"drift: transcript hash was {'0' * 64} in the snapshot"),
    ],
)
def test_drift_from_a_snapshot_fails(
    tmp_path: Path, suite: Path, snapshot: dict[str, Any], field: str, value: Any, reason: str
) -> None:
    snapshot["cases"][0][field] = value
    drifted = write_json(tmp_path / "drifted.json", snapshot)
    assert reason in failure(*NANO, "--suite", suite, "--snapshot", drifted)


def test_drift_of_the_route_hash_is_reported_and_fails_nothing(
    tmp_path: Path, suite: Path, snapshot: dict[str, Any]
) -> None:
    snapshot["cases"][0]["route_hash"] = "0" * 64
    snapshot["cases"][0]["agent_logits_rounded"][0] += 0.25
    path = write_json(tmp_path / "moved.json", snapshot)
    result = invoke(*NANO, "--suite", suite, "--snapshot", path)
    assert result.exit_code == 0
    assert "route hash differs in 1 of 3" in " ".join(result.stdout.split())
    assert "2.5e-01" in next(line for line in result.stdout.splitlines() if FIRST in line)


def test_the_snapshot_is_the_flags_else_the_lanes_else_none(
    tmp_path: Path, suite: Path, snapshot: dict[str, Any]
) -> None:
    def used(*arguments: object) -> str | None:
        document = json.loads(invoke(*NANO, "--suite", suite, "--json", *arguments).stdout)
        origin: str | None = document["snapshot"]
        assert (origin is None) == ("there is no snapshot to compare with" in document["notes"])
        return origin

    lane_file(tmp_path)
    assert used() is None
    write_json(lane_file(tmp_path), lane_document(artifact={"name": "nano"}, cases=snapshot["cases"]))
    assert (used() or "").startswith("lane mlx/nano (")
    assert used("--snapshot", tmp_path / "snapshot.json") == str(tmp_path / "snapshot.json")


def test_what_a_snapshot_lacks_is_said(tmp_path: Path, suite: Path) -> None:
    foreign = write_json(tmp_path / "logits.json", PUBLIC_LOGITS)
    result = invoke(*NANO, "--suite", suite, "--snapshot", foreign)
    assert result.exit_code == 0
    assert "3 of 3 cases are not in the snapshot" in result.stdout
    assert "made by another system: they are not compared" in result.stdout


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        ("wavering", "determinism: run 2 gave other logits than run 1, by up to 0.003"),
        ("tiring", "determinism: run 2 could not be routed: the device is gone"),
    ],
)
def test_results_that_change_between_runs_fail(
    tmp_path: Path, suite: Path, monkeypatch: pytest.MonkeyPatch, profile: str, reason: str
) -> None:
    install_odd_backends(tmp_path, tmp_path / "config", monkeypatch)
    arguments = ("eval", "--artifact", "nano", "--profile", profile, "--suite", suite)
    cases = () if profile == "wavering" else ("--case", FIRST)
    assert reason in failure(*arguments, *cases, "--determinism-runs", 2)


def test_a_model_that_gives_no_numbers_is_an_invalid_artifact(
    tmp_path: Path, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_odd_backends(tmp_path, tmp_path / "config", monkeypatch)
    assert_fails(invoke("eval", "--artifact", "nano", "--profile", "overflowing", "--suite", suite), 4, "not finite")


def test_a_case_that_cannot_be_routed_fails(tmp_path: Path) -> None:
    document = suite_document(2)
    document["cases"][1]["messages"] = [{"role": "user", "content": "once more " * 3000}]
    found = failure(*NANO, "--suite", write_json(tmp_path / "long.json", document))
    assert "cannot be routed: the transcript has 6" in found
    assert "1 passed, 1 failed" in found


def test_a_suite_for_a_larger_head_is_refused(tmp_path: Path) -> None:
    document = suite_document(1)
    document["cases"][0]["expected"]["agent_id"] = 7
    path = write_json(tmp_path / "larger.json", document)
    assert_fails(invoke(*NANO, "--suite", path), 2, f"case '{FIRST}' expects slot 7, and nano has slots 0 to 6")


def test_a_lane_of_another_artifact_is_not_used_and_that_is_said(tmp_path: Path, suite: Path) -> None:
    path = tmp_path / "config" / "runtime_profiles" / "mlx" / "nano.json"
    write_json(path, lane_document(floors={"agent": 99.0, "role": 99.0}))
    document = json.loads(invoke(*NANO, "--suite", suite, "--json").stdout)
    assert "lane mlx/nano was measured with another nano: it is not used" in document["notes"]
    assert document["floors"]["agent"] is None
    write_json(path, lane_document(artifact={"name": "sakana"}))
    assert_fails(invoke(*NANO, "--suite", suite), 4, "is about mlx/sakana, and lies where mlx/nano belongs")


def test_with_no_assert_failures_are_reported_and_the_command_succeeds(suite: Path) -> None:
    arguments = (*NANO, "--suite", suite, "--no-assert", "--min-agent-margin", 9, "--min-role-margin", 9)
    result = invoke(*arguments)
    assert result.exit_code == 0
    assert "0 passed, 3 failed" in result.stdout
    assert "FAIL" not in result.stdout
    document = json.loads(invoke(*arguments, "--json").stdout)
    assert [case["status"] for case in document["cases"]] == ["report"] * 3
    assert document["summary"]["gate_failed"] is False


def test_json_is_one_object_and_holds_logits_on_request(suite: Path) -> None:
    found = failure(*NANO, "--suite", suite, "--json", "--show-logits", "--min-agent-margin", 4)
    document = json.loads(found)
    assert document["summary"]["failed"] == 1
    assert (document["floors"]["agent"], document["floors"]["agent_source"]) == (4.0, "given")
    assert [case["status"] for case in document["cases"]] == ["pass", "fail", "pass"]
    for case in document["cases"]:
        first, second = sorted(case["logits"]["agent"], reverse=True)[:2]
        assert case["margins"]["agent"] == first - second
        assert len(case["logits"]["role"]) == 3
    assert "logits" not in json.loads(invoke(*NANO, "--suite", suite, "--json").stdout)["cases"][0]


def test_logits_for_people(suite: Path) -> None:
    lines = invoke(*NANO, "--suite", suite, "--case", FIRST, "--show-logits").stdout.splitlines()
    head = next(index for index, line in enumerate(lines) if line.startswith("agent logits: 0 mathematics, 1 code"))
    assert lines[head + 1] == FIRST
    found = json.loads(invoke(*NANO, "--suite", suite, "--case", FIRST, "--show-logits", "--json").stdout)
    for line, split in ((lines[head + 2], "agent"), (lines[head + 3], "role")):
        assert line.split() == [split, *(f"{value:.6f}" for value in found["cases"][0]["logits"][split])]


def on_a_terminal(columns: int, *arguments: object) -> list[str]:
    """The lines that a command shows on a terminal of that many columns, without colours."""
    screen, terminal = pty.openpty()
    command = [sys.executable, "-m", "trinity_mlx.cli", *map(str, arguments)]
    settings = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=terminal, stderr=subprocess.DEVNULL, env=settings)
    os.close(terminal)
    received = b""
    with contextlib.suppress(OSError):
        while block := os.read(screen, 65536):
            received += block
    os.close(screen)
    assert process.wait() == 0
    return [Text.from_ansi(line).plain.rstrip() for line in received.decode("utf-8").splitlines()]


def test_a_narrow_terminal_shows_every_case_and_figure_in_full(suite: Path) -> None:
    lines = on_a_terminal(80, *NANO, "--suite", suite, "--show-logits")
    assert max(map(len, lines)) <= 80
    for case in few().cases:
        row = next(index for index, line in enumerate(lines) if line.startswith(f"pass {case.id} "))
        assert "…" not in lines[row]
        assert lines[row + 1].split()[:2] == case.transcript.messages[0].content.split()[:2]
    assert sum(line.startswith("  agent ") and len(line.split()) == 8 for line in lines) == 3


def test_only_the_cases_asked_for_are_run_and_an_unknown_one_is_named(suite: Path) -> None:
    arguments = ("--suite", suite, "--case", "math_verify_claim", "--case", FIRST)
    document = json.loads(invoke(*NANO, *arguments, "--json").stdout)
    assert [case["id"] for case in document["cases"]] == [FIRST, "math_verify_claim"]
    assert_fails(invoke(*NANO, "--suite", suite, "--case", "nobody"), 2, "suite short has no case 'nobody'")


def test_files_are_written_also_where_a_gate_fails(tmp_path: Path, suite: Path) -> None:
    snapshot, junit, page = (tmp_path / name for name in ("new/s.json", "new/j.xml", "new/r.html"))
    arguments = ("--suite", suite, "--snapshot-out", snapshot, "--junit", junit, "--report", page)
    failure(*NANO, *arguments, "--min-agent-margin", 4)
    assert list(read_snapshot(snapshot).cases) == [case.id for case in few().cases]
    assert ET.parse(junit).getroot().get("failures") == "1"
    assert "three eighths" in page.read_text(encoding="utf-8")
    assert invoke(*NANO, "--suite", suite, "--snapshot", snapshot, "--determinism-runs", 2).exit_code == 0


def test_control_characters_reach_neither_the_terminal_nor_the_junit_file(tmp_path: Path) -> None:
    document = suite_document(1)
    document["cases"][0] |= {"id": "a\x1b[2J\r\nb", "expected": {"agent_id": 1, "role_id": 2}}
    document["cases"][0]["messages"][0]["content"] += " \x1b]0;title\x07 [bold]x[/]"
    del document["cases"][0]["router_input_tokens"]
    path, junit = write_json(tmp_path / "odd.json", document), tmp_path / "junit.xml"
    result = invoke(*NANO, "--suite", path, "--junit", junit, "--show-logits")
    assert result.exit_code in (0, 1)
    assert "a\ufffd[2J\ufffd\ufffdb" in result.stdout
    listed = invoke(*NANO, "--suite", path, "--list-cases").stdout
    for text in (result.output, listed):
        assert not set(text) & set(map(chr, [*range(10), *range(11, 32), 127]))
    assert ET.parse(junit).getroot()[0].get("name") == "a\ufffd[2J\r\nb"
    assert_fails(invoke(*NANO, "--suite", path, "--case", "\x1b[2J"), 2, r"no case '\x1b[2J'")


def test_the_cases_are_listed_for_people_and_for_programs(suite: Path) -> None:
    listed = invoke("eval", "--suite", suite, "--list-cases")
    assert listed.exit_code == 0
    assert "short, 3 cases" in listed.stdout
    assert "math_think_counting  0 Thinker" in listed.stdout
    records = json.loads(invoke("eval", "--list-cases", "--artifact", "sakana", "--json").stdout)
    assert (len(records), records[0]["id"], records[0]["expected"]) == (12, "math_direct", {"slot": 4, "role": 2})


def test_listing_finds_the_suite_of_an_artifact_by_its_own_name(tmp_path: Path, tiny_bundle: Bundle) -> None:
    assert len(json.loads(invoke("eval", "--list-cases", "--json").stdout)) == 64
    assert_fails(invoke("eval", "--list-cases", "--artifact", tiny_bundle.folder), 2, "for tiny: give one of your own")
    assert_fails(invoke("eval", "--list-cases", "--artifact", tmp_path / "none"), 4, "no artifact")


def test_listing_loads_no_tensor_library() -> None:
    code = (
        "import sys; from trinity_mlx.cli import main\n"
        "main(['eval', '--list-cases', '--profile', 'cpu'], standalone_mode=False)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'mlx', 'mlx.core', 'transformers')))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (found.returncode, b"near_limit_log" in found.stdout) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "code", "fragment"),
    [
        (("--suite", "missing.json"), 2, "no suite 'missing.json'"),
        (("--suite", "{folder}"), 2, "no suite"),
        (("--suite", "{folder}/text"), 2, "text is not valid JSON"),
        (("--snapshot", "missing.json"), 2, "cannot read missing.json"),
        (("--snapshot", "{folder}/text"), 2, "text is not valid JSON"),
        (("--snapshot", "{folder}/short.json"), 2, "short.json: cases.0.agent_id is missing"),
        (("--snapshot-out", "{folder}/text/below.json"), 3, "cannot be written"),
        (("--junit", "{folder}"), 3, "cannot be written"),
        (("--artifact", "{folder}/text"), 4, "no artifact"),
        (("--profile", "abacus"), 3, "no profile 'abacus'"),
        (("--quantize", "4", "--profile", "cpu"), 3, "4"),
    ],
)
def test_bad_input_gives_one_line(
    tmp_path: Path, suite: Path, arguments: tuple[str, ...], code: int, fragment: str
) -> None:
    (tmp_path / "text").write_text("no JSON")
    given = [each.format(folder=tmp_path) for each in arguments]
    result = invoke(*NANO, "--suite", suite, "--case", FIRST, *given)
    assert result.exit_code == code, result.output
    assert [line.split(":")[0] for line in result.stderr.splitlines()] in (["error"], ["error", "try"])
    assert fragment in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_broken_lane_is_named(tmp_path: Path, suite: Path) -> None:
    lane_file(tmp_path).write_text("{", encoding="utf-8")
    assert_fails(invoke(*NANO, "--suite", suite), 4, "nano.json is not valid JSON")


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "wide"])
def test_a_floor_that_is_no_number_is_a_usage_error(suite: Path, value: str) -> None:
    result = invoke(*NANO, "--suite", suite, "--min-agent-margin", value)
    assert result.exit_code == 2
    assert "Invalid value for '--min-agent-margin'" in result.stderr


def test_a_bundle_without_a_suite_asks_for_one(tiny_folders: dict[str, Path]) -> None:
    result = invoke("eval", "--artifact", tiny_folders["artifact"], "--base", tiny_folders["base"], "--profile", "mlx")
    assert_fails(result, 2, "for tiny: give one of your own")


def test_a_file_that_finds_no_room_keeps_its_old_content(tmp_path: Path, suite: Path) -> None:
    path = tmp_path / "snapshot.json"
    path.write_text("old")
    command = [sys.executable, "-m", "trinity_mlx.cli", *NANO, "--suite", str(suite), "--snapshot-out", str(path)]
    found = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert found.returncode == 3
    assert found.stderr.startswith("error: ")
    assert "cannot be written" in found.stderr
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".snapshot")] == []


def test_a_suite_whose_name_is_not_unicode_gives_json_all_the_same(tmp_path: Path, suite: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.json"
    Path(os.fsdecode(path)).write_bytes(suite.read_bytes())
    command = [os.fsencode(sys.executable), b"-m", b"trinity_mlx.cli", *map(str.encode, NANO), b"--json"]
    found = subprocess.run([*command, b"--suite", path], capture_output=True, check=False)
    assert (found.returncode, json.loads(found.stdout)["summary"]["suite"]) == (0, "caf\ufffd")


def test_the_public_files_of_a_full_head_are_run_as_they_are(
    tmp_path: Path, tiny_base: Base, tiny_offsets: dict[str, np.ndarray], tiny_head: np.ndarray
) -> None:
    """Seven slots on a random base; the logits come from transformers, the token counts from the tokenizers library."""
    folder = tmp_path / "sakana"
    bundle = builders.write_bundle(folder, tiny_base, builders.factored(tiny_base, tiny_offsets), tiny_head)
    texts = [text for text in builders.PHRASES if text != "🙂"]
    oracle, tokenizer = builders.BundleOracle(bundle, tiny_base), Tokenizer.from_file(str(tiny_base.tokenizer))
    head = tiny_head.astype(np.float64)
    cases, logits = [], []
    for number, text in enumerate(texts):
        tokens = tokenizer.encode(f"user: {text}", add_special_tokens=False).ids
        row = head @ oracle.hidden(tokens).astype(np.float64)
        slot, role = int(row[:-3].argmax()), int(row[-3:].argmax())
        name = f"case_{number}"
        expected = {"agent_id": slot, "role_id": role}
        messages = [{"role": "user", "content": text}]
        cases.append({"id": name, "messages": messages, "expected": expected, "tags": ["made"], "notes": "random"})
        margins = [float(np.diff(np.sort(part)[-2:])[0]) for part in (row[:-3], row[-3:])]
        logits.append(
            {"id": name}
            | expected
            | {"token_count": len(tokens), "agent_margin": margins[0], "role_margin": margins[1]}
            | {"agent_logits_rounded": row[:-3].round(6).tolist(), "role_logits_rounded": row[-3:].round(6).tolist()}
            | {"transcript_hash": "of another language", "route_hash": "of another language"}
        )
    suite = write_json(
        tmp_path / "qwen_router_prompt_eval_cases.json",
        {"schema_version": 1, "cases": cases, "coverage": {"uncovered_agents": [], "agent_1_note": "none"}},
    )
    recorded = write_json(
        tmp_path / "qwen_router_prompt_eval_logits.json",
        {"schema_version": 1, "generated_at": "2026-01-02", "cases": logits},
    )
    arguments = ("eval", "--artifact", folder, "--base", tiny_base.folder, "--profile", "mlx", "--dtype", "float32")
    result = invoke(*arguments, "--suite", suite, "--snapshot", recorded, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [case["token_count"] for case in document["cases"]] == [case["token_count"] for case in logits]
    assert document["summary"]["snapshot_distance"]["relative_l2"] < 1e-4
    assert {case["recorded"]["route_hash"] for case in document["cases"]} == {"of another language"}
    logits[3]["token_count"] += 1
    write_json(recorded, {"schema_version": 1, "cases": logits})
    assert "drift: token count" in failure(*arguments, "--suite", suite, "--snapshot", recorded)


@pytest.mark.slow
def test_the_whole_suite_passes_twice_in_a_cold_process() -> None:
    """How long it takes is for ``benchmarks/lanes.py`` to say."""
    command = [sys.executable, "-m", "trinity_mlx.cli", "eval", "--artifact", "nano", "--profile", "cpu"]
    found = subprocess.run([*command, "--determinism-runs", "2"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "64 passed, 0 failed" in found.stdout


def test_the_public_suite_is_run_by_name_and_held_against_what_was_published(
    public_files: Path, tmp_path: Path
) -> None:
    """Nano decides otherwise than the router that these figures are of, and the distance is in the report."""
    shutil.copytree(public_files, tmp_path / "config" / "suites")
    found = invoke("eval", "--artifact", "nano", "--profile", "cpu", "--suite", "public-37", "--no-assert", "--json")
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert (report["summary"]["suite"], len(report["cases"])) == ("public-37", 37)
    assert report["snapshot"].endswith("qwen_router_prompt_eval_logits.json")
    assert report["summary"]["snapshot_distance"]["cosine"] < 0.9

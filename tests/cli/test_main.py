"""The command line: what it prints, how it fails, and what it costs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import trinity_mlx
from trinity_mlx.cli import commands, main
from trinity_mlx.cli.main import GROUPS
from trinity_mlx.contracts.artifact import Bundle

README = Path(trinity_mlx.__file__).parent.parent / "README.md"
PROMPT = "What is 17 + 25? Answer briefly."
ROUTE_KEYS = {
    "agent",
    "role",
    "logits",
    "margins",
    "ranking",
    "ties",
    "guard",
    "selection",
    "probabilities",
    "token_count",
    "reused_tokens",
    "left_out",
    "transcript_hash",
    "route_hash",
    "artifact",
    "profile",
    "timings_ms",
}


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRINITY_MLX_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("TRINITY_MLX_CACHE", str(tmp_path / "cache"))


def invoke(*arguments: str, text: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=text)


def route_json(*arguments: str, text: str | bytes | None = None) -> dict[str, Any]:
    result = invoke("route", *arguments, "--json", text=text)
    assert result.exit_code == 0, result.output
    decision: dict[str, Any] = json.loads(result.stdout)
    return decision


def assert_fails(result: Result, code: int, *fragments: str) -> None:
    """One error on the error stream, no traceback, nothing on standard output."""
    assert result.exit_code == code, result.output
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    assert result.stdout == ""
    for fragment in fragments:
        assert fragment in result.stderr


def write_json(path: Path, value: Any) -> str:
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)


def test_a_route_has_every_documented_field() -> None:
    decision = route_json(PROMPT, "--artifact", "nano")
    assert set(decision) == ROUTE_KEYS
    assert set(decision["agent"]) == {"slot", "label"}
    assert set(decision["role"]) == {"id", "name"}
    assert len(decision["logits"]["agent"]) == 7
    assert len(decision["logits"]["role"]) == 3
    assert decision["ranking"][0] == decision["agent"]["slot"]
    assert set(decision["artifact"]) == {"name", "adapter_ref", "base_ref"}
    assert set(decision["timings_ms"]) == {"load", "route"}


def test_a_route_for_people_names_agent_role_and_margins() -> None:
    result = invoke("route", PROMPT, "--artifact", "nano")
    assert result.exit_code == 0
    assert "mathematics" in result.stdout
    assert "Worker" in result.stdout
    assert "margin" in result.stdout
    assert "\x1b[" not in result.stdout


@pytest.mark.parametrize("profile", ["cpu", "mlx"])
def test_both_profiles_agree(profile: str) -> None:
    expected = route_json(PROMPT, "--artifact", "nano", "--profile", "cpu", "--dtype", "float32")
    found = route_json(PROMPT, "--artifact", "nano", "--profile", profile, "--dtype", "float32")
    assert (found["agent"], found["role"], found["profile"]) == (expected["agent"], expected["role"], profile)
    assert found["logits"]["agent"] == pytest.approx(expected["logits"]["agent"], abs=1e-4)


def test_messages_come_from_a_list_an_object_or_standard_input(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": PROMPT}]
    hashes = {
        route_json(PROMPT, "--artifact", "nano")["transcript_hash"],
        route_json("-", "--artifact", "nano", text=PROMPT)["transcript_hash"],
        route_json("--artifact", "nano", "--messages", write_json(tmp_path / "list.json", messages))["transcript_hash"],
        route_json("--artifact", "nano", "--messages", write_json(tmp_path / "object.json", {"messages": messages}))[
            "transcript_hash"
        ],
        route_json("--artifact", "nano", "--messages", "-", text=json.dumps(messages))["transcript_hash"],
    }
    assert len(hashes) == 1


def test_allowed_slots_are_the_only_ones_chosen() -> None:
    decision = route_json(PROMPT, "--artifact", "nano", "--allow-slots", "3,5")
    assert decision["agent"]["slot"] in (3, 5)
    assert sorted(decision["ranking"]) == [3, 5]


def test_a_sampled_route_can_be_repeated_from_its_seed() -> None:
    first = route_json(PROMPT, "--artifact", "nano", "--selection", "sample", "--temperature", "50")
    seed = first["selection"]["seed"]
    again = route_json(
        PROMPT, "--artifact", "nano", "--selection", "sample", "--temperature", "50", "--seed", str(seed)
    )
    assert (again["agent"], again["role"]) == (first["agent"], first["role"])


def test_logits_and_their_picture_are_shown_on_request() -> None:
    table = invoke("route", PROMPT, "--artifact", "nano", "--show-logits").stdout
    picture = invoke("route", PROMPT, "--artifact", "nano", "--explain").stdout
    assert table.count("agent") >= 7
    assert "█" in picture
    assert "floor" in picture


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"[]", "at least one message"),
        (b'[{"role": "wizard", "content": "x"}]', "wizard"),
        (b'[{"role": "user", "content": 5}]', "int"),
        (b'[{"role": "user"}]', "no content"),
        (b'[{"role": "user", "content": "\\ud800"}]', "surrogate"),
        (b'{"message": []}', "messages"),
        (b'["x"', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"", "not JSON"),
        (b'[{"role": "user", "content": "\xff"}]', "UTF-8"),
    ],
)
def test_bad_messages_are_a_usage_error(tmp_path: Path, content: bytes, fragment: str) -> None:
    path = tmp_path / "messages.json"
    path.write_bytes(content)
    assert_fails(invoke("route", "--messages", str(path)), 2, fragment, str(path))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [PROMPT, "--messages", "x.json"],
        ["--messages", "no-such-file.json"],
        ["--batch", "no-such-file.jsonl"],
        [PROMPT, "--selection", "best"],
        [PROMPT, "--temperature", "0"],
        [PROMPT, "--seed", "-1"],
        [PROMPT, "--allow-slots", "one"],
        [PROMPT, "--allow-slots", "7"],
        ["word " * 5000],
    ],
)
def test_a_bad_request_is_a_usage_error(arguments: list[str]) -> None:
    assert_fails(invoke("route", "--artifact", "nano", *arguments), 2)


def test_an_unknown_option_is_a_usage_error() -> None:
    assert invoke("route", PROMPT, "--nonsense").exit_code == 2


@pytest.mark.parametrize("profile", ["no-such-profile", "mps"])
def test_a_profile_that_cannot_run_exits_with_3(profile: str) -> None:
    if profile == "mps" and sys.platform == "darwin":
        pytest.skip("this machine may have MPS")
    assert_fails(invoke("route", PROMPT, "--artifact", "nano", "--profile", profile), 3, profile)


def test_a_missing_artifact_exits_with_4() -> None:
    assert_fails(invoke("route", PROMPT, "--artifact", "no-such-bundle"), 4, "no-such-bundle")


def test_a_missing_base_exits_with_4(tiny_bundle: Bundle) -> None:
    arguments = ("--artifact", str(tiny_bundle.folder), "--base", "no-such-folder")
    assert_fails(invoke("route", PROMPT, *arguments), 4, "no-such-folder")


def test_a_base_that_the_artifact_was_not_made_for_exits_with_4(tiny_folders: dict[str, Path]) -> None:
    assert_fails(invoke("route", PROMPT, "--artifact", "nano", "--base", str(tiny_folders["base"])), 4, "head")


def test_a_batch_keeps_order_and_goes_on_after_bad_lines(tmp_path: Path) -> None:
    lines = [
        json.dumps(PROMPT).encode(),
        b"not json",
        b"",
        json.dumps({"id": "b", "messages": [{"role": "user", "content": "Write a haiku about rain."}]}).encode(),
        b'[{"role": "user", "content": "\xff"}]',
        json.dumps([]).encode(),
        json.dumps({"prompt": "word " * 5000}).encode(),
        json.dumps({"prompt": PROMPT}).encode(),
    ]
    path = tmp_path / "batch.jsonl"
    path.write_bytes(b"\n".join(lines))
    result = invoke("route", "--artifact", "nano", "--batch", str(path), "--json")
    assert result.exit_code == 0
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["line"] for record in records] == [1, 2, 4, 5, 6, 7, 8]
    assert ["error" in record for record in records] == [False, True, False, True, True, True, False]
    assert records[2]["id"] == "b"
    assert records[0]["agent"] == records[-1]["agent"]
    assert records[5]["error"]["type"] == "ContextLengthError"
    assert "4 of 7 lines" in result.stderr


def test_a_batch_agrees_with_single_routes(tmp_path: Path) -> None:
    prompts = [f"What is {number} times {number}?" for number in range(300)]
    path = tmp_path / "batch.jsonl"
    path.write_text("\n".join(json.dumps(prompt) for prompt in prompts))
    result = invoke("route", "--artifact", "nano", "--batch", str(path), "--json")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["line"] for record in records] == list(range(1, 301))
    alone = route_json(prompts[217], "--artifact", "nano")
    assert records[217]["logits"]["agent"] == pytest.approx(alone["logits"]["agent"], abs=1e-4)


def test_profiles_tell_what_runs_here_and_what_to_do_about_the_rest() -> None:
    found = json.loads(invoke("profiles", "--json").stdout)
    by_name = {profile["name"]: profile for profile in found["profiles"]}
    assert set(by_name) == {"cpu", "cuda", "mlx", "mps"}
    assert found["auto"] in by_name
    for profile in by_name.values():
        assert profile["available"] or (profile["reason"] and profile["remedy"])
    cpu = by_name["cpu"]["capabilities"]
    assert (cpu["decomposition"], cpu["quantize"], cpu["float64"], cpu["population"]) == ("thin", [8], True, True)
    assert cpu["decomposition_bytes"]["gram"] < cpu["decomposition_bytes"]["svd"]
    assert all(bool(profile["capabilities"]) is profile["available"] for profile in by_name.values())
    text = " ".join(invoke("profiles").stdout.split())
    assert "cuda" in text
    assert "cpu: thin decomposition (2.5 GB for the embedding of Qwen3-0.6B" in text


def test_what_to_install_is_shown_with_its_brackets(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "profiles"
    folder.mkdir(parents=True)
    needs = "[requires]\nmodules = ['no_such_module']\ninstall = \"pip install 'thing[extra]'\"\n"
    (folder / "mine.toml").write_text('summary = "x"\nbackend = "torch"\ndevice = "cpu"\ndtype = "float32"\n' + needs)
    assert "pip install 'thing[extra]'" in invoke("profiles").stdout
    assert "pip install 'thing[extra]'" in invoke("doctor").stdout


def test_a_user_adds_a_profile_with_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "profiles"
    folder.mkdir(parents=True)
    (folder / "half.toml").write_text('summary = "mine"\nbackend = "torch"\ndevice = "cpu"\ndtype = "bfloat16"\n')
    assert route_json(PROMPT, "--artifact", "nano", "--profile", "half")["profile"] == "half"


def test_a_broken_profile_file_is_named_beside_the_good_ones(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "profiles"
    folder.mkdir(parents=True)
    (folder / "broken.toml").write_text("backend = 5\n")
    shown, result = invoke("profiles"), invoke("profiles", "--json")
    assert (shown.exit_code, result.exit_code) == (3, 3)
    assert "mlx" in shown.stdout
    assert f"{folder / 'broken.toml'}: " in " ".join(shown.stdout.split())
    told = json.loads(result.stdout)
    assert [profile["name"] for profile in told["profiles"]] == ["cpu", "cuda", "mlx", "mps"]
    assert told["auto"] is None
    assert str(folder / "broken.toml") in told["broken"]["broken"]
    assert invoke("route", "hi", "--artifact", "nano", "--profile", "cpu").exit_code == 0
    assert_fails(invoke("route", "hi", "--artifact", "nano", "--profile", "broken"), 3, "broken.toml")
    assert_fails(invoke("route", "hi", "--artifact", "nano"), 3, "broken.toml")
    checks = {check["name"]: check for check in json.loads(invoke("doctor", "--json").stdout)["checks"]}
    assert not checks["profile broken"]["ok"]
    assert checks["profile cpu"]["ok"]


def test_doctor_routes_for_real() -> None:
    result = invoke("doctor", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["ok"]
    assert any(check["name"] == "route" and "nano" in check["found"] for check in report["checks"])
    told = {check["name"]: check["detail"] for check in report["checks"] if check["detail"]}
    assert told["can do cpu"]["kernels"] == ["fused", "composed"]
    text = " ".join(invoke("doctor").stdout.split())
    assert "ok" in text
    assert "weights in 8 bits" in text


def run(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trinity_mlx.cli", *arguments], capture_output=True, text=True, check=False, **more
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["route", "--help"], ["run", "--help"]])
def test_help_loads_nothing_that_takes_time(arguments: list[str]) -> None:
    heavy = ("torch", "mlx", "transformers", "numpy", "pydantic", "rich", "tokenizers", "openai", "huggingface_hub")
    code = (
        f"import sys; from trinity_mlx.cli import main; main({arguments}, standalone_mode=False);"
        f"sys.exit(','.join(name for name in {heavy} if name in sys.modules) or None)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_prompt_that_is_not_utf8_is_a_usage_error() -> None:
    command = [os.fsencode(sys.executable), b"-m", b"trinity_mlx.cli", b"route", b"caf\xe9"]
    found = subprocess.run(command, capture_output=True, check=False)
    assert found.returncode == 2
    assert found.stderr.startswith(b"error: ")
    assert b"Traceback" not in found.stderr


def test_every_command_has_help_with_an_example() -> None:
    for name in main.list_commands(click.Context(main)):
        text = invoke(name, "--help").stdout
        assert f"trinity-mlx {name}" in text.partition("Example")[2], name


def test_help_lists_every_command_in_a_group_with_a_line_that_fits() -> None:
    lines = invoke("--help").stdout.splitlines()
    for title, group in GROUPS.items():
        start = lines.index(f"{title}:") + 1
        shown = lines[start : start + len(group)]
        assert [line.split()[0] for line in shown] == list(group)
        assert all(line.endswith(verb.summary) for line, verb in zip(shown, group.values(), strict=True))
    assert max(map(len, lines)) <= 80


def test_every_module_of_a_command_is_in_the_help() -> None:
    files = {path.stem for path in Path(commands.__file__).parent.glob("*.py")} - {"__init__"}
    assert {verb.place.partition(":")[0] for group in GROUPS.values() for verb in group.values()} == files


@pytest.mark.skipif(not README.is_file(), reason="the documents lie in the checkout")
def test_the_readme_lists_the_commands_as_the_help_does() -> None:
    section = README.read_text(encoding="utf-8").partition("## Commands")[2].partition("\n## ")[0]
    listed = re.findall(r"^    (\S+) {2,}(\S.*)$", section, re.MULTILINE)
    assert listed == [(name, verb.summary) for group in GROUPS.values() for name, verb in group.items()]

"""``trinity-mlx config`` and the order of precedence; logs, which hold what happened and nothing of what was asked."""

from __future__ import annotations

import json
import logging
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.cli import main, preferences
from trinity_mlx.cli.logs import log_to
from trinity_mlx.contracts.artifact import Bundle
from trinity_mlx.errors import SettingsInvalid
from trinity_mlx.files.shipped import data_path
from trinity_mlx.rules.policy import POLICIES

from ..provider_server import ProviderServer

PROMPT = "What is 17 + 25? Answer briefly."


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRINITY_MLX_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("TRINITY_MLX_CACHE", str(tmp_path / "cache"))
    for key in preferences.KEYS.values():
        if key.variable != "TRINITY_MLX_CACHE":
            monkeypatch.delenv(key.variable, raising=False)
    return tmp_path / "config"


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env=environment)


def profile_of(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return str(json.loads(result.stdout)["profile"])


def settings_shown() -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(invoke("config", "show", "--json").stdout)
    return shown


def test_options_go_before_the_environment_and_that_before_the_file() -> None:
    route = ("route", PROMPT, "--artifact", "nano", "--json")
    assert invoke("config", "set", "profile", "mlx").exit_code == 0
    assert profile_of(invoke(*route)) == "mlx"
    assert profile_of(invoke(*route, TRINITY_PROFILE="cpu")) == "cpu"
    assert profile_of(invoke(*route, "--profile", "mlx", TRINITY_PROFILE="cpu")) == "mlx"
    assert invoke("config", "unset", "profile").exit_code == 0
    assert settings_shown()["profile"] == {"value": "auto", "from": "built in"}


def test_a_setting_reaches_commands_within_commands(folder: Path) -> None:
    preferences.write(folder, "profile", "no-such-profile")
    result = invoke("parity", "run", "--base", "x", "--vector", "y", "--all", "--out", "z")
    assert (result.exit_code, "no-such-profile" in result.stderr) == (3, True)


def test_help_shows_the_users_own_default() -> None:
    invoke("config", "set", "policy", "published")
    assert "[default: published]" in " ".join(invoke("run", "--help").stdout.split())


def test_a_pool_from_the_settings_does_not_stand_in_the_way_of_an_authority(folder: Path) -> None:
    preferences.write(folder, "pool", "home")
    result = invoke("run", "hi", "--authority", "no-such-file.json")
    assert "no-such-file.json" in result.stderr
    assert "leave out" not in result.stderr


def test_the_cache_is_where_the_file_says(tmp_path: Path) -> None:
    invoke("config", "set", "cache", str(tmp_path / "elsewhere"))
    found = json.loads(invoke("artifacts", "--json", TRINITY_MLX_CACHE="").stdout)
    assert found["cache"] == str(tmp_path / "elsewhere")


def test_set_keeps_every_other_line(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.toml").write_text('# mine\ncache = "/x"  # slow\n\npool = "home"\n', encoding="utf-8")
    assert invoke("config", "set", "cache", '/odd "name" \\ é').exit_code == 0
    text = (folder / "config.toml").read_text(encoding="utf-8")
    assert text.startswith('# mine\n\npool = "home"\n')
    assert tomllib.loads(text) == {"cache": '/odd "name" \\ é', "pool": "home"}
    assert invoke("config", "path").stdout.strip() == str(folder / "config.toml")


CHOICES = sorted({choice for key in preferences.KEYS.values() for choice in key.choices})
VALUES = st.text(min_size=1, max_size=20) | st.sampled_from(CHOICES)


@given(values=st.dictionaries(st.sampled_from(sorted(preferences.KEYS)), VALUES, max_size=4))
def test_what_is_written_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]) -> None:
    home = tmp_path_factory.mktemp("settings")
    written = {}
    for key, value in values.items():
        try:
            preferences.write(home, key, value)
            written[key] = value
        except SettingsInvalid:
            choices = preferences.KEYS[key].choices
            assert not value.isprintable() or (choices and value not in choices)
    assert preferences.read(home) == written


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"x = 5", "no such setting"),
        (b"profile = 5", "must be a text"),
        (b"profile = ''", "must be a text"),
        (b"[profile]\na = 1", "must be a text"),
        (b"profile =", "not TOML"),
        (b"\xff", "not TOML"),
        (b"profile = " + b"[" * 100_000, "not TOML"),
    ],
)
def test_a_broken_file_is_named_and_its_place_can_still_be_asked_for(
    folder: Path, content: bytes, fragment: str
) -> None:
    folder.mkdir()
    (folder / "config.toml").write_bytes(content)
    result = invoke("profiles")
    assert result.exit_code == 2
    assert fragment in result.stderr
    assert "config.toml" in result.stderr
    assert invoke("config", "path").exit_code == 0
    assert invoke("config", "set", "profile", "cpu").exit_code == 2
    assert (folder / "config.toml").read_bytes() == content


def test_a_text_over_several_lines_is_left_to_its_author(folder: Path) -> None:
    folder.mkdir()
    content = 'pool = """\nhome\n"""\n'
    (folder / "config.toml").write_text(content)
    assert "only its author" in invoke("config", "set", "pool", "demo").stderr
    assert (folder / "config.toml").read_text() == content


def test_a_log_says_what_happened_and_nothing_of_what_was_asked(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "log.jsonl"
    assert invoke("--log-file", str(log), "route", PROMPT, "--artifact", "nano").exit_code == 0
    assert invoke("--log-file", str(log), "route", PROMPT, "--profile", "nosuch").exit_code == 3
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    ends = [line for line in lines if line["event"] == "ended"]
    assert [line["exit_code"] for line in ends] == [0, 3]
    assert ends[1]["error"]["type"] == "UnknownProfile"
    assert all({"time", "level", "logger", "event"} <= line.keys() for line in lines)
    assert PROMPT not in log.read_text(encoding="utf-8")


def test_a_log_from_warnings_on_holds_failures_alone(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    options = ("--log-file", str(log), "--log-level", "warning")
    invoke(*options, "profiles")
    assert log.read_text() == ""
    invoke(*options, "route", PROMPT, "--profile", "nosuch")
    assert json.loads(log.read_text())["level"] == "error"


def test_a_log_that_cannot_be_written_is_said_before_anything_is_done(tmp_path: Path) -> None:
    result = invoke("--log-file", str(tmp_path), "route", PROMPT)
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"the log file {tmp_path} cannot be written to" in result.stderr
    assert "--out" not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_log_that_is_lost_is_said_once_and_stops_nothing() -> None:
    result = invoke("--log-file", "/dev/full", "route", PROMPT, "--artifact", "nano", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["role"]
    assert result.stderr.splitlines() == ["the log file /dev/full lacks events: No space left on device"]


@pytest.mark.parametrize("provider", ["openai-compatible", "anthropic"])
@pytest.mark.parametrize("model", ["any", "fault:401"])
def test_no_level_lets_a_prompt_a_reply_or_a_key_into_the_log(tmp_path: Path, provider: str, model: str) -> None:
    log, key = tmp_path / "log.jsonl", "sk-odd-key-3141592653"
    with ProviderServer() as server:
        url = server.url if provider == "openai-compatible" else server.origin
        (tmp_path / "pool.toml").write_text(
            f'name = "one"\n[[agents]]\nslot = 0\nname = "solver"\nprovider = "{provider}"\nmodel = "{model}"\n'
            f'base_url = "{url}"\napi_key = "env:ODD_KEY"\n'
        )
        arguments = ("run", PROMPT, "--pool", str(tmp_path / "pool.toml"), "--live", "--max-turns", "1")
        options = ("--log-file", str(log), "--log-level", "debug")
        result = CliRunner(env={"ODD_KEY": key}).invoke(main, [*options, *arguments, "--artifact", "nano"])
        assert server.requests
    text = log.read_text(encoding="utf-8")
    assert PROMPT not in text
    assert "reply to" not in text
    assert key not in text
    events = [json.loads(line)["event"] for line in text.splitlines()]
    told = {"run_started", "turn_started", "routed", "provider_called"}
    assert told <= set(events), result.output
    assert ("turn_completed" in events) is (model == "any")
    assert ("provider_failed" in events) is (model != "any")


def test_what_other_packages_say_is_not_repeated(tmp_path: Path) -> None:
    """Some log whole requests at level debug, and put what they like into their warnings."""
    log, secret = tmp_path / "log.jsonl", "a whole request"
    with log_to(log, "debug", "run"):
        logging.getLogger("somebody.client").debug("sending %s", secret)
        logging.getLogger("somebody.client").warning("no answer to %s", secret)
        logging.getLogger("trinity_mlx.runs").debug("attempt %d", 2)
    events = [json.loads(line)["event"] for line in log.read_text(encoding="utf-8").splitlines()]
    assert events == ["started", "no answer to %s", "attempt 2", "ended"]


@pytest.mark.parametrize(("key", "value"), [("policy", "nosuch"), ("log_level", "loud")])
def test_a_setting_that_no_command_could_use_is_refused_where_it_is_made(folder: Path, key: str, value: str) -> None:
    result = invoke("config", "set", key, value)
    assert result.exit_code != 0
    assert f"{key} cannot be '{value}'" in result.stderr
    assert not (folder / "config.toml").exists()
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(f'log_file = "log.jsonl"\n{key} = "{value}"\n')
    refused = invoke("profiles")
    assert (refused.exit_code, refused.stdout) == (SettingsInvalid.exit_code, "")
    assert f"config.toml: {key} cannot be '{value}'" in refused.stderr


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("profile", "cpuu", "no profile 'cpuu': choose auto or one of cpu, cuda, mlx, mps"),
        ("artifact", "nanoo", "no artifact 'nanoo': choose auto, nano"),
        ("pool", "demmo", "one of the pools that are here: demo"),
        ("profil", "cpu", "'profile'"),
    ],
)
def test_a_name_that_nothing_has_is_refused_with_those_that_there_are(
    folder: Path, key: str, value: str, says: str
) -> None:
    result = invoke("config", "set", key, value)
    assert result.exit_code != 0
    assert says in result.stderr
    assert not (folder / "config.toml").exists()


@pytest.mark.parametrize("key", ["cache", "log_file", "artifact", "pool"])
def test_a_place_is_the_same_one_from_every_folder(
    tmp_path: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if key == "artifact":
        (tmp_path / "here").symlink_to(tiny_bundle.folder)
    if key == "pool":
        (tmp_path / "here").write_bytes(data_path("fixtures", "pools", "demo.toml").read_bytes())
    result = invoke("config", "set", key, "here")
    assert result.exit_code == 0, result.stderr
    assert preferences.read(tmp_path / "config")[key] == str(tmp_path / "here")


@pytest.mark.parametrize(
    ("key", "value"),
    [("profile", "auto"), ("profile", "cuda"), ("artifact", "auto"), ("artifact", "sakana"), ("pool", "demo")],
)
def test_a_name_is_taken_whether_or_not_it_can_be_used_here(key: str, value: str) -> None:
    assert invoke("config", "set", key, value).exit_code == 0
    assert settings_shown()[key] == {"value": value, "from": "config.toml"}


def test_the_policies_of_the_settings_are_those_that_there_are() -> None:
    assert preferences.KEYS["policy"].choices == tuple(POLICIES)

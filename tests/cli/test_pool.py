"""``trinity-mlx pool``: what it shows, what it finds wrong, and that no key is shown."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trinity_mlx.cli import main
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.pools.files import parse_pool
from trinity_mlx.providers.registry import BUILT_IN

from ..run_cases import install_odd_providers

KEY = "sk-31415926535897932384"
HOME = f"""
name = "home [sweet]"
[[agents]]
slot = 0
name = "solver"
provider = "openai-compatible"
model = "qwen3:32b"
base_url = "http://127.0.0.1:11434/v1"
api_key = "env:ODD_KEY"
price = {{ input = 0.5, output = 2 }}
roles = ["worker", "verifier"]
extra = {{ client_secret = "{KEY}", top_p = 0.9 }}
[[agents]]
slot = 1
name = "thinker"
provider = "scripted"
extra = {{ replies = [{{ text = "hm" }}] }}
"""


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRINITY_MLX_CONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("ODD_KEY", raising=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A user's own pool, known by its name."""
    path = tmp_path / "config" / "pools" / "home.toml"
    path.parent.mkdir(parents=True)
    path.write_text(HOME)
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["pool", *map(str, arguments)])


def test_the_shipped_pool_is_shown_without_being_named() -> None:
    result = invoke("show")
    assert result.exit_code == 0
    assert result.stdout == invoke("show", "demo").stdout
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines[0] == "pool demo"
    assert lines[1].split()[:3] == ["0", "mathematician", "scripted,"]
    assert len(lines) == 8
    assert "\x1b" not in result.stdout


def test_everything_about_an_agent_is_shown_but_its_key(home: Path) -> None:
    for name in ("home", home):
        text = " ".join(invoke("show", name).stdout.split())
        assert "pool home [sweet] 0 solver openai-compatible, model qwen3:32b, at http://127.0.0.1:11434/v1" in text
        assert "key env:ODD_KEY, Worker and Verifier only, 0.5 USD per million tokens in, 2 out" in text
        assert "1 thinker scripted, all roles, no price" in text
        assert KEY not in text


def test_json_has_every_field_and_no_key(home: Path) -> None:
    result = invoke("show", "home", "--json")
    solver, thinker = json.loads(result.stdout)["agents"]
    assert KEY not in result.output
    assert solver["extra"] == {"client_secret": "[redacted]", "top_p": 0.9}
    assert (solver["api_key"], solver["roles"], solver["price"]) == (
        "env:ODD_KEY",
        ["Worker", "Verifier"],
        {"input": 0.5, "output": 2.0},
    )
    assert (thinker["roles"], thinker["price"]) == (["Worker", "Thinker", "Verifier"], None)


def test_a_check_of_the_shipped_pool_finds_nothing_wrong() -> None:
    result = invoke("check", "demo")
    assert result.exit_code == 0
    assert result.stdout.count("in this process") == 7
    assert json.loads(invoke("check", "demo", "--json").stdout)["ok"] is True


def test_a_check_names_the_key_that_is_missing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke("check", "home")
    assert result.exit_code == 3
    text = " ".join(result.stdout.split())
    assert "no 0 solver the environment has no ODD_KEY: export it" in text
    assert "ok 1 thinker in this process; no price, so its cost stays unknown" in text
    monkeypatch.setenv("ODD_KEY", KEY)
    mended = invoke("check", "home")
    assert mended.exit_code == 0
    assert "live: needs --live" in mended.stdout
    assert KEY not in mended.output


def test_a_check_finds_unknown_providers_and_those_of_other_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "odd.toml"
    path.write_text('name = "odd"\n[[agents]]\nslot = 0\nname = "a"\nprovider = "odd"\nmodel = "streams"\n')
    result = invoke("check", path)
    assert result.exit_code == 3
    assert "no provider 'odd'; there are: anthropic" in result.stdout
    install_odd_providers(tmp_path, monkeypatch)
    assert invoke("check", path).exit_code == 0


def test_the_pool_in_the_help_is_one() -> None:
    text = invoke("--help").stdout
    example = text[text.index("name = ") : text.index("Examples:")]
    pool = parse_pool(tomllib.loads(example), "help", Path())
    assert (pool.name, len(pool)) == ("home", 1)
    assert {f"{name} =" in example for name in Agent.__dataclass_fields__} == {True}
    assert all(name in example for name in BUILT_IN)


@pytest.mark.parametrize("verb", ["show", "check"])
def test_a_pool_that_is_none_is_a_usage_error(verb: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(HOME.replace("env:ODD_KEY", KEY))
    for name, fragment in {"nowhere": "no pool 'nowhere'", str(path): "agents.0.api_key: a pool never holds"}.items():
        result = invoke(verb, name)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.startswith("error: ")
        assert fragment in result.stderr
        assert KEY not in result.output

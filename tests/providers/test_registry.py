"""Providers by name: ours, those of other packages, and what is said where one is missing."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from trinity_mlx.contracts.errors import EnvironmentUnavailable, PoolInvalid
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.files.shipped import data_path
from trinity_mlx.providers.registry import ENTRY_POINT_GROUP, Row, make_provider, provider_names, row_of
from trinity_mlx.providers.scripted import Scripted

NANO = data_path("fixtures") / "artifacts" / "nano" / "base"
OURS = ("anthropic", "any-llm", "local", "openai-compatible", "scripted")


def offer(folder: Path, **points: str) -> None:
    """Install a package's metadata in ``folder``, with entry points for providers."""
    info = folder / "acme-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("[trinity_mlx.providers]\n" + "\n".join(lines))


def test_there_are_five_of_ours() -> None:
    assert provider_names() == OURS


@pytest.mark.parametrize("name", OURS)
def test_what_is_known_of_ours_before_they_are_made_is_true_of_them_afterwards(name: str) -> None:
    fields = {"scripted": {"extra": {"replies": [{"text": "x"}]}}, "local": {"model": str(NANO)}}
    agent = Agent(0, "a", name, **{"model": "openai:m", **fields.get(name, {})})  # type: ignore[arg-type]
    assert row_of(name).is_offline is not make_provider(agent).is_live


def test_nothing_is_known_of_another_packages_provider_before_it_is_made() -> None:
    assert row_of("acme") == Row()


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(PoolInvalid, match=f"agent 'a': no provider 'openai'; there are: {', '.join(OURS)}"):
        make_provider(Agent(0, "a", "openai"))


def test_another_package_may_offer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(tmp_path, acme="acme_trinity:make_provider", broken="no_such_module:make", odd="acme_trinity:no_such_name")
    (tmp_path / "acme_trinity.py").write_text("def make_provider(agent, api_key):\n    return (agent.name, api_key)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert set(provider_names()) == {*OURS, "acme", "broken", "odd"}
    assert make_provider(Agent(0, "a", "acme"), "key") == ("a", "key")
    for name in ("broken", "odd"):
        with pytest.raises(EnvironmentUnavailable, match=f"provider '{name}' .*cannot be imported"):
            make_provider(Agent(0, "a", name))


def test_no_package_takes_over_a_name_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(tmp_path, scripted="acme:make")
    monkeypatch.syspath_prepend(tmp_path)
    assert [point.dist.name for point in entry_points(group=ENTRY_POINT_GROUP, name="scripted") if point.dist] == [
        "acme"
    ]
    made = make_provider(Agent(0, "a", "scripted", extra={"replies": [{"text": "x"}]}))
    assert isinstance(made, Scripted)


@pytest.mark.parametrize(
    ("provider", "package", "remedy"),
    [
        ("anthropic", "anthropic", "pip install 'trinity-mlx[anthropic]'"),
        ("any-llm", "any_llm", "pip install 'trinity-mlx[any-llm]'"),
        ("openai-compatible", "openai", "reinstall trinity-mlx"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(provider: str, package: str, remedy: str) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
from trinity_mlx.contracts.errors import EnvironmentUnavailable
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.providers.registry import make_provider
try:
    make_provider(Agent(0, "a", {provider!r}))
except EnvironmentUnavailable as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"provider '{provider}' needs a package that is not installed" in result.stdout
    assert remedy in result.stdout

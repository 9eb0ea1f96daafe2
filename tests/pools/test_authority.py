"""Governed runs: what an authority's file may hold, and that it rules alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import AuthorityInvalid, LiveCallRefused, SecretUnavailable
from trinity_mlx.pools.authority import REFS, Authority, read_authority
from trinity_mlx.rules.budgets import Limits
from trinity_mlx.runs.coordinator import Coordinator, TraceFile
from trinity_mlx.runs.result import RunStatus
from trinity_mlx.tracing.reader import read_trace

from ..evaluation_cases import attempt
from ..run_cases import TEAM, install_odd_providers

KEY = "odd-key-3141592653"


def document(**changes: Any) -> dict[str, Any]:
    agents = [
        {"slot": 0, "name": "solver", "provider": "scripted", "extra": {"replies": [{"text": "42"}]}},
        {"slot": 1, "name": "checker", "provider": "scripted", "extra": {"replies": [{"text": "ACCEPT"}]}},
    ]
    refs = {name: f"{name}-1" for name in REFS}
    return {**refs, "pool": {"name": "governed", "agents": agents}, "limits": {"provider_calls": 5}, **changes}


def write(path: Path, content: Any) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(AuthorityInvalid) as caught:
        read_authority(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_gives_references_pool_and_limits(tmp_path: Path) -> None:
    authority = read_authority(write(tmp_path / "a.json", document()))
    assert authority.refs == {name: f"{name}-1" for name in REFS}
    assert [agent.name for agent in authority.pool.agents] == ["solver", "checker"]
    assert authority.limits == Limits(provider_calls=5)


def test_limits_may_be_left_out(tmp_path: Path) -> None:
    held = document()
    del held["limits"]
    assert read_authority(write(tmp_path / "a.json", held)).limits == Limits()


def test_every_event_of_a_governed_run_carries_the_references(tmp_path: Path) -> None:
    authority = read_authority(write(tmp_path / "a.json", document()))
    path = tmp_path / "trace.jsonl"
    with Coordinator.governed(TEAM, authority, trace=TraceFile(path)) as coordinator:  # type: ignore[arg-type]
        assert coordinator.run("6 * 7?").status is RunStatus.ACCEPTED
    (run,) = read_trace(path).runs
    assert len(run.lines) == 10
    assert all(line["refs"] == authority.refs for line in run.lines)
    assert run.lines[0]["pool"] == "governed"
    assert run.lines[0]["limits"] == {"provider_calls": 5}


def test_its_limits_hold(tmp_path: Path) -> None:
    authority = read_authority(write(tmp_path / "a.json", document(limits={"provider_calls": 1})))
    with Coordinator.governed(TEAM, authority) as coordinator:  # type: ignore[arg-type]
        result = coordinator.run("6 * 7?")
    assert (result.exit_code, result.answer) == (6, "42")


def test_keys_come_from_files_alone_and_live_calls_still_need_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_odd_providers(tmp_path, monkeypatch)
    held = document()
    held["pool"]["agents"][0] |= {
        "provider": "odd",
        "model": "echoes_key",
        "extra": {},
        "api_key": f"file:{tmp_path}/key",
    }
    authority = read_authority(write(tmp_path / "a.json", held))
    with pytest.raises(SecretUnavailable, match="agent 'solver' of pool 'governed': the key file"):
        Coordinator.governed(TEAM, authority, live=True)  # type: ignore[arg-type]
    (tmp_path / "key").write_text(KEY)
    with Coordinator.governed(TEAM, authority) as coordinator, pytest.raises(LiveCallRefused):  # type: ignore[arg-type]
        coordinator.run("6 * 7?")
    with Coordinator.governed(TEAM, authority, live=True) as coordinator:  # type: ignore[arg-type]
        result = coordinator.run("6 * 7?")
    assert result.turns[0].fallback_from == 0
    assert KEY not in str(result)


def test_a_key_from_the_environment_is_refused(tmp_path: Path) -> None:
    held = document()
    held["pool"]["agents"][1]["api_key"] = "env:ODD_KEY"
    message = refusal(write(tmp_path / "a.json", held))
    assert "agent 'checker' takes its key from the environment" in message
    assert "give a file: reference" in message


def test_relative_paths_start_at_its_folder(tmp_path: Path) -> None:
    held = document()
    held["pool"]["agents"][0]["extra"] = {"script": "script.toml"}
    pool = read_authority(write(tmp_path / "a.json", held)).pool
    assert pool.agents[0].extra["script"] == str(tmp_path.resolve() / "script.toml")


@pytest.mark.parametrize("name", [*REFS, "pool"])
def test_nothing_but_the_limits_may_be_missing_or_of_another_kind(name: str, tmp_path: Path) -> None:
    held = document()
    del held[name]
    assert f"{name} is missing" in refusal(write(tmp_path / "a.json", held))
    for value in (None, 5, [], ""):
        assert f": {name}" in refusal(write(tmp_path / "a.json", document(**{name: value})))


@pytest.mark.parametrize("blank", ["", "  ", "\n"])
def test_a_reference_is_not_blank(blank: str, tmp_path: Path) -> None:
    assert "authority_ref: " in refusal(write(tmp_path / "a.json", document(authority_ref=blank)))


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"api_key": "x"}, "api_key: there is no such setting"),
        ({"limits": {"calls": 5}}, "limits: no limit 'calls': there are wall_time_s, provider_calls"),
        ({"limits": {"tokens": 1.5}}, "limits: limit tokens is 1.5: it must be a whole number above 0"),
        ({"limits": {"tokens": 0}}, "limit tokens is 0"),
        ({"limits": {"wall_time_s": -1}}, "limit wall_time_s is -1"),
        ({"limits": {"wall_time_s": float("nan")}}, ": Input should be a finite number, not nan"),
        ({"limits": {"wall_time_s": float("inf")}}, ": Input should be a finite number, not inf"),
        ({"limits": {"tokens": True}}, "limits.tokens"),
        ({"limits": {"tokens": "5"}}, "limits.tokens"),
        ({"limits": {"tokens": None}}, "limits.tokens"),
        ({"limits": {"wall_time_s": 10**400}}, "limits: "),
        ({"limits": []}, "limits: "),
        ({"pool": {"name": "x", "agents": []}}, "pool: agents: "),
        ({"pool": {"name": "x", "agents": [{"slot": 0, "name": "a"}]}}, "pool: agents.0.provider is missing"),
        ({"pool": "demo"}, "pool: "),
    ],
)
def test_a_fault_is_named_with_its_place(change: dict[str, Any], fragment: str, tmp_path: Path) -> None:
    assert fragment in refusal(write(tmp_path / "a.json", document(**change)))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"[" * 100_000, b'{"a": ' * 100_000, b'{"a": 1, "a": 2}', b"9" * 5000],
)
def test_what_is_no_object_of_json_is_said_so(content: bytes, tmp_path: Path) -> None:
    refusal(write(tmp_path / "a.json", content))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nowhere.json")
    assert "Is a directory" in refusal(tmp_path)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([10**400, "\ud800", "~x/y"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any) -> list[Any]:
    """Every list and object in ``value``, itself included."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [place for each in inner for place in places(each)] + ([value] if isinstance(value, dict | list) else [])


@given(st.data())
def test_a_mutated_file_is_an_authority_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    held = copy.deepcopy(document(limits={"wall_time_s": 1.5, "tokens": 5}))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places(held)))
        names = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not names:
            continue
        name = data.draw(st.sampled_from(names))
        removes = data.draw(st.booleans())
        if removes:
            del place[name]
        else:
            place[name] = data.draw(VALUES)
    path = write(tmp_path_factory.getbasetemp() / "mutated.json", held)
    assert is_authority_or_refused(path)


@given(st.binary(max_size=100), st.integers(0, 600))
def test_damaged_bytes_are_an_authority_or_refused(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, place: int
) -> None:
    raw = json.dumps(document()).encode()
    path = write(tmp_path_factory.getbasetemp() / "damaged.json", raw[:place] + noise + raw[place + len(noise) :])
    assert is_authority_or_refused(path)


def is_authority_or_refused(path: Path) -> bool:
    outcome = attempt(lambda: read_authority(path))
    return isinstance(outcome, Authority) or (isinstance(outcome, AuthorityInvalid) and str(path) in str(outcome))

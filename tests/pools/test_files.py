"""Pools from TOML: everything an agent can say, what is refused and how, and that no key is ever repeated."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import PoolInvalid
from trinity_mlx.contracts.pool import ALL_ROLES, Agent, Pool, Price
from trinity_mlx.contracts.routing import Role, Window
from trinity_mlx.pools.files import DEMO, find_pool, parse_pool, pool_names, read_pool
from trinity_mlx.providers.registry import make_provider

from ..evaluation_cases import attempt

KEY = "sk-31415926535897932384"
FULL = """
name = "home"
[[agents]]
slot = 1
name = "solver"
provider = "openai-compatible"
model = "qwen3:32b"
base_url = "http://127.0.0.1:11434/v1"
api_key = "env:HOME_KEY"
timeout_s = 30
max_tokens = 100
temperature = 0
price = { input = 0.5, output = 2 }
roles = ["worker", "verifier"]
accepts = ["images", "tools"]
proxy = "http://10.0.0.1:3128"
extra = { top_p = 0.9, stop = ["\\n"], nested = { deep = true } }

[[agents]]
slot = 0
name = "other"
provider = "acme"
"""


def agent(**changes: Any) -> dict[str, Any]:
    values = {"slot": 0, "name": "a", "provider": "scripted"} | changes
    return {name: value for name, value in values.items() if value is not ...}


def table(*agents: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"name": "mine", "agents": list(agents) or [agent()]} | changes


def parsed(document: dict[str, Any]) -> Pool:
    return parse_pool(document, "pool.toml", Path("/folder"))


def refusal(document: dict[str, Any]) -> str:
    with pytest.raises(PoolInvalid) as caught:
        parsed(document)
    return str(caught.value)


def test_a_file_says_everything_about_its_agents(tmp_path: Path) -> None:
    path = tmp_path / "home.toml"
    path.write_text(FULL)
    assert read_pool(path) == Pool(
        "home",
        (
            Agent(0, "other", "acme", "", None, None, 60.0, 4096, None, {}, None, ALL_ROLES),
            Agent(
                slot=1,
                name="solver",
                provider="openai-compatible",
                model="qwen3:32b",
                base_url="http://127.0.0.1:11434/v1",
                api_key="env:HOME_KEY",
                timeout_s=30.0,
                max_tokens=100,
                temperature=0.0,
                extra={"top_p": 0.9, "stop": ["\n"], "nested": {"deep": True}},
                price=Price(0.5, 2.0),
                roles=frozenset({Role.WORKER, Role.VERIFIER}),
                accepts=("tools", "images"),
                proxy="http://10.0.0.1:3128",
            ),
        ),
    )


def test_the_shipped_pool_has_an_agent_for_each_of_nanos_slots_that_can_be_made() -> None:
    pool = find_pool(DEMO)
    assert [each.slot for each in pool.agents] == list(range(7))
    assert all(make_provider(each).is_live is False for each in pool.agents)


def test_a_users_own_pool_goes_before_a_shipped_one_and_is_listed(tmp_path: Path) -> None:
    folder = tmp_path / "pools"
    folder.mkdir()
    for name in (DEMO, "home"):
        (folder / f"{name}.toml").write_text(FULL)
    assert find_pool(DEMO, tmp_path).name == "home"
    assert find_pool(DEMO).name == DEMO
    assert pool_names(tmp_path) == [DEMO, "home"]
    assert pool_names() == pool_names(tmp_path / "nowhere") == [DEMO]


def test_a_file_is_found_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home.toml").write_text(FULL)
    monkeypatch.chdir(tmp_path)
    assert find_pool("home.toml") == find_pool(tmp_path / "home.toml")


@pytest.mark.parametrize(
    "name", ["nowhere", "", ".", "nul\0", "~no-such-user/pool.toml", "x" * 300, "../nowhere", "\ud800"]
)
def test_a_name_that_is_none_lists_what_there_is(name: str) -> None:
    with pytest.raises(PoolInvalid, match=r"no pool .*: name a TOML file, or one of .*: demo"):
        find_pool(name)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "home.toml"
    path.write_text(FULL)
    path.chmod(0)
    with pytest.raises(PoolInvalid, match="Permission denied"):
        find_pool(path)


@pytest.mark.parametrize(
    "content", [b"name = ", b"\xff", b"[" * 5000, b"a = " + b"[" * 5000, b"a = " + b"9" * 5000, b"a = 1\na = 2", b"\0"]
)
def test_what_is_no_toml_is_said_so(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "pool.toml"
    path.write_bytes(content)
    with pytest.raises(PoolInvalid, match=r"pool\.toml"):
        read_pool(path)


def test_relative_paths_start_at_the_pools_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home-of-mine")
    found = {}
    for name, path in {
        "near": "s.toml",
        "far": "/far/s.toml",
        "home": "~/s.toml",
        "odd": "~no-such-user/s.toml",
    }.items():
        scripted = parse_pool(table(agent(extra={"script": path})), "pool.toml", tmp_path).agents[0].extra["script"]
        local = parse_pool(table(agent(provider="local", model=path)), "pool.toml", tmp_path).agents[0].model
        assert scripted == local
        found[name] = local
    assert found["near"] == str(tmp_path.resolve() / "s.toml")
    assert found["far"] == "/far/s.toml"
    assert found["home"] == "/home-of-mine/s.toml"
    assert found["odd"] == str(tmp_path.resolve() / "~no-such-user/s.toml")


def test_other_providers_models_are_no_paths() -> None:
    assert parsed(table(agent(provider="openai-compatible", model="org/model"))).agents[0].model == "org/model"


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"slot": -1}, "agents.0.slot: "),
        ({"slot": True}, "agents.0.slot: "),
        ({"slot": 0.0}, "agents.0.slot: "),
        ({"slot": "0"}, "agents.0.slot: "),
        ({"slot": ...}, "agents.0.slot is missing"),
        ({"name": ...}, "agents.0.name is missing"),
        ({"name": ""}, "one line of printable text"),
        ({"name": "a\x1b[2J"}, "one line of printable text"),
        ({"name": "a\nb"}, "one line of printable text"),
        ({"name": " a"}, "without space around it"),
        ({"provider": ""}, "agents.0.provider: "),
        ({"timeout_s": 0}, "agents.0.timeout_s: "),
        ({"timeout_s": True}, "agents.0.timeout_s: "),
        ({"timeout_s": 1e300}, "agents.0.timeout_s: "),
        ({"max_tokens": 2**70}, "agents.0.max_tokens: "),
        ({"price": {"input": 1e308, "output": 0}}, "agents.0.price.input: "),
        ({"name": "a" * 100_000}, "agents.0.name: "),
        ({"accepts": ["sound"]}, "agents.0.accepts.0: "),
        ({"proxy": "http://user:secret@host:3128"}, "agents.0.proxy: a pool never holds a key"),
        ({"proxy": "host:3128"}, "agents.0.proxy: "),
        ({"timeout_s": "60"}, "agents.0.timeout_s: "),
        ({"timeout_s": float("inf")}, "agents.0.timeout_s: "),
        ({"max_tokens": 0}, "agents.0.max_tokens: "),
        ({"max_tokens": 1.5}, "agents.0.max_tokens: "),
        ({"temperature": -0.1}, "agents.0.temperature: "),
        ({"temperature": float("nan")}, "agents.0.temperature: "),
        ({"base_url": "localhost:8000"}, "agents.0.base_url: "),
        ({"base_url": "ftp://host/v1"}, "agents.0.base_url: "),
        ({"base_url": "file:///etc/passwd"}, "agents.0.base_url: "),
        ({"price": {"input": 1.0}}, "agents.0.price.output is missing"),
        ({"price": {"input": -1.0, "output": 1.0}}, "agents.0.price.input: "),
        ({"roles": []}, "agents.0.roles: "),
        ({"roles": ["Worker"]}, "agents.0.roles.0: Input should be 'worker', 'thinker' or 'verifier'"),
        ({"roles": ["thinker", "verifier"]}, "no agent may be a Worker"),
        ({"extra": {"top_p": float("nan")}}, ": Input should be a finite number, not nan"),
        ({"extra": []}, "agents.0.extra: "),
        ({"extra": {"api_key": KEY}}, "agents.0.extra: a pool never holds a key"),
        ({"extra": {"headers": [{"Authorization": KEY}]}}, "agents.0.extra: a pool never holds a key"),
        ({"temprature": 0.5}, "agents.0.temprature: there is no such setting"),
    ],
)
def test_a_fault_is_named_with_its_place(change: dict[str, Any], fragment: str) -> None:
    message = refusal(table(agent(**change)))
    assert message.startswith("pool.toml: ")
    assert fragment in message
    assert "Value error" not in message


def test_dates_do_not_go_into_requests(tmp_path: Path) -> None:
    path = tmp_path / "pool.toml"
    path.write_text('name = "x"\n[[agents]]\nslot = 0\nname = "a"\nprovider = "p"\nextra = { when = 2026-01-02 }\n')
    with pytest.raises(PoolInvalid, match=r"agents\.0\.extra\.when"):
        read_pool(path)


@pytest.mark.parametrize(
    ("document", "fragment"),
    [
        ({}, "name is missing"),
        (table(name=5), "name: "),
        (table(agents=[]), "agents: "),
        (table(agents={}), "agents: "),
        (table(secret=KEY), "secret: there is no such setting"),
        (table(agent(slot=1)), "slots are 1: they must run from 0 to 0, each once"),
        (table(agent(), agent(name="b")), "slots are 0, 0: they must run from 0 to 1, each once"),
        (table(agent(), agent(slot=2, name="b")), "slots are 0, 2"),
        (table(agent(), agent(slot=1)), "two agents are called 'a': give each a name of its own"),
    ],
)
def test_a_pool_holds_together(document: dict[str, Any], fragment: str) -> None:
    assert fragment in refusal(document)


@pytest.mark.parametrize("reference", ["env:HOME_KEY", "env:_k1", "file:/run/secrets/key", "file:key", "file:~/a b"])
def test_references_to_keys_are_kept_as_they_are(reference: str) -> None:
    assert parsed(table(agent(api_key=reference))).agents[0].api_key == reference


@pytest.mark.parametrize(
    "value",
    [KEY, f"env:{KEY}", f"Bearer {KEY}", f"ENV:{KEY}", f"https://{KEY}", "env:", "file:", "", " env:A", "env:A "],
)
def test_a_key_in_place_of_its_reference_is_refused_and_not_repeated(value: str) -> None:
    message = refusal(table(agent(api_key=value)))
    assert "a pool never holds a key: give a reference such as env:NAME" in message
    assert KEY not in message


@pytest.mark.parametrize("url", [f"https://user:{KEY}@host/v1", f"https://{KEY}@host/v1"])
def test_a_key_in_an_address_is_refused_and_not_repeated(url: str) -> None:
    message = refusal(table(agent(base_url=url)))
    assert "take user and password out of the address" in message
    assert KEY not in message


PLACES = ["slot", "name", "provider", "model", "base_url", "api_key", "timeout_s", "max_tokens", "temperature", "price"]


@given(st.sampled_from([*PLACES, "roles", "extra"]), st.sampled_from(PLACES), st.text("abc019-_.", min_size=16))
def test_no_message_repeats_a_key_wherever_it_stands(place: str, other: str, tail: str) -> None:
    key = f"sk-{tail}"
    values = agent(**{other: [key]}) | {place: {"input": key, "output": key} if place == "price" else key}
    outcome = attempt(lambda: parsed(table(values, agent(slot=1, name="b"))))
    assert isinstance(outcome, Pool) or (isinstance(outcome, PoolInvalid) and key not in str(outcome))


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([10**400, KEY, "\ud800", "~x/y"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
GOOD = table(
    agent(api_key="env:KEY", price={"input": 1.0, "output": 2.0}, roles=["worker"], extra={"replies": []}),
    agent(slot=1, name="b", provider="local", model="m", base_url="http://host/v1", temperature=0.5),
)


@given(st.data())
def test_a_mutated_pool_is_a_pool_or_refused(data: st.DataObject) -> None:
    document = copy.deepcopy(GOOD)
    assert parsed(document)
    for _ in range(data.draw(st.integers(1, 3))):
        target: dict[str, Any] = data.draw(st.sampled_from([document, agent_of(document, 0), agent_of(document, 1)]))
        name = data.draw(st.sampled_from([*target, *PLACES, "agents", "other"]))
        if data.draw(st.booleans()):
            target.pop(name, None)
        else:
            target[name] = data.draw(VALUES)
    outcome = attempt(lambda: parsed(document))
    if isinstance(outcome, Pool):
        assert [each.slot for each in outcome.agents] == list(range(len(outcome)))
    else:
        assert isinstance(outcome, PoolInvalid)
        assert str(outcome).startswith("pool.toml: ")


def agent_of(document: dict[str, Any], index: int) -> dict[str, Any]:
    """The agent at ``index``, or an empty one where a mutation took it away."""
    agents = document.get("agents")
    found = agents[index] if isinstance(agents, list) and index < len(agents) else None
    return found if isinstance(found, dict) else {}


@given(st.binary(max_size=200), st.integers(0, len(FULL)))
def test_damaged_bytes_are_a_pool_or_refused(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, place: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.toml"
    raw = FULL.encode()
    path.write_bytes(raw[:place] + noise + raw[place + len(noise) :])
    outcome = attempt(lambda: read_pool(path))
    assert isinstance(outcome, Pool) or (isinstance(outcome, PoolInvalid) and "damaged.toml" in str(outcome))


def test_a_pool_may_bring_a_reading_window() -> None:
    assert parsed(table()).window is None
    assert parsed(table(window={"head": 100, "tail": 900})).window == Window(100, 900, 256)
    assert "step at least 1" in refusal(table(window={"head": 100, "tail": 10}))
    assert "window" in refusal(table(window={"head": 100}))

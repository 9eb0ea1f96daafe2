"""Pools from TOML files: shipped ones, a user's own in the configuration folder, or any file.

name = "home"
[[agents]]
slot = 0
name = "solver"
provider = "openai-compatible"
model = "qwen3:32b"
base_url = "http://127.0.0.1:11434/v1"
api_key = "env:HOME_KEY"                  # optional; env:NAME or file:/path, never the key itself
timeout_s = 60
max_tokens = 4096
temperature = 0.2
price = { input = 0.0, output = 0.0 }     # USD per million tokens
roles = ["worker", "verifier"]            # optional; all three where it is left out
accepts = ["tools", "images"]             # what the model understands besides text; nothing where it is left out
proxy = "http://10.0.0.1:3128"            # optional; calls go through it, and no variable of the environment names one
extra = { top_p = 0.9 }                   # goes into the provider's request as it is
[window]                                  # optional: how the router reads long conversations for this pool, in tokens
head = 512
tail = 1536
step = 256
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, HttpUrl, JsonValue, TypeAdapter

from ..contracts.errors import PoolInvalid
from ..contracts.parts import brief
from ..contracts.pool import ACCEPTS, ALL_ROLES, Agent, Pool, Price
from ..contracts.provider import MAX_COUNT
from ..contracts.routing import Role
from ..files.models import Faults, Strict, as_model, parse_toml, read_content
from ..files.paths import expanded, is_file
from ..files.shipped import data_path
from ..profiles.registry import ReadingWindow
from ..providers.registry import row_of

DEMO = "demo"
"""The shipped pool, which answers from a script."""

_FAULTS = Faults(PoolInvalid)
_URL = TypeAdapter(HttpUrl)
_KEY_NAMES = frozenset({"api_key", "apikey", "authorization", "x_api_key"})
_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:[^\0]+")


def _checked_name(text: str) -> str:
    if not text.isprintable() or text != text.strip() or not text:
        raise ValueError("a name is one line of printable text, without space around it")
    return text


def _checked_url(text: str) -> str:
    url = _URL.validate_python(text)
    if url.username or url.password:
        raise ValueError("a pool never holds a key: take user and password out of the address")
    return text


def _checked_reference(text: str) -> str:
    if not _REFERENCE.fullmatch(text):
        raise ValueError("a pool never holds a key: give a reference such as env:NAME or file:/path/to/key")
    return text


def _checked_extra(values: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if _KEY_NAMES.intersection(name.lower().replace("-", "_") for name in _names_in(values)):
        raise ValueError("a pool never holds a key: name where it is with the agent's api_key")
    return values


def _names_in(value: JsonValue) -> Iterator[str]:
    inner: Iterable[JsonValue] = ()
    if isinstance(value, dict):
        yield from value
        inner = value.values()
    elif isinstance(value, list):
        inner = value
    for each in inner:
        yield from _names_in(each)


Name = Annotated[str, Field(max_length=200), AfterValidator(_checked_name)]
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class _Price(Strict):
    input: Amount
    output: Amount


class _Agent(Strict):
    slot: Annotated[int, Field(ge=0)]
    name: Name
    provider: Name
    model: Annotated[str, Field(max_length=4096)] = ""
    base_url: Annotated[str, AfterValidator(_checked_url)] | None = None
    api_key: Annotated[str, AfterValidator(_checked_reference)] | None = None
    timeout_s: Positive = 60.0
    max_tokens: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 4096
    temperature: Amount | None = None
    extra: Annotated[dict[str, JsonValue], AfterValidator(_checked_extra)] = Field(default_factory=dict)
    price: _Price | None = None
    roles: Annotated[list[Literal["worker", "thinker", "verifier"]], Field(min_length=1)] | None = None
    accepts: list[Literal["tools", "images"]] = Field(default_factory=list)
    proxy: Annotated[str, AfterValidator(_checked_url)] | None = None


class _Pool(Strict):
    name: Name
    agents: Annotated[list[_Agent], Field(min_length=1)]
    window: ReadingWindow | None = None


def find_pool(name: str | Path, config_dir: Path | None = None) -> Pool:
    """The pool of that name (the user's own before a shipped one), or the pool in a file.

    Raises:
        PoolInvalid: there is none, or it does not describe a pool.
    """
    for folder in _folders(config_dir):
        path = folder / f"{name}.toml"
        if is_file(path):
            return read_pool(path)
    path = Path(name)
    if not is_file(path):
        known = ", ".join(pool_names(config_dir))
        raise PoolInvalid(f"no pool {brief(str(name))}: name a TOML file, or one of the pools that are here: {known}")
    return read_pool(path)


def pool_names(config_dir: Path | None = None) -> list[str]:
    """Names of all pools that need no path."""
    return sorted({path.stem for folder in _folders(config_dir) for path in folder.glob("*.toml")})


def read_pool(path: Path) -> Pool:
    """The pool in a TOML file; relative paths in it are taken from its folder.

    Raises:
        PoolInvalid: the file cannot be read or does not describe a pool.
    """
    return parse_pool(parse_toml(read_content(path, _FAULTS), str(path), _FAULTS), str(path), path.parent)


def parse_pool(table: Mapping[str, Any], origin: str, folder: Path) -> Pool:
    """The pool in ``table``; ``origin`` names it in messages, ``folder`` is where relative paths start.

    Raises:
        PoolInvalid: it does not describe a pool.
    """
    document = as_model(table, _Pool, origin, _FAULTS)
    agents = sorted(document.agents, key=lambda agent: agent.slot)
    window = document.window.window if document.window else None
    pool = Pool(document.name, tuple(_agent(agent, folder.resolve()) for agent in agents), window)
    check_agents(pool.agents, origin)
    return pool


def check_agents(agents: Sequence[Agent], origin: str) -> None:
    """Hold agents against what makes them a pool: slots from 0 in order, names of their own, somebody to answer.

    Raises:
        PoolInvalid: they are none; ``origin`` names them in the message.
    """
    slots, names = [agent.slot for agent in agents], [agent.name for agent in agents]
    if slots != list(range(len(slots))):
        given = ", ".join(map(str, slots))
        raise PoolInvalid(f"{origin}: slots are {given}: they must run from 0 to {len(slots) - 1}, each once")
    for name in names:
        if names.count(name) > 1:
            raise PoolInvalid(f"{origin}: two agents are called {name!r}: give each a name of its own")
    if not any(Role.WORKER in agent.roles for agent in agents):
        raise PoolInvalid(f"{origin}: no agent may be a Worker, so nobody can answer: allow that role to one")


def _folders(config_dir: Path | None) -> list[Path]:
    return [*([config_dir / "pools"] if config_dir else []), data_path("fixtures", "pools")]


def _agent(agent: _Agent, folder: Path) -> Agent:
    values = agent.model_dump(exclude={"price", "roles", "accepts"})
    for path in row_of(agent.provider).paths:
        place, _, name = path.rpartition(".")
        table = values[place] if place else values
        if isinstance(table.get(name), str) and table[name]:
            table[name] = str(folder / expanded(table[name]))
    return Agent(
        **values,
        price=Price(agent.price.input, agent.price.output) if agent.price else None,
        roles=frozenset(Role[role.upper()] for role in agent.roles) if agent.roles else ALL_ROLES,
        accepts=tuple(each for each in ACCEPTS if each in agent.accepts),
    )

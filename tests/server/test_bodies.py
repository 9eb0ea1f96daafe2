"""Bodies that nobody should send: generated ones, and recorded real ones with something changed.

Short in every test run; ``pytest tests/server/test_bodies.py -m slow --bodies 100000`` takes as many as are asked for,
half of each kind, and ``--bodies-seed`` others.
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from .serving import Direct, Team, by_role, calls_reply, team

PATHS = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/responses/compact",
    "/v1/route",
)
RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))
"""What real clients sent, cut down: no secret, no path of a machine, long texts shortened."""

WORDS = st.sampled_from(
    [
        *(
            "model",
            "messages",
            "input",
            "tools",
            "tool_choice",
            "stream",
            "role",
            "content",
            "type",
            "text",
            "name",
            "id",
        ),
        *("function", "parameters", "arguments", "call_id", "tool_call_id", "tool_use_id", "output", "system", "stop"),
        *("response_format", "json_schema", "schema", "metadata", "max_tokens", "temperature", "previous_response_id"),
        *(
            "instructions",
            "reasoning",
            "summary",
            "image_url",
            "url",
            "source",
            "data",
            "format",
            "stop_sequences",
            "n",
        ),
        *("tool_calls", "input_schema", "thinking", "store", "stream_options", "include_usage", "seed", "top_p"),
        *("user", "assistant", "tool", "developer", "message", "function_call", "function_call_output", "custom"),
        *("input_text", "output_text", "tool_use", "tool_result", "namespace", "item_reference", "compaction"),
        *("trinity", "trinity-live", "trinity-route", "trinity:slot=0", "auto", "required", "none", "data:;base64,"),
        *("https://x", "object", "string", "$ref", "#", "", "\x00", "é", "\U0001f600"),
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=20)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5), max_leaves=25
)
BODIES = st.dictionaries(WORDS, VALUES, max_size=8)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@dataclass
class Served:
    """One server for all bodies, which keeps none of them."""

    team: Team
    send: Direct

    @classmethod
    def of(cls, team: Team) -> Served:
        return cls(team, Direct(team))

    def forget(self) -> None:
        for talker in self.team.talkers.values():
            talker.requests.clear()


@pytest.fixture(scope="module")
def served() -> Served:
    return Served.of(team(by_role(lambda request: calls_reply(("look", {})) if request.tools else "The answer is 42.")))


async def check(served: Served, path: str, body: Any) -> int:
    """Send a body; whatever it is, the answer is one of the interface's, and never a 500."""
    try:
        content = json.dumps(body).encode()
    except (ValueError, RecursionError):
        return 0
    answered = await served.send(path, content)
    served.forget()
    assert answered.status in (200, 400, 404, 502), (path, body, answered.body[:500])
    assert answered.status != 502 or answered.json["error"]["code"] == "invalid_response_format"
    assert b"Traceback" not in answered.body
    if answered.status != 200:
        assert answered.json["error"]["message"]
    elif answered.headers["content-type"] == "application/json":
        assert isinstance(answered.json, dict)
    else:
        assert answered.events
    return answered.status


def count_of(request: pytest.FixtureRequest) -> int:
    """How many of each of the two kinds."""
    return int(request.config.getoption("--bodies", default=2_000)) // 2


def seed_of(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--bodies-seed", default=11))


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODIES, path=st.sampled_from(PATHS))
def test_generated_bodies(body: dict[str, Any], path: str, loop: asyncio.Runner, served: Served) -> None:
    loop.run(check(served, path, body))


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_generated_bodies(request: pytest.FixtureRequest, served: Served) -> None:
    logging.disable(logging.INFO)
    with asyncio.Runner() as runner:

        @seed(seed_of(request))
        @settings(max_examples=count_of(request), deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(body=BODIES, path=st.sampled_from(PATHS))
        def one(body: dict[str, Any], path: str) -> None:
            runner.run(check(served, path, body))

        one()
    logging.disable(logging.NOTSET)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a body."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    1e308,
    "",
    "x" * 5_000,
    "\x00",
    [],
    {},
    [[]],
    {"type": "text"},
    [None],
    "data:,",
)


def mutated(body: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A body with one to three places changed: replaced, removed, doubled, or moved under another name."""
    changed = copy.deepcopy(body)
    for _ in range(draw.randint(1, 3)):
        path = draw.choice(list(places(changed)) or [("model",)])
        target: Any = changed
        for key in path[:-1]:
            target = target[key]
        match draw.randint(0, 3):
            case 0:
                target[path[-1]] = copy.deepcopy(draw.choice(ODD))
            case 1:
                del target[path[-1]]
            case 2 if isinstance(target, list):
                target.append(copy.deepcopy(target[path[-1]]))
            case _ if isinstance(target, dict):
                target[draw.choice(["type", "role", "content", "name", "id", "text"])] = target[path[-1]]
    return changed


async def mutate(served: Served, count: int, number: int) -> list[int]:
    draw, seen = random.Random(number), []
    originals = [json.loads(place.read_text()) for place in RECORDED]
    for _ in range(count):
        original = draw.choice(originals)
        seen.append(await check(served, original["path"].partition("?")[0], mutated(original["body"], draw)))
    return seen


def test_recorded_bodies_with_something_changed(loop: asyncio.Runner, served: Served) -> None:
    statuses = loop.run(mutate(served, 150, 7))
    assert 200 in statuses
    assert 400 in statuses


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_recorded_bodies_with_something_changed(request: pytest.FixtureRequest, served: Served) -> None:
    logging.disable(logging.INFO)
    asyncio.run(mutate(served, count_of(request), seed_of(request)))
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("place", RECORDED, ids=lambda place: place.stem)
def test_recorded_bodies_are_answered(place: Path, loop: asyncio.Runner) -> None:
    recorded = json.loads(place.read_text())
    assert loop.run(check(Served.of(team()), recorded["path"].partition("?")[0], recorded["body"])) == 200

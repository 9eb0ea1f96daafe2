"""Answers of any shape: a reply that can be written down, or one of our errors, and never anything else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import ProviderError, ReplyInvalid
from trinity_mlx.contracts.plain import from_plain, to_plain
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.contracts.provider import Reply
from trinity_mlx.providers.answers import checked_reply
from trinity_mlx.providers.wire import anthropic_reply, openai_reply
from trinity_mlx.providers.wire.failures import Callee

from ..provider_server import Received, Said, answer_of, events_of

CALLEE = Callee(Agent(0, "a", "any", "m"))
SAID = [
    Said("It is 42."),
    Said("I look.", (("c1", "look_up", '{"q": [1, {"a": null}]}'), ("c2", "now", "{}")), finish="tool_calls"),
    Said(None, refusal="No."),
]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(2**60, 2**70),
    st.floats(),
    st.text(max_size=5),
    st.just("\ud800"),
    st.just([]),
    st.just({}),
    st.lists(st.none() | st.integers() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.sampled_from(["type", "text", "index", "function", "message"]), st.integers(), max_size=2),
)
READERS: dict[str, tuple[Callable[[Callee, object], Reply], Callable[..., Any]]] = {
    "openai": (openai_reply.from_wire, openai_reply.ChunkReader),
    "anthropic": (anthropic_reply.from_wire, anthropic_reply.EventReader),
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value within ``value``."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [way for key, each in inner for way in places(each, (*path, key))]


def mutated(value: Any, changes: list[tuple[int, Any]], removes: bool) -> Any:
    """``value`` with something else at some of its places, or nothing at all."""
    value = copy.deepcopy(value)
    for number, odd in changes:
        ways = places(value)
        if not ways:
            break
        *way, last = ways[number % len(ways)]
        place = value
        for key in way:
            place = place[key]
        if removes and isinstance(place, dict):
            del place[last]
        else:
            place[last] = odd
    return value


CHANGES = st.lists(st.tuples(st.integers(0, 200), ODD), max_size=3)


def received(api: str) -> Received:
    return Received(api, "/", {}, {"model": "m", "messages": [], "stream_options": {"include_usage": True}})


def events(api: str, said: Said) -> list[Any]:
    data = [event.decode().partition("data: ")[2].strip() for event in events_of(received(api), said)]
    return [json.loads(each) for each in data if each != "[DONE]"]


def outcome_of(make: Callable[[], Reply]) -> Reply | ProviderError:
    try:
        return make()
    except ProviderError as error:
        return error


def check(make: Callable[[], Reply]) -> None:
    reply = outcome_of(make)
    if isinstance(reply, ProviderError):
        assert str(reply).isprintable()
        assert len(str(reply)) < 1000
        return
    assert checked_reply(CALLEE, reply) == reply
    assert from_plain(Reply, json.loads(json.dumps(to_plain(reply)))) == reply


@pytest.mark.parametrize("api", READERS)
@settings(max_examples=150, deadline=None)
@given(said=st.sampled_from(SAID), changes=CHANGES, removes=st.booleans())
def test_a_whole_answer_of_any_shape(api: str, said: Said, changes: list[tuple[int, Any]], removes: bool) -> None:
    answer = mutated(answer_of(received(api), said), changes, removes)
    check(lambda: READERS[api][0](CALLEE, answer))


@pytest.mark.parametrize("api", READERS)
@settings(max_examples=150, deadline=None)
@given(said=st.sampled_from(SAID), changes=CHANGES, removes=st.booleans(), order=st.randoms(use_true_random=False))
def test_a_streamed_answer_of_any_shape(
    api: str, said: Said, changes: list[tuple[int, Any]], removes: bool, order: Any
) -> None:
    pieces = mutated(events(api, said), changes, removes)
    if removes:
        order.shuffle(pieces)

    def make() -> Reply:
        reader = READERS[api][1](CALLEE, lambda text: None)
        for piece in pieces:
            reader.add(piece)
        reply: Reply = reader.reply()
        return reply

    check(make)


def test_a_providers_own_words_move_no_terminal() -> None:
    with pytest.raises(ProviderError) as caught:
        openai_reply.from_wire(CALLEE, {"error": {"message": "no \x1b[31mroom\x07 \ud800 " + "x" * 10_000}})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_half_a_character_in_an_input_is_a_broken_reply() -> None:
    block = {"type": "tool_use", "id": "c", "name": "f", "input": {"a": "\ud800"}}
    with pytest.raises(ReplyInvalid, match="lone surrogate"):
        anthropic_reply.from_wire(CALLEE, {"content": [block], "stop_reason": "tool_use"})

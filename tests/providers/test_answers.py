"""What is made of a provider's answer, whoever wrote the provider: held to its types, a refusal no failure."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import ReplyInvalid
from trinity_mlx.contracts.parts import Refusal, Text, ToolCall
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.contracts.provider import MAX_COUNT, Finish, Reply, Request, Usage, counted
from trinity_mlx.contracts.routing import Role
from trinity_mlx.contracts.transcript import Message
from trinity_mlx.providers.answers import checked_reply, finished_reply
from trinity_mlx.providers.registry import make_provider
from trinity_mlx.providers.wire.failures import Callee

CALLEE = Callee(Agent(0, "odd", "acme", "model-1"))
REPLY = Reply(Message("assistant", "42"), Finish.STOP, "m", Usage(1, 2), "req-1")
ODD: Any = object()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, REPLY),
        ({"model": None}, replace(REPLY, model="model-1")),
        ({"model": 7}, replace(REPLY, model="model-1")),
        ({"model": "m" * 10_000}, replace(REPLY, model="model-1")),
        ({"model": "m\x1b[31m"}, replace(REPLY, model="model-1")),
        ({"request_id": 7}, replace(REPLY, request_id=None)),
        ({"request_id": "a\nb"}, replace(REPLY, request_id=None)),
        ({"usage": Usage(-1, 2)}, replace(REPLY, usage=None)),
        ({"usage": Usage(1, MAX_COUNT + 1)}, replace(REPLY, usage=None)),
        ({"usage": Usage("many", None)}, replace(REPLY, usage=None)),  # type: ignore[arg-type]
        ({"usage": Usage(True, 2)}, replace(REPLY, usage=None)),
        ({"usage": (1, 2)}, replace(REPLY, usage=None)),
    ],
)
def test_what_only_describes_a_reply_is_left_out_where_it_is_unfit(changes: dict[str, Any], expected: Reply) -> None:
    assert checked_reply(CALLEE, replace(REPLY, **changes)) == expected


@pytest.mark.parametrize(
    "reply",
    [
        None,
        "42",
        replace(REPLY, message=ODD),
        replace(REPLY, message=Message("user", "42")),
        replace(REPLY, message=Message("assistant", " \n")),
        replace(REPLY, finish=ODD),
        replace(REPLY, finish="stop"),  # type: ignore[arg-type]
    ],
)
def test_a_reply_that_is_none_is_invalid(reply: object) -> None:
    with pytest.raises(ReplyInvalid, match="agent 'odd'"):
        checked_reply(CALLEE, reply)


@pytest.mark.parametrize(
    "parts", [(ToolCall("c", "f", ""),), (Refusal(""),), (Refusal("No."),), (Text("a"), ToolCall("c", "f", ""))]
)
def test_calls_and_refusals_are_replies_without_a_text(parts: Any) -> None:
    reply = replace(REPLY, message=Message("assistant", parts))
    assert checked_reply(CALLEE, reply) == reply


@given(st.one_of(st.integers(), st.floats(), st.text(max_size=3), st.none(), st.booleans()), st.integers())
def test_a_count_is_a_whole_number_in_bounds_or_it_is_none(one: Any, other: int) -> None:
    usage = counted(one, other)
    fits = type(one) is int and 0 <= one <= MAX_COUNT and 0 <= other <= MAX_COUNT
    assert usage == (Usage(one, other) if fits else None)


@given(st.lists(st.builds(Usage, st.integers(0, MAX_COUNT), st.integers(0, MAX_COUNT)), max_size=5))
def test_a_sum_of_counts_stays_in_bounds(counts: list[Usage]) -> None:
    total = sum(counts, Usage(0, 0))
    assert total.input_tokens == min(MAX_COUNT, sum(each.input_tokens for each in counts))
    assert total.output_tokens <= MAX_COUNT


@pytest.mark.parametrize(
    ("finish", "calls", "refusal", "expected"),
    [
        (Finish.STOP, True, None, Finish.TOOL_CALLS),
        (Finish.OTHER, True, None, Finish.TOOL_CALLS),
        (Finish.LENGTH, True, None, Finish.LENGTH),
        (Finish.TOOL_CALLS, False, None, Finish.OTHER),
        (Finish.STOP, False, "No.", Finish.REFUSED),
        (Finish.CONTENT_FILTER, False, None, Finish.CONTENT_FILTER),
    ],
)
def test_the_finish_is_what_the_reply_holds(finish: Finish, calls: bool, refusal: str | None, expected: Finish) -> None:
    made = [ToolCall("c", "f", "")] if calls else []
    assert finished_reply(CALLEE, "text", finish, calls=made, refusal=refusal).finish is expected


def test_a_refusal_is_given_once_and_says_nothing_against_the_provider() -> None:
    """One attempt, no error: so a caller neither repeats it nor counts it for the circuit breaker."""
    agent = Agent(0, "a", "scripted", extra={"replies": [{"refusal": "No."}]})
    reply = asyncio.run(make_provider(agent).reply(Request((Message("user", "?"),), Role.WORKER, 0)))
    assert reply.finish is Finish.REFUSED

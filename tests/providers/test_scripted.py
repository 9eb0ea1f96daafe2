"""Answers from a script: which rule is chosen, what it can state, and what is said of a script that is none."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from trinity_mlx.contracts.errors import PoolInvalid, ProviderError, ReplyInvalid
from trinity_mlx.contracts.parts import Refusal, ToolCall, ToolResult
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.contracts.provider import Finish, Reply, Request, Tool, Usage
from trinity_mlx.contracts.routing import Role
from trinity_mlx.contracts.transcript import Message
from trinity_mlx.providers.registry import make_provider
from trinity_mlx.providers.scripted import ERRORS

from ..virtual_time import run_in_virtual_time

RULES: list[dict[str, Any]] = [
    {"role": "Verifier", "turn": 3, "text": "ACCEPT"},
    {"role": "Verifier", "contains": "41", "text": "REVISE: one too few", "finish": "length"},
    {"turn": 7, "text": "late", "usage": {"input_tokens": 5, "output_tokens": 6}},
    {"role": "Thinker", "text": "<think>hm</think>Plan it."},
    {"role": "Worker", "text": "The answer is  42.\n"},
]


def agent(**extra: Any) -> Agent:
    return Agent(0, "puppet", "scripted", "script-1", extra=extra)


def request(role: Role = Role.WORKER, turn: int = 0, *contents: str) -> Request:
    return Request(tuple(Message("user", each) for each in contents or ("What is 17 + 25?",)), role, turn)


def ask(asked: Request, on_text: Any = None, **extra: Any) -> Reply:
    reply: Reply = asyncio.run(make_provider(agent(**(extra or {"replies": RULES}))).reply(asked, on_text))
    return reply


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (request(), "The answer is  42.\n"),
        (request(Role.THINKER), "Plan it."),
        (request(Role.VERIFIER, 3), "ACCEPT"),
        (request(Role.VERIFIER, 1, "It is 41.", "Check it."), "REVISE: one too few"),
        (request(Role.VERIFIER, 3, "It is 41."), "ACCEPT"),
        (request(Role.WORKER, 7), "late"),
    ],
)
def test_the_first_rule_that_fits_answers(asked: Request, text: str) -> None:
    assert ask(asked).text == text


def test_no_rule_that_fits_is_a_failure_that_says_what_was_asked() -> None:
    with pytest.raises(
        ReplyInvalid, match=r"'puppet' .*role Verifier, turn 2 and the last message 'Is it so\?'"
    ) as caught:
        ask(request(Role.VERIFIER, 2, "Is it so?"))
    assert not caught.value.retryable


def test_a_rule_states_finish_and_usage() -> None:
    assert ask(request(Role.VERIFIER, 1, "41")).finish is Finish.LENGTH
    assert ask(request(Role.WORKER, 7)).usage == Usage(5, 6)


def test_usage_that_is_not_stated_counts_words() -> None:
    assert ask(request(Role.WORKER, 0, "one two", "three")).usage == Usage(3, 4)


def test_it_streams_word_by_word_and_without_reasoning() -> None:
    pieces: list[str] = []
    reply = ask(request(), pieces.append)
    assert pieces == ["The ", "answer ", "is  ", "42.\n"]
    assert "".join(pieces) == reply.text
    pieces.clear()
    ask(request(Role.THINKER), pieces.append)
    assert "".join(pieces) == "Plan it."


def test_it_waits_as_told() -> None:
    async def waited() -> float:
        begun = asyncio.get_running_loop().time()
        await make_provider(agent(replies=[{"text": "x", "delay_s": 3600}])).reply(request())
        return asyncio.get_running_loop().time() - begun

    assert run_in_virtual_time(waited()) == pytest.approx(3600)


@pytest.mark.parametrize(("kind", "error"), ERRORS.items())
def test_it_fails_as_told(kind: str, error: type[ProviderError]) -> None:
    with pytest.raises(error, match="the sky is falling") as caught:
        ask(request(), replies=[{"error": kind, "text": "the sky is falling"}])
    assert type(caught.value) is error


@pytest.mark.parametrize("form", ["toml", "json"])
def test_a_script_may_lie_in_a_file(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"script.{form}"
    toml = '[[replies]]\nrole = "Thinker"\ntext = "plan"\n[[replies]]\ntext = "done"\n'
    path.write_text(toml if form == "toml" else json.dumps({"replies": [{"text": "done"}]}))
    assert ask(request(), script=str(path)).text == "done"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("replies = []", "replies: Tuple should have at least 1 item"),
        ("", "replies is missing"),
        ('[[replies]]\ntext = "x"\nrol = "Worker"', "replies.0.rol: there is no such setting"),
        ('[[replies]]\nrole = "Solver"', "replies.0.role: Input should be 'Worker'"),
        ("[[replies]]\nturn = -1", "replies.0.turn: Input should be greater"),
        ('[[replies]]\nerror = "fire"', "replies.0.error: Input should be"),
        ("[[replies]", "is not valid TOML"),
    ],
)
def test_a_malformed_script_is_refused_with_the_place_of_its_fault(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "script.toml"
    path.write_text(content)
    with pytest.raises(PoolInvalid, match="agent 'puppet'") as caught:
        make_provider(agent(script=str(path)))
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)


def test_half_a_character_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(r'{"replies": [{"text": "\ud800"}]}')
    with pytest.raises(PoolInvalid, match="Invalid JSON"):
        make_provider(agent(script=str(path)))


@pytest.mark.parametrize(
    "extra", [{}, {"script": "a", "replies": []}, {"scripts": "a"}, {"script": "/no/such/file.toml"}]
)
def test_an_agent_without_one_script_is_refused(extra: dict[str, Any]) -> None:
    with pytest.raises(PoolInvalid, match="agent 'puppet'"):
        make_provider(agent(**extra))


def test_the_same_request_gets_the_same_reply() -> None:
    assert ask(request()) == ask(request())


def test_a_rule_may_call_tools_and_go_on_with_their_results() -> None:
    rules: list[dict[str, Any]] = [
        {"last": "tool", "contains": "21 degrees", "text": "It is 21 degrees in Paris."},
        {
            "tools": True,
            "text": "I look.",
            "tool_calls": [
                {"id": "c1", "name": "look_up", "arguments": {"city": "Köln"}},
                {"name": "now", "arguments": "no JSON"},
            ],
        },
        {"tools": False, "text": "I have no tools."},
    ]
    question = Message("user", "How warm is it?")
    offered = Request((question,), Role.WORKER, 0, (Tool("look_up"),))
    heard: list[str] = []
    reply = ask(offered, heard.append, replies=rules)
    assert reply.finish is Finish.TOOL_CALLS
    assert "".join(heard) == reply.text == "I look."
    first, second = reply.message.tool_calls
    assert first == ToolCall("c1", "look_up", '{"city": "Köln"}')
    assert (second.name, second.arguments) == ("now", "no JSON")
    result = Message("tool", (ToolResult.of_text("c1", "21 degrees"),))
    answered = Request((question, reply.message, result), Role.WORKER, 0, offered.tools)
    assert ask(answered, replies=rules).text == "It is 21 degrees in Paris."
    assert ask(Request((question,), Role.VERIFIER, 1), replies=rules).text == "I have no tools."


def test_a_rule_may_refuse() -> None:
    reply = ask(request(), replies=[{"refusal": "I will not."}])
    assert (reply.finish, reply.message.content, reply.text) == (Finish.REFUSED, (Refusal("I will not."),), "")

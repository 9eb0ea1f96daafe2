"""Answers of every kind are what the SDKs' own types say; and the check that says so sees what is not.

``Direct`` makes the same check of every answer of every test.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from trinity_mlx.contracts.errors import ProviderRateLimited

from .published_types import check_answer, check_error, check_event
from .serving import ONCE, Direct, by_role, calls_reply, refusal_reply, team

SCHEMA = {"type": "object"}
PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "6 * 7?"}],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}],
        "stream_options": {"include_usage": True},
    },
    "/v1/responses": {"input": "6 * 7?", "tools": [{"type": "function", "name": "look", "parameters": SCHEMA}]},
    "/v1/messages": {
        "messages": [{"role": "user", "content": "6 * 7?"}],
        "tools": [{"name": "look", "input_schema": SCHEMA}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "max_tokens": 100,
    },
}
SAYS: dict[str, Any] = {
    "text": "It is 42.",
    "tools": calls_reply(("look", {"at": 1}), ("look", {}), text="I look."),
    "refusal": refusal_reply("I would rather not."),
    "error": ProviderRateLimited("busy", retry_after_s=1.0),
}


@pytest.mark.parametrize("model", ["trinity", "trinity-live", "trinity-route"])
@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("said", SAYS)
@pytest.mark.parametrize("path", PATHS)
def test_every_kind_of_answer_is_as_its_types_say(path: str, said: str, is_streamed: bool, model: str) -> None:
    body = {**PATHS[path], "model": model, "stream": is_streamed}
    served = team(by_role(SAYS[said]), coordinator=ONCE)
    answered = asyncio.run(Direct(served)(path, body))
    assert answered.body
    assert (answered.status >= 400) <= (said == "error")


CHUNK = {
    "id": "a",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "logprobs": None}],
}


@pytest.mark.parametrize(
    "changed",
    [
        {"created": "1"},
        {"object": "chat.completion"},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "done", "logprobs": None}]},
    ],
)
def test_a_field_of_another_kind_is_seen(changed: dict[str, Any]) -> None:
    check_event("/chat/completions", CHUNK)
    with pytest.raises(ValidationError):
        check_event("/chat/completions", CHUNK | changed)


def test_a_field_that_nobody_knows_is_seen() -> None:
    check_event("/chat/completions", CHUNK | {"trinity": {}})
    with pytest.raises(AssertionError):
        check_event("/chat/completions", CHUNK | {"tirnity": {}})
    with pytest.raises(AssertionError):
        check_error({"error": {"message": "m", "type": "t", "code": None, "param": None}, "more": 1})
    with pytest.raises(ValidationError):
        check_answer("/v1/messages", 200, "application/json", b"{}")

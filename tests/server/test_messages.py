"""Messages: blocks in, blocks out, and what Claude Code needs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from trinity_mlx.contracts.errors import ProviderUnavailable
from trinity_mlx.contracts.provider import Finish, ToolMode
from trinity_mlx.contracts.transcript import Image, ToolResult

from ..run_cases import V, W, toward
from .serving import ONCE, Answered, Direct, Team, by_role, calls_reply, refusal_reply, team, text_reply

PATH = "/v1/messages"
EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
BASH = {"name": "Bash", "description": "Run it.", "input_schema": {"type": "object", "properties": {}}}
ASKED = {"max_tokens": 100, "messages": [{"role": "user", "content": "What is 6 * 7?"}]}
THINKS = {"type": "enabled", "budget_tokens": 1024}


def ask(served: Team, path: str = PATH, **body: Any) -> Answered:
    return asyncio.run(Direct(served, anthropic_version="2023-06-01")(path, {**ASKED, **body}))


def whole(served: Team, **body: Any) -> dict[str, Any]:
    answered = ask(served, **body)
    assert answered.status == 200, answered.body
    Message.model_validate(answered.json)
    return answered.json


def stream(served: Team, **body: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The message that a client builds from a stream, and the events."""
    answered = ask(served, stream=True, **body)
    assert answered.status == 200, answered.body
    assert all(name == event["type"] for name, event in answered.events)
    told = [event for _, event in answered.events]
    for event in told:
        if event["type"] not in ("ping", "error"):
            EVENTS.validate_python(event)
    return built(told), told


def built(events: list[dict[str, Any]]) -> dict[str, Any]:
    """As a client does it: blocks by index, one open at a time."""
    assert events[0]["type"] == "message_start"
    message: dict[str, Any] = dict(events[0]["message"])
    blocks: list[dict[str, Any]] = []
    is_open, written = False, ""
    for event in events[1:]:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(blocks)
                is_open, written = True, ""
                blocks.append(dict(event["content_block"]))
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(blocks) - 1
                match event["delta"]["type"]:
                    case "text_delta":
                        blocks[-1]["text"] += event["delta"]["text"]
                    case "thinking_delta":
                        blocks[-1]["thinking"] += event["delta"]["thinking"]
                    case "input_json_delta":
                        written += event["delta"]["partial_json"]
            case "content_block_stop":
                assert is_open
                is_open = False
                if blocks[-1]["type"] == "tool_use":
                    blocks[-1]["input"] = json.loads(written)
            case "message_delta":
                assert not is_open
                message |= event["delta"] | {"usage": event["usage"]}
    if events[-1]["type"] != "error":
        assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    return message | {"content": blocks}


def test_an_answer_in_one_piece_begins_with_its_text() -> None:
    message = whole(team(), model="claude-trinity")
    assert message["content"] == [{"type": "text", "text": "The answer is 42."}]
    assert (message["stop_reason"], message["model"]) == ("end_turn", "claude-trinity")
    assert message["usage"] == {"input_tokens": 11, "output_tokens": 7}
    assert message["trinity"]["outcome"] == "verified"


def test_a_stream_builds_the_same_message() -> None:
    message, events = stream(team())
    assert message["content"] == [{"type": "text", "text": "The answer is 42."}]
    assert message["stop_reason"] == "end_turn"
    assert "ping" in [event["type"] for event in events]


def test_progress_is_thinking_where_thinking_is_wanted() -> None:
    message, _ = stream(team(), thinking=THINKS)
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]
    assert message["content"][0]["signature"] == ""
    assert "agent-0 works on it" in message["content"][0]["thinking"]
    hidden, _ = stream(team(), thinking={"type": "adaptive", "display": "omitted"})
    assert [block["type"] for block in hidden["content"]] == ["text"]


def _worker(request: Any) -> Any:
    results = [part for message in request.messages for part in message.parts if isinstance(part, ToolResult)]
    return f"It says {results[-1].text}" if results else calls_reply(("Bash", {"command": "ls"}), text="I look.")


@pytest.mark.parametrize("is_same", [True, False], ids=["remembered", "another replica"])
def test_a_round_trip_with_a_tool(is_same: bool) -> None:
    served = team(by_role(_worker))
    message, _ = stream(served, tools=[BASH], tool_choice={"type": "any"})
    assert message["stop_reason"] == "tool_use"
    assert [block["type"] for block in message["content"]] == ["text", "tool_use"]
    use = message["content"][1]
    assert use["id"].startswith("toolu_")
    assert use["input"] == {"command": "ls"}
    first = served.talkers["agent-0"].requests[0]
    assert first.tool_choice is not None
    assert first.tool_choice.mode is ToolMode.REQUIRED
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": [{"type": "text", "text": "a.txt"}]}
    reminder = {"type": "text", "text": "<system-reminder>Be quick.</system-reminder>"}
    history = [
        *ASKED["messages"],  # type: ignore[misc]
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": ""}, *message["content"]]},
        {"role": "user", "content": [result, reminder]},
    ]
    after = served if is_same else team(by_role(_worker), plan=[toward(1, V)])
    second, _ = stream(after, tools=[BASH], messages=history)
    assert second["content"][0]["text"].startswith("It says a.txt")
    last = after.talkers["agent-0"].requests[-1]
    assert any(
        "Be quick." in part.text for m in last.messages for part in m.parts if isinstance(part, ToolResult)
    ) or any("Be quick." in m.text for m in last.messages)


def test_a_system_message_in_the_middle_images_and_strange_blocks_are_taken() -> None:
    served = team()
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    whole(
        served,
        system=[{"type": "text", "text": "You are kind.", "cache_control": {"type": "ephemeral"}}],
        messages=[
            {
                "role": "user",
                "content": [{"type": "text", "text": "What is this?"}, {"type": "image", "source": source}],
            },
            {"role": "system", "content": "The date has changed."},
            {"role": "assistant", "content": [{"type": "server_tool_use", "id": "x", "name": "y", "input": {}}]},
            {"role": "user", "content": "Well?"},
        ],
        context_management={"edits": []},
        output_config={"effort": "high"},
    )
    messages = served.talkers["agent-0"].requests[0].messages
    assert any(isinstance(part, Image) for message in messages for part in message.parts)
    assert "You are kind." in messages[0].text
    assert any("The date has changed." in message.text for message in messages)


def test_tools_that_run_elsewhere_or_are_deferred_are_not_offered() -> None:
    served = team()
    tools = [
        BASH,
        {"type": "web_search_20250305", "name": "web_search"},
        {**BASH, "name": "Later", "defer_loading": True},
    ]
    whole(served, tools=tools)
    assert [tool.name for tool in served.talkers["agent-0"].requests[0].tools] == ["Bash"]


def test_reasons_of_the_end() -> None:
    assert whole(team(by_role(text_reply("The", Finish.LENGTH))))["stop_reason"] == "max_tokens"
    assert whole(team(by_role(refusal_reply("No."))))["stop_reason"] == "refusal"
    stopped = whole(team("One. STOP Two."), stop_sequences=["STOP"])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "STOP")
    assert stopped["content"][0]["text"] == "One. "


def test_errors_have_the_interfaces_own_shape_before_and_in_a_stream() -> None:
    answered = ask(team(), model="gpt-7")
    assert (answered.status, answered.json["type"], answered.json["error"]["type"]) == (404, "error", "not_found_error")
    down = team(by_role(ProviderUnavailable("down")), agents=1, plan=[toward(0, W)], coordinator=ONCE)
    _, events = stream(down)
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "overloaded_error"
    assert ask(down).status == 503


def test_tokens_are_counted_without_calling_anybody() -> None:
    served = team()
    short = ask(served, f"{PATH}/count_tokens?beta=true").json["input_tokens"]
    longer = ask(served, f"{PATH}/count_tokens", tools=[BASH], system="x" * 400).json["input_tokens"]
    assert 1 <= short < longer
    assert served.calls == 0


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"messages": 7}, "messages"),
        ({"messages": []}, "nothing is asked"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "documents"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"data": "%%"}}]}]}, "base64"),
        ({"stop_sequences": "x" * 3, "temperature": -1}, "temperature"),
    ],
)
def test_what_cannot_be_read_gets_a_clear_400(body: dict[str, Any], word: str) -> None:
    answered = ask(team(), **body)
    assert answered.status == 400
    assert word in answered.json["error"]["message"]
    assert answered.json["error"]["type"] == "invalid_request_error"

"""Responses: items in, items out, each event in its place; what is kept, and what Codex needs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai.types.responses import CompactedResponse, Response, ResponseStreamEvent
from pydantic import TypeAdapter

from trinity_mlx.contracts.errors import ProviderRateLimited, ProviderUnavailable
from trinity_mlx.contracts.transcript import ToolResult

from ..run_cases import V, W, toward
from .serving import ONCE, Answered, Direct, Team, by_role, calls_reply, refusal_reply, team

PATH = "/v1/responses"
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
REQUIRED = {
    *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id"),
    *("instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p"),
    *("presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage"),
    *("max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata"),
    *("safety_identifier", "prompt_cache_key"),
}
"""The fields that a response of the Open Responses specification always has."""
SHELL = {"type": "function", "name": "shell", "parameters": {"type": "object", "properties": {}}, "strict": False}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Change files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
}


def ask(served: Team, path: str = PATH, **body: Any) -> Answered:
    return asyncio.run(Direct(served)(path, {"input": "What is 6 * 7?", **body}))


def get(served: Team, path: str, method: str = "GET") -> Answered:
    return asyncio.run(Direct(served)(path, method=method))


def whole(served: Team, **body: Any) -> dict[str, Any]:
    answered = ask(served, **body)
    assert answered.status == 200, answered.body
    return check(answered.json)


def check(response: dict[str, Any]) -> dict[str, Any]:
    Response.model_validate(response)
    assert set(response) >= REQUIRED
    return response


def stream(served: Team, **body: Any) -> list[dict[str, Any]]:
    """The events of a stream, each held to its type and all of them to their order."""
    answered = ask(served, stream=True, **body)
    assert answered.status == 200, answered.body
    events = answered.events
    assert all(name == event["type"] for name, event in events)
    for _, event in events:
        EVENTS.validate_python(event)
    told = [event for _, event in events]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    check_order(told)
    return told


def check_order(events: list[dict[str, Any]]) -> None:
    """Items open in order without gaps; deltas come between an item's opening and its end, and add up to it."""
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] in ("response.completed", "response.failed")
    added: list[str] = []
    done: list[dict[str, Any]] = []
    deltas: dict[str, str] = {}
    for event in events:
        if event["type"] == "response.output_item.added":
            assert event["output_index"] == len(added) == len(done)
            added.append(event["item"]["id"])
        elif event["type"] == "response.output_item.done":
            assert event["item"]["id"] == added[event["output_index"]]
            done.append(event["item"])
        elif "delta" in event:
            assert event["item_id"] == added[-1]
            assert event["output_index"] == len(done)
            deltas[event["item_id"]] = deltas.get(event["item_id"], "") + event["delta"]
    assert len(done) == len(added)
    for item in done:
        assert text_of(item) == deltas.get(item["id"], "")
    if events[-1]["type"] == "response.completed":
        assert events[-1]["response"]["output"] == done
        check(events[-1]["response"])


def text_of(item: dict[str, Any]) -> str:
    match item["type"]:
        case "message":
            return "".join(part.get("text", part.get("refusal", "")) for part in item["content"])
        case "reasoning":
            return "".join(part["text"] for part in item["summary"])
        case "custom_tool_call":
            return str(item["input"])
        case _:
            return str(item["arguments"])


def output_text(response: dict[str, Any]) -> str:
    return "".join(text_of(item) for item in response["output"] if item["type"] == "message")


def test_an_answer_in_one_piece_has_every_field_and_no_reasoning_that_nobody_asked_for() -> None:
    response = whole(team(), instructions="Be brief.", metadata={"a": "b"}, temperature=0.5)
    assert [item["type"] for item in response["output"]] == ["message"]
    assert output_text(response) == "The answer is 42."
    assert response["status"] == "completed"
    assert response["instructions"] == "Be brief."
    assert response["metadata"] == {"a": "b"}
    assert response["temperature"] == 0.5
    assert response["usage"]["total_tokens"] == 18
    assert response["trinity"]["outcome"] == "verified"
    with_reasoning = whole(team(), reasoning={"summary": "auto"})
    assert [item["type"] for item in with_reasoning["output"]] == ["reasoning", "message"]


@pytest.mark.parametrize("odd", ["", "data:,", "x" * 5_000, 5, [], {"type": "text"}])
def test_words_of_a_request_that_the_interface_does_not_know_are_not_repeated(odd: Any) -> None:
    response = whole(team(), reasoning={"effort": odd, "summary": odd}, tool_choice=odd, max_output_tokens=50.0)
    assert response["reasoning"] == {"effort": None, "summary": None}
    assert (response["tool_choice"], repr(response["max_output_tokens"])) == ("auto", "50")
    known = whole(team(), reasoning={"effort": "xhigh", "summary": "concise"})
    assert known["reasoning"] == {"effort": "xhigh", "summary": "concise"}


def test_a_stream_holds_progress_then_the_answer_then_the_whole_response() -> None:
    events = stream(team())
    items = events[-1]["response"]["output"]
    assert [item["type"] for item in items] == ["reasoning", "message"]
    assert items[1]["phase"] == "final_answer"
    assert output_text(events[-1]["response"]) == "The answer is 42."


def test_live_text_that_was_refused_is_an_item_of_its_own() -> None:
    verdicts, answers = iter(["REVISE: no.", "ACCEPT"]), iter(["It is 41.", "It is 42."])
    served = team(
        lambda request: next(verdicts if request.role is V else answers),
        plan=[toward(0, W), toward(1, V), toward(0, W), toward(1, V)],
    )
    events = stream(served, model="trinity-live")
    messages = [item for item in events[-1]["response"]["output"] if item["type"] == "message"]
    assert [text_of(item) for item in messages] == ["It is 41.", "It is 42."]


def test_calls_of_functions_custom_tools_and_namespaces_come_back_as_what_they_are() -> None:
    calls = calls_reply(
        ("shell", {"cmd": "ls"}),
        ("apply_patch", {"input": "*** Begin Patch"}),
        ("agents__close", {"id": 1}),
        text="So:",
    )
    namespace = {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "close"}]}
    tools = [SHELL, PATCH, namespace, {"type": "web_search"}]
    served = team(by_role(calls))
    events = stream(served, tools=tools)
    items = [item for item in events[-1]["response"]["output"] if item["type"] != "reasoning"]
    assert [item["type"] for item in items] == ["message", "function_call", "custom_tool_call", "function_call"]
    assert items[0]["phase"] == "commentary"
    assert json.loads(items[1]["arguments"]) == {"cmd": "ls"}
    assert (items[2]["name"], items[2]["input"]) == ("apply_patch", "*** Begin Patch")
    assert (items[3]["name"], items[3]["namespace"]) == ("close", "agents")
    assert all(item["id"].startswith("fc_") and len(item["call_id"]) <= 40 for item in items[1:])
    offered = served.talkers["agent-0"].requests[0].tools
    assert [tool.name for tool in offered] == ["shell", "apply_patch", "agents__close"]
    assert "start: /.+/" in offered[1].description
    assert events[-1]["response"]["status"] == "completed"


def _patcher(request: Any) -> Any:
    results = [part for message in request.messages for part in message.parts if isinstance(part, ToolResult)]
    return f"Done: {results[-1].text}" if results else calls_reply(("apply_patch", {"input": "*** Begin Patch"}))


@pytest.mark.parametrize("is_same", [True, False], ids=["remembered", "another replica"])
def test_items_that_come_back_unchanged_go_on_with_the_run(is_same: bool) -> None:
    served = team(by_role(_patcher))
    first = stream(served, tools=[PATCH])[-1]["response"]
    call = next(item for item in first["output"] if item["type"] == "custom_tool_call")
    history = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is 6 * 7?"}]},
        *first["output"],
        {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "Success."},
    ]
    after = served if is_same else team(by_role(_patcher), plan=[toward(1, V)])
    second = stream(after, tools=[PATCH], input=history)[-1]["response"]
    assert output_text(second) == "Done: Success."
    assert second["trinity"]["outcome"] == "verified"
    custom = [call for m in after.talkers["agent-0"].requests[-1].messages for call in m.tool_calls]
    assert json.loads(custom[0].arguments) == {"input": "*** Begin Patch"}


def test_a_refusal_is_a_part_of_a_message() -> None:
    (item,) = whole(team(by_role(refusal_reply("I will not."))))["output"]
    assert item["content"] == [{"type": "refusal", "refusal": "I will not."}]
    stream(team(by_role(refusal_reply("I will not."))))


def test_a_form_is_asked_for_under_text() -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    wanted = {"format": {"type": "json_schema", "name": "sum", "schema": schema}}
    response = whole(team('{"sum": 42}'), text=wanted)
    assert json.loads(output_text(response)) == {"sum": 42}
    assert response["text"]["format"]["schema"] == schema


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ProviderRateLimited("slow down", retry_after_s=1.5), "rate_limit_exceeded"),
        (ProviderUnavailable("down"), "server_error"),
    ],
    ids=["rate limit", "unavailable"],
)
def test_a_failure_after_the_beginning_is_a_failed_response(error: Exception, code: str) -> None:
    served = team(by_role(error), agents=1, plan=[toward(0, W)], coordinator=ONCE)
    events = stream(served)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == code
    assert not any(event["type"] == "error" for event in events)


def test_a_failure_in_one_piece_has_its_status() -> None:
    limited = ask(
        team(
            by_role(ProviderRateLimited("slow down", retry_after_s=7)), agents=1, plan=[toward(0, W)], coordinator=ONCE
        )
    )
    assert limited.status == 429
    assert (
        ask(team(by_role(ProviderUnavailable("down")), agents=1, plan=[toward(0, W)], coordinator=ONCE)).status == 503
    )


def test_a_kept_response_can_be_read_listed_continued_and_deleted() -> None:
    served = team()
    first = whole(served)
    place = f"{PATH}/{first['id']}"
    assert get(served, place).json == first
    listed = get(served, f"{place}/input_items").json
    assert [item["content"][0]["text"] for item in listed["data"]] == ["What is 6 * 7?"]
    second = whole(served, input="And 6 * 8?", previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    texts = [message.text for message in served.talkers["agent-0"].requests[-1].messages]
    assert texts[-3:] == ["What is 6 * 7?", "The answer is 42.", "And 6 * 8?"]
    third = whole(served, input="And 6 * 9?", previous_response_id=second["id"])
    assert len(get(served, f"{PATH}/{third['id']}/input_items").json["data"]) == 5
    assert get(served, place, "DELETE").json["deleted"] is True
    assert get(served, place).status == 404


def test_what_is_not_to_be_stored_is_not_kept() -> None:
    served = team()
    response = whole(served, store=False)
    assert get(served, f"{PATH}/{response['id']}").status == 404
    answered = ask(served, previous_response_id=response["id"])
    assert answered.status == 400
    assert answered.json["error"]["code"] == "previous_response_not_found"


def test_one_key_cannot_read_what_another_has_asked() -> None:
    served = team(keys=("mine", "theirs"))

    async def both() -> tuple[Answered, Answered]:
        first = await Direct(served, authorization="Bearer mine")(PATH, {"input": "Go."})
        return first, await Direct(served, authorization="Bearer theirs")(f"{PATH}/{first.json['id']}")

    first, second = asyncio.run(both())
    assert first.status == 200
    assert second.status == 404


def test_an_item_reference_stands_for_the_item() -> None:
    served = team()
    first = whole(served)
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    whole(served, input=[reference, {"role": "user", "content": "Are you sure?"}])
    texts = [message.text for message in served.talkers["agent-0"].requests[-1].messages]
    assert "The answer is 42." in texts


def test_a_long_conversation_is_compacted_into_an_item_that_later_requests_may_hold() -> None:
    served = team("They want 42.")
    items = [{"role": "user", "content": "What is 6 * 7?"}, {"role": "assistant", "content": "42."}]
    answered = asyncio.run(Direct(served)(f"{PATH}/compact", {"input": items, "model": "trinity"}))
    compacted = answered.json
    CompactedResponse.model_validate({**compacted, "output": compacted["output"][1:]})
    assert served.calls == 1
    assert [item["type"] for item in compacted["output"]] == ["message", "compaction"]
    whole(served, input=[*compacted["output"], {"role": "user", "content": "Go on."}])
    assert any("They want 42." in message.text for message in served.talkers["agent-0"].requests[-1].messages)


def test_reasoning_and_items_that_are_not_known_are_passed_over() -> None:
    items = [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "from_the_future", "wisdom": 7},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Go."}]},
    ]
    assert whole(team(), input=items)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"input": 7}, "input"),
        ({"input": [7]}, "input"),
        ({"input": ""}, "nothing is asked"),
        ({"background": True}, "background"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "role"),
        ({"previous_response_id": "resp_nowhere"}, "resp_nowhere"),
        ({"max_output_tokens": -1}, "max_output_tokens"),
    ],
)
def test_what_cannot_be_read_gets_a_clear_400(body: dict[str, Any], word: str) -> None:
    answered = ask(team(), **body)
    assert answered.status == 400
    assert word in answered.json["error"]["message"]

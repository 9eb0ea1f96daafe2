"""The first eight cases of the Open Responses compliance suite, written anew from what each is about."""

from __future__ import annotations

from typing import Any

from openai.types.responses import Response

from .serving import by_role, calls_reply, team
from .test_responses import REQUIRED, ask, stream, whole

NULLABLE = {
    *("completed_at", "incomplete_details", "previous_response_id", "instructions", "error", "usage"),
    *("max_output_tokens", "max_tool_calls", "safety_identifier", "prompt_cache_key", "reasoning"),
}
RED = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"


def message(role: str, text: Any, **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": text, **more}


def complete(response: dict[str, Any]) -> dict[str, Any]:
    """A response that is whole: all 31 fields, null only where that is allowed, and at least one item."""
    Response.model_validate(response)
    assert len(REQUIRED) == 31
    assert set(response) >= REQUIRED
    assert all(response[name] is not None for name in REQUIRED - NULLABLE)
    assert response["status"] == "completed"
    assert response["output"]
    return response


def test_basic_response() -> None:
    response = complete(whole(team("Hello to you."), input=[message("user", "Say hello in exactly 3 words.")]))
    (item,) = response["output"]
    assert item["role"] == "assistant"
    assert item["status"] == "completed"
    assert item["content"][0]["annotations"] == []
    assert item["content"][0]["logprobs"] == []


def test_assistant_phase() -> None:
    history = [
        message("user", "Look it up."),
        message("assistant", [{"type": "output_text", "text": "I look."}], phase="commentary"),
        message("user", "And?"),
    ]
    assert complete(whole(team(), input=history))


def test_output_phase_schema() -> None:
    call = calls_reply(("look", {}), text="I look.")
    tools = [{"type": "function", "name": "look", "parameters": {"type": "object"}}]
    response = complete(whole(team(by_role(call)), tools=tools))
    phases = [item.get("phase") for item in response["output"] if item["type"] == "message"]
    assert phases == ["commentary"]
    (final,) = complete(whole(team()))["output"]
    assert final["phase"] == "final_answer"


def test_streaming_response() -> None:
    events = stream(team("1, 2, 3, 4, 5."), input=[message("user", "Count from 1 to 5.")], model="trinity-live")
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds.count("response.output_text.delta") >= 5
    complete(events[-1]["response"])


def test_system_prompt() -> None:
    served = team("Ahoy.")
    complete(whole(served, input=[message("system", "You are a pirate."), message("user", "Say hello.")]))
    assert "You are a pirate." in served.talkers["agent-0"].requests[0].messages[0].text


def test_tool_calling() -> None:
    tool = {
        "type": "function",
        "name": "get_weather",
        "description": "The weather of a place.",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
    }
    served = team(by_role(calls_reply(("get_weather", {"location": "San Francisco, CA"}))))
    response = complete(whole(served, input=[message("user", "The weather in San Francisco?")], tools=[tool]))
    assert [item["type"] for item in response["output"]] == ["function_call"]
    assert response["output"][0]["name"] == "get_weather"
    assert response["output"][0]["status"] == "completed"
    assert response["tools"][0]["name"] == "get_weather"


def test_image_input() -> None:
    parts = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{RED}"},
    ]
    assert complete(whole(team("A red dot."), input=[message("user", parts)]))


def test_multi_turn_conversation() -> None:
    served = team("Your name is Alice.")
    talk = [
        message("user", "My name is Alice."),
        message("assistant", "Hello Alice!"),
        message("user", "What is my name?"),
    ]
    complete(whole(served, input=talk))
    texts = [each.text for each in served.talkers["agent-0"].requests[0].messages]
    assert texts[-3:] == ["My name is Alice.", "Hello Alice!", "What is my name?"]


def test_a_request_that_is_none_has_the_errors_shape() -> None:
    error = ask(team(), input=7).json["error"]
    assert set(error) >= {"message", "type", "param", "code"}

"""Chat Completions: what goes in, what comes out, in one piece and streamed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from trinity_mlx.contracts.provider import Finish, ToolMode
from trinity_mlx.contracts.transcript import Image, ToolCall, ToolResult

from .serving import Direct, Team, by_role, calls_reply, refusal_reply, team, text_reply

PATH = "/v1/chat/completions"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


def ask(served: Team, path: str = PATH, **body: Any) -> Any:
    """The answer to one request, whatever it is."""
    return asyncio.run(Direct(served)(path, {"messages": [{"role": "user", "content": "What is 6 * 7?"}], **body}))


def whole(served: Team, **body: Any) -> dict[str, Any]:
    answered = ask(served, **body)
    assert answered.status == 200, answered.body
    ChatCompletion.model_validate(answered.json, strict=True)
    return answered.json


def chunks(served: Team, **body: Any) -> list[dict[str, Any]]:
    answered = ask(served, stream=True, **body)
    assert answered.status == 200, answered.body
    events = answered.events
    assert events[-1] == ("", "[DONE]")
    for _, chunk in events[:-1]:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    return [chunk for _, chunk in events[:-1]]


def content(received: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in received for choice in chunk["choices"])


def test_an_accepted_answer_in_one_piece() -> None:
    answer = whole(team(), model="trinity")
    choice = answer["choices"][0]
    assert choice["message"]["content"] == "The answer is 42."
    assert choice["finish_reason"] == "stop"
    assert answer["model"] == "trinity"
    assert answer["usage"] == {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    assert answer["trinity"]["outcome"] == "verified"
    assert [turn["role"] for turn in answer["trinity"]["turns"]] == ["Worker", "Verifier"]
    assert answer["trinity"]["coordination"] == {"input_tokens": 11, "output_tokens": 7}


def test_headers_tell_what_happened() -> None:
    headers = ask(team()).headers
    assert headers["x-trinity-outcome"] == "verified"
    assert headers["x-trinity-turns"] == "2"
    assert headers["x-trinity-agents"] == "agent-0,agent-1"
    assert len(headers["x-trinity-run-id"]) == 32


def test_the_answer_is_held_until_it_is_accepted_and_progress_is_reasoning() -> None:
    received = chunks(team())
    kinds = ["content" if c["choices"][0]["delta"].get("content") else "other" for c in received if c["choices"]]
    reasoning = "".join(c["choices"][0]["delta"].get("reasoning_content", "") for c in received if c["choices"])
    assert content(received) == "The answer is 42."
    assert kinds.count("content") == 1
    assert "agent-0 works on it" in reasoning
    assert "agent-1 checks the answer" in reasoning
    assert kinds.index("content") > max(
        index for index, c in enumerate(received) if "reasoning_content" in c["choices"][0]["delta"]
    )


def test_usage_comes_in_a_last_chunk_without_choices_where_it_is_asked_for() -> None:
    received = chunks(team(), stream_options={"include_usage": True})
    assert received[-1]["choices"] == []
    assert received[-1]["usage"]["total_tokens"] == 18
    assert all(chunk["usage"] is None for chunk in received[:-1])
    assert all(chunk["choices"] for chunk in chunks(team()))


def test_live_text_is_shown_as_it_comes_and_again_once_revised() -> None:
    verdicts = iter(["REVISE: show your work.", "ACCEPT"])
    answers = iter(["It is 41.", "It is 42, six sevens."])

    def says(request: Any) -> Any:
        return next(verdicts if request.role.label == "Verifier" else answers)

    received = chunks(team(says, plan=_in_turns()), model="trinity-live")
    text = content(received)
    assert text.startswith("It is 41.")
    assert text.endswith("It is 42, six sevens.")
    assert "Revised" in text
    assert sum(bool(c["choices"][0]["delta"].get("content")) for c in received) > 6


def _in_turns() -> list[Any]:
    from ..run_cases import V, W, toward

    return [toward(0, W), toward(1, V), toward(0, W), toward(1, V)]


def test_live_in_one_piece_is_the_last_text_alone() -> None:
    verdicts = iter(["REVISE: no.", "ACCEPT"])
    answers = iter(["It is 41.", "It is 42."])
    served = team(lambda request: next(verdicts if request.role.label == "Verifier" else answers), plan=_in_turns())
    assert whole(served, model="trinity-live")["choices"][0]["message"]["content"] == "It is 42."


def test_a_routed_call_is_passed_through_and_nobody_checks_it() -> None:
    served = team()
    received = chunks(served, model="trinity-route")
    assert content(received) == "The answer is 42."
    assert served.calls == 1
    assert received[-1]["trinity"]["outcome"] == "passed_through"
    assert received[-1]["trinity"]["turns"][0]["role"] == "Worker"


def test_a_routed_call_is_a_workers_even_where_the_router_wants_a_thinker() -> None:
    from ..run_cases import T, toward

    served = team(plan=[toward(1, T)])
    answer = whole(served, model="trinity-route")
    assert answer["trinity"]["turns"][0]["role"] == "Worker"
    assert served.calls == 1


@pytest.mark.parametrize("model", ["trinity:slot=1", "trinity-home:slot=1", "agent-1", "claude-trinity:slot=1"])
def test_a_named_slot_or_agent_is_called_without_a_route(model: str) -> None:
    served = team(plan=[RuntimeError("the router is not to be asked")])
    answer = whole(served, model=model)
    assert [(turn["agent"], turn["role"]) for turn in answer["trinity"]["turns"]] == [("agent-1", "Worker")]
    assert answer["model"] == model


def test_an_unknown_model_is_not_found_and_the_known_ones_are_named() -> None:
    answered = ask(team(), model="gpt-7")
    assert answered.status == 404
    assert answered.json["error"]["code"] == "model_not_found"
    assert "trinity" in answered.json["error"]["message"]


def test_tools_reach_the_worker_alone_and_its_calls_end_the_request() -> None:
    served = team(by_role(calls_reply(("weather", {"place": "Bonn"}), ("weather", {"place": "Kiel"}), text="I look.")))
    answer = whole(served, tools=[WEATHER], tool_choice="required")
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert [json.loads(call["function"]["arguments"]) for call in choice["message"]["tool_calls"]] == [
        {"place": "Bonn"},
        {"place": "Kiel"},
    ]
    assert choice["message"]["content"] == "I look."
    assert served.calls == 1
    request = served.talkers["agent-0"].requests[0]
    assert [tool.name for tool in request.tools] == ["weather"]
    assert request.tool_choice is not None
    assert request.tool_choice.mode is ToolMode.REQUIRED
    ids = [call["id"] for call in choice["message"]["tool_calls"]]
    assert len(set(ids)) == 2
    assert all(len(each) <= 40 for each in ids)


def test_streamed_calls_carry_their_place() -> None:
    received = chunks(team(by_role(calls_reply(("weather", {}), ("weather", {})))), tools=[WEATHER])
    calls = [call for c in received for call in c["choices"][0]["delta"].get("tool_calls", ())]
    assert [call["index"] for call in calls] == [0, 1]
    assert received[-1]["choices"][0]["finish_reason"] == "tool_calls"


def _worker(request: Any) -> Any:
    results = [part for message in request.messages for part in message.parts if isinstance(part, ToolResult)]
    return f"It is {results[-1].text}." if results else calls_reply(("weather", {"place": "Bonn"}))


def _round_trip(served: Team, after: Team | None = None, **body: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A first request that ends in a call, and a second one that brings its result."""
    first = whole(served, tools=[WEATHER], **body)
    message = first["choices"][0]["message"]
    history = [
        {"role": "user", "content": "What is 6 * 7?"},
        message,
        {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "sunny"},
    ]
    return first, whole(after or served, tools=[WEATHER], messages=history, **body)


def test_results_go_on_with_the_same_worker_in_the_same_turn_and_are_not_routed() -> None:
    served = team(by_role(_worker))
    _first, second = _round_trip(served)
    assert second["choices"][0]["message"]["content"] == "It is sunny."
    assert second["trinity"]["outcome"] == "verified"
    assert second["trinity"]["turns"][0]["turn"] == 0
    assert second["trinity"]["turns"][0]["agent"] == "agent-0"
    provider_ids = [
        call.id for message in served.talkers["agent-0"].requests[-1].messages for call in message.tool_calls
    ]
    assert provider_ids == ["theirs-0"]


def test_another_replica_goes_on_from_the_id_of_the_call_alone() -> None:
    from ..run_cases import V, W, toward

    router_of_the_other = [toward(1, V), toward(1, V)]
    other = team(by_role(_worker), plan=router_of_the_other)
    _first, second = _round_trip(team(by_role(_worker), plan=[toward(0, W), toward(1, V)]), other)
    assert second["choices"][0]["message"]["content"] == "It is sunny."
    assert second["trinity"]["turns"][0]["agent"] == "agent-0"
    assert second["trinity"]["turns"][0]["role"] == "Worker"


def test_a_replica_with_another_secret_routes_again_and_still_answers() -> None:
    from ..run_cases import V, W, toward

    other = team(by_role(_worker), plan=[toward(1, W), toward(0, V)], secret=b"other")
    _, second = _round_trip(team(by_role(_worker)), other)
    assert second["choices"][0]["message"]["content"] == "It is sunny."
    assert second["trinity"]["turns"][0]["agent"] == "agent-1"


def test_turns_that_went_before_the_tools_count() -> None:
    from ..run_cases import T, V, W, toward

    plan = [toward(1, T), toward(0, W), toward(1, V)]
    served = team(by_role(_worker), plan=plan, coordinator={"policy": _most_turns(2)})
    other = team(by_role(_worker), plan=plan, coordinator={"policy": _most_turns(2)})
    _, second = _round_trip(served, other)
    assert second["trinity"]["outcome"] == "unverified"
    assert len(second["trinity"]["turns"]) == 1


def _most_turns(count: int) -> Any:
    from trinity_mlx.rules.policy import Policy

    return Policy(max_turns=count)


def test_a_refusal_is_one() -> None:
    choice = whole(team(by_role(refusal_reply("I will not."))))["choices"][0]
    assert choice["message"]["refusal"] == "I will not."
    assert choice["message"]["content"] is None


def test_a_cut_answer_says_length() -> None:
    served = team(by_role(text_reply("The answer is", Finish.LENGTH)))
    assert whole(served, max_tokens=3)["choices"][0]["finish_reason"] == "length"
    assert served.talkers["agent-0"].requests[0].sampling.max_tokens == 3


def test_stop_sequences_end_the_answer_even_where_the_provider_lets_them_pass() -> None:
    for model in ("trinity", "trinity-route"):
        received = chunks(team("One. STOP Two."), model=model, stop=["STOP"])
        assert content(received) == "One. "


def test_settings_reach_the_worker() -> None:
    served = team()
    whole(served, temperature=0.5, top_p=0.9, seed=7, stop="X", max_completion_tokens=9, user="somebody")
    sampling = served.talkers["agent-0"].requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.stop) == (0.5, 0.9, 7, ("X",))
    assert sampling.max_tokens == 9
    assert served.talkers["agent-1"].requests[0].sampling.temperature is None


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"n": 2}, "n must be 1"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "modality"),
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "nothing is asked"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input_audio"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp:x"}}]}]}, "image"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 9}, "between"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 7}}}}, "schema"),
    ],
)
def test_what_cannot_be_done_gets_a_clear_400_and_nobody_is_called(body: dict[str, Any], word: str) -> None:
    served = team()
    answered = ask(served, **body)
    assert answered.status == 400
    assert word in answered.json["error"]["message"]
    assert answered.json["error"]["type"] == "invalid_request_error"
    assert served.calls == 0


def test_unknown_fields_are_passed_over() -> None:
    assert whole(team(), reasoning_effort="high", wisdom={"deep": [1, 2]}, service_tier="flex", store=True)


def test_images_tool_results_and_names_reach_the_worker() -> None:
    served = team()
    pixel = "iVBORw0KGgo="
    whole(
        served,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{pixel}", "detail": "low"}},
                ],
            },
        ],
    )
    parts = [part for message in served.talkers["agent-0"].requests[0].messages for part in message.parts]
    (image,) = [part for part in parts if isinstance(part, Image)]
    assert image.media_type == "image/png"
    assert image.detail == "low"


def test_a_call_without_a_result_and_a_result_without_a_call_are_mended() -> None:
    served = team()
    lost = {"id": "call_9", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    whole(
        served,
        messages=[
            {"role": "user", "content": "Go."},
            {"role": "assistant", "content": None, "tool_calls": [lost]},
            {"role": "user", "content": "And?"},
            {"role": "tool", "tool_call_id": "call_77", "content": "late"},
        ],
    )
    messages = served.talkers["agent-0"].requests[0].messages
    calls = [part.id for message in messages for part in message.parts if isinstance(part, ToolCall)]
    results = [part.call_id for message in messages for part in message.parts if isinstance(part, ToolResult)]
    assert calls == results == ["call_9"]
    assert any("call_77" in message.text for message in messages)


def test_items_of_responses_are_taken_here_too() -> None:
    served = team()
    answered = asyncio.run(
        Direct(served)(PATH, {"input": "What is 6 * 7?", "tools": [{"type": "function", "name": "weather"}]})
    )
    assert answered.json["object"] == "chat.completion"
    assert [tool.name for tool in served.talkers["agent-0"].requests[0].tools] == ["weather"]


SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "sum",
        "schema": {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]},
    },
}


def test_an_answer_of_the_right_form_is_released_without_its_fence() -> None:
    served = team('```json\n{"sum": 42}\n```')
    assert json.loads(whole(served, response_format=SCHEMA)["choices"][0]["message"]["content"]) == {"sum": 42}
    request = served.talkers["agent-0"].requests[0]
    assert request.response_format is not None
    assert request.response_format.schema == SCHEMA["json_schema"]["schema"]  # type: ignore[index]


def test_an_answer_of_the_wrong_form_gets_one_repair_turn() -> None:
    answers = iter(['{"sum": "forty-two"}', '{"sum": 42}'])
    served = team(by_role(lambda request: next(answers)))
    received = chunks(served, response_format=SCHEMA, model="trinity-live")
    assert json.loads(content(received)) == {"sum": 42}
    assert "forty-two" not in content(received)
    repair = served.talkers["agent-0"].requests[1]
    assert "at sum" in repair.messages[-1].text


def test_an_answer_that_stays_wrong_is_never_released() -> None:
    answered = ask(team("It is 42."), response_format=SCHEMA)
    assert answered.status == 502
    assert answered.json["error"]["code"] == "invalid_response_format"


def test_only_a_verified_answer_counts_where_that_is_asked_for() -> None:
    from ..run_cases import W, toward

    answered = asyncio.run(
        Direct(team(plan=[toward(0, W)]), x_trinity_require_verified="true")(
            PATH, {"messages": [{"role": "user", "content": "Go."}]}
        )
    )
    assert answered.status == 502
    assert answered.json["error"]["code"] == "unverified"

"""Messages with parts: every shape that people have, what is left out, one hash for one conversation, and how parts
read."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import anthropic.types as anthropic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from trinity_mlx.contracts.errors import TranscriptError
from trinity_mlx.contracts.parts import Image, Part, Refusal, Text, ToolCall, ToolResult
from trinity_mlx.contracts.plain import from_plain, to_plain
from trinity_mlx.contracts.pool import Agent
from trinity_mlx.contracts.provider import Request, ResponseFormat, Tool, ToolChoice, ToolMode
from trinity_mlx.contracts.routing import Role
from trinity_mlx.contracts.text_format import TextFormat
from trinity_mlx.contracts.transcript import Message, Transcript
from trinity_mlx.files.shipped import data_path
from trinity_mlx.providers.wire import anthropic_request, openai_request

from ..sdk_types import assert_request

PNG = b"\x89PNG"
SHA = hashlib.sha256(PNG).hexdigest()
CALL = ToolCall("call_1", "look_up", '{"city":"Köln"}')

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
WORDS = st.text("abcdef_", min_size=1, max_size=6)
IMAGES = st.one_of(
    st.builds(Image.of_data, st.binary(max_size=6), st.sampled_from(["image/png", "image/jpeg"])),
    st.builds(Image.of_url, st.sampled_from(["https://a/b.png", "http://c/é"]), st.sampled_from(["", "low"])),
)
TOOL_CALLS = st.builds(ToolCall, WORDS, WORDS, st.sampled_from(["{}", '{"a": [1]}', "", "no JSON", "[1]"]))
RESULTS = st.builds(
    ToolResult, WORDS, st.lists(st.one_of(st.builds(Text, TEXTS), IMAGES), max_size=3).map(tuple), st.booleans()
)


def parts(*kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.one_of(*kinds), max_size=4).map(tuple)


MESSAGES = st.one_of(
    st.builds(Message, st.sampled_from(["system", "developer"]), st.one_of(TEXTS, parts(st.builds(Text, TEXTS)))),
    st.builds(
        Message, st.just("user"), st.one_of(TEXTS, parts(st.builds(Text, TEXTS), IMAGES)), st.sampled_from(["", "ann"])
    ),
    st.builds(
        Message,
        st.just("assistant"),
        st.one_of(TEXTS, parts(st.builds(Text, TEXTS), TOOL_CALLS, st.builds(Refusal, TEXTS))),
    ),
    st.builds(Message, st.just("tool"), st.lists(RESULTS, min_size=1, max_size=2).map(tuple)),
)
CONVERSATIONS = st.lists(MESSAGES, min_size=1, max_size=6).map(tuple)


def one(**message: Any) -> tuple[Message, ...]:
    return Transcript.of([message]).messages


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "user", "content": [{"type": "text", "text": "a"}]}, Message("user", "a")),
        ({"role": "user", "content": []}, Message("user", "")),
        ({"role": "developer", "content": "Be brief."}, Message("developer", "Be brief.")),
        ({"role": "user", "content": "a", "name": "ann"}, Message("user", "a", "ann")),
        (
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
                    {"type": "image_url", "image_url": {"url": "https://a/b.png", "detail": "low"}},
                ],
            },
            Message("user", (Text("a"), Image.of_url("https://a/b.png", "low"))),
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": "data:image/png;base64,iVBORw=="}]},
            Message("user", (Image("image/png", SHA, PNG),)),
        ),
        (
            {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": CALL.arguments}}
                ],
            },
            Message("assistant", (CALL,)),
        ),
        ({"role": "assistant", "refusal": "No."}, Message("assistant", (Refusal("No."),))),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            Message("assistant", (Refusal("No."),)),
        ),
        (
            {"role": "tool", "tool_call_id": "call_1", "content": "21 °C"},
            Message("tool", (ToolResult("call_1", (Text("21 °C"),)),)),
        ),
        ({"role": "tool", "tool_call_id": "call_1", "content": ""}, Message("tool", (ToolResult("call_1", ()),))),
    ],
)
def test_openais_messages_are_read(message: dict[str, Any], expected: Message) -> None:
    assert one(**message) == (expected,)


def test_anthropics_messages_are_read_and_results_become_messages_of_their_own() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": b64encode(PNG).decode()}
    messages = [
        {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I look.", "citations": None},
                {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"city": "Köln"}},
                {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "21"}]},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "broken", "is_error": True},
                {"type": "text", "text": "Well?"},
            ],
        },
    ]
    assert Transcript.of(messages).messages == (
        Message("user", (Image("image/png", SHA, PNG), Text("What is it?"))),
        Message(
            "assistant",
            (Text("I look."), ToolCall("toolu_1", "look_up", '{"city":"Köln"}'), ToolCall("toolu_2", "now", "{}")),
        ),
        Message("tool", (ToolResult("toolu_1", (Text("21"),)),)),
        Message("tool", (ToolResult("toolu_2", (Text("broken"),), is_error=True),)),
        Message("user", "Well?"),
    )


def test_what_the_sdks_give_back_is_taken_as_it_is() -> None:
    said = ChatCompletionMessage.model_validate(
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "now", "arguments": "{}"}}],
        }
    )
    blocks = [
        anthropic.ThinkingBlock(type="thinking", thinking="hm", signature="s"),
        anthropic.TextBlock(type="text", text="I look."),
        anthropic.ToolUseBlock(type="tool_use", id="c", name="now", input={}),
    ]
    expected = Message("assistant", (Text("I look."), ToolCall("c", "now", "{}")))
    assert Transcript.of([said]).messages == (expected,)  # type: ignore[list-item]
    assert one(role="assistant", content=blocks) == (expected,)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "reasoning_details", "annotations"])
def test_what_is_left_out_is_left_out(key: str) -> None:
    assert one(role="assistant", content="42", **{key: ["anything"]}) == (Message("assistant", "42"),)


@pytest.mark.parametrize("content", [(Text("a"),), [Text("a")], "a"])
def test_a_lone_text_has_one_spelling_and_one_hash(content: Any) -> None:
    assert Message("user", content) == Message("user", "a")
    assert Transcript((Message("user", content),)).sha256 == Transcript.of("a").sha256


@pytest.mark.parametrize(
    ("role", "part"),
    [
        ("user", CALL),
        ("system", Image.of_data(PNG, "image/png")),
        ("assistant", Image.of_data(PNG, "image/png")),
        ("tool", Text("x")),
        ("assistant", ToolResult("c", ())),
        ("user", Refusal("no")),
    ],
)
def test_a_part_where_it_does_not_belong_is_refused(role: str, part: Part) -> None:
    with pytest.raises(TranscriptError, match=rf"an? {role} message holds"):
        Message(role, (part, part))


def test_a_result_is_never_a_bare_text() -> None:
    with pytest.raises(TranscriptError, match="each with the id of its call"):
        Message("tool", "21")


def test_the_hash_of_parts_is_over_their_fields_and_an_images_sha256() -> None:
    messages = (
        Message("user", (Text("a"), Image("image/png", SHA, PNG), Image.of_url("https://a/b", "low")), "ann"),
        Message("assistant", (CALL, Refusal("no"))),
        Message("tool", (ToolResult("call_1", (Text("t"), Image("image/png", SHA, PNG)), is_error=True),)),
    )
    image = {"type": "image", "media_type": "image/png", "sha256": SHA}
    far = {"type": "image", "media_type": "", "sha256": hashlib.sha256(b"https://a/b").hexdigest(), "detail": "low"}
    call = {"type": "tool_call", "id": "call_1", "name": "look_up", "arguments": CALL.arguments}
    result = {
        "type": "tool_result",
        "call_id": "call_1",
        "parts": [{"type": "text", "text": "t"}, image],
        "is_error": True,
    }
    plain = [
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "a"}, image, far]},
        {"role": "assistant", "content": [call, {"type": "refusal", "text": "no"}]},
        {"role": "tool", "content": [result]},
    ]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert Transcript(messages).sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_no_shipped_hash_has_moved() -> None:
    """Each suite's conversations by the rule as it was published, and each lane's record of them."""
    hashes: dict[str, dict[str, str]] = {}
    for path in data_path("fixtures/suites").glob("*.json"):
        cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
        hashes[path.stem] = {case["id"]: Transcript.of(case["messages"]).sha256 for case in cases}
        for case in cases:
            text = json.dumps(case["messages"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            assert hashes[path.stem][case["id"]] == hashlib.sha256(text.encode()).hexdigest()
    lanes = [
        json.loads(path.read_text(encoding="utf-8")) for path in data_path("fixtures/runtime_profiles").rglob("*.json")
    ]
    recorded = [(lane["suite"]["name"], case) for lane in lanes for case in lane["cases"] if lane.get("suite")]
    assert len(recorded) > 100
    own = [(suite, case) for suite, case in recorded if len(case.get("transcript_hash") or "") == 64]
    assert own
    for suite, case in own:
        assert case["transcript_hash"] == hashes[suite][case["id"]]


@given(CONVERSATIONS)
def test_a_conversation_is_written_as_json_and_read_back_as_itself(messages: tuple[Message, ...]) -> None:
    written = json.loads(json.dumps([to_plain(message) for message in messages]))
    assert tuple(from_plain(Message, each) for each in written) == messages


@settings(max_examples=60)
@given(CONVERSATIONS)
def test_what_this_package_writes_it_reads(messages: tuple[Message, ...]) -> None:
    assert Transcript.of(json.loads(json.dumps([to_plain(each) for each in messages]))).messages == messages


@given(CONVERSATIONS, CONVERSATIONS)
def test_two_conversations_share_a_hash_exactly_when_they_are_equal(
    ones: tuple[Message, ...], others: tuple[Message, ...]
) -> None:
    assert (Transcript(ones).sha256 == Transcript(others).sha256) == (ones == others)


@given(CONVERSATIONS, st.sampled_from(list(TextFormat)))
def test_every_conversation_reads_as_text(messages: tuple[Message, ...], text_format: TextFormat) -> None:
    assert isinstance(text_format.render(Transcript(messages)), str)


@settings(max_examples=60, deadline=None)
@given(CONVERSATIONS, st.sampled_from([None, ToolChoice(), ToolChoice(ToolMode.NAMED, "look_up", True)]))
def test_every_request_is_one_that_the_sdks_types_describe(
    messages: tuple[Message, ...], choice: ToolChoice | None
) -> None:
    tools = (Tool("look_up", "Looks.", {"type": "object"}, True),)
    request = Request(messages, Role.WORKER, 0, tools, choice, ResponseFormat({"type": "object"}))
    agent = Agent(0, "a", "any", "m")
    assert_request("openai", openai_request.to_wire(agent, request, {}) | {"model": "m", "stream": True})
    assert_request("anthropic", anthropic_request.to_wire(agent, request, {}) | {"model": "m", "stream": False})


@given(CONVERSATIONS)
def test_what_is_sent_in_openais_form_is_read_back_as_the_same_conversation(messages: tuple[Message, ...]) -> None:
    """But for what the form has no place for: whether a result failed, and images in it."""
    wire = openai_request.messages_to_wire(messages)
    texts = [message.text for message in messages if message.role in ("user", "assistant") and message.text]
    read = Transcript.of(json.loads(json.dumps(wire))).messages
    calls = [call for message in messages for call in message.tool_calls]
    assert [call for message in read for call in message.tool_calls] == calls
    spoken = [each.text for each in read if each.role in ("user", "assistant") and each.text]
    assert [text for text in spoken if text != openai_request.IMAGES_FOLLOW] == texts


def test_calls_results_images_and_refusals_read_as_short_text() -> None:
    messages = (
        Message("user", (Text("What is it?"), Image.of_data(PNG, "image/png"), Image.of_url("https://a/b"))),
        Message("assistant", (Text("I look."), ToolCall("c", "look_up", '{"q":"' + "x" * 1000 + '"}'))),
        Message("tool", (ToolResult.of_text("c", "a" * 700 + "b" * 700), ToolResult.of_text("d", "gone", True))),
        Message("assistant", (Refusal("No."),)),
    )
    arguments = '{"q":"' + "x" * 194 + " [... 708 characters ...] " + "x" * 98 + '"}'
    result = "a" * 600 + " [... 500 characters ...] " + "b" * 300
    assert TextFormat.ROLE_LINES.render(Transcript(messages)) == (
        "user: What is it?\n[image image/png]\n[image]\n"
        f"assistant: I look.\n[call look_up {arguments}]\n"
        f"tool: {result}\n[error] gone\n"
        "assistant: [refusal] No."
    )
    assert f'I look.\n<tool_call>\n{{"name": "look_up", "arguments": {arguments}}}\n</tool_call><|im_end|>' in (
        TextFormat.QWEN3_CHAT.render(Transcript(messages))
    )


@pytest.mark.parametrize(
    ("url", "media_type", "sha256", "reason"),
    [
        ("ftp://a", "", SHA, "begins with https"),
        (None, "png", SHA, "like image/png"),
        (None, "image/png", "abc", "64 hexadecimal"),
    ],
)
def test_an_image_that_is_none_is_refused(url: str | None, media_type: str, sha256: str, reason: str) -> None:
    with pytest.raises(TranscriptError, match=reason):
        Image(media_type, sha256, b"", url)


KEYS = [
    "role",
    "content",
    "name",
    "tool_calls",
    "tool_call_id",
    "refusal",
    "type",
    "text",
    "image_url",
    "url",
    "source",
]
KEYS += [
    "tool_use_id",
    "input",
    "id",
    "function",
    "arguments",
    "is_error",
    "media_type",
    "data",
    "detail",
    "other",
    "url",
]
WORDS_OF_SHAPES = [
    "user",
    "assistant",
    "tool",
    "text",
    "image_url",
    "image",
    "tool_use",
    "tool_result",
    "refusal",
    "url",
]
WORDS_OF_SHAPES += [
    "url",
    "function",
    "base64",
    "https://a/b",
    "data:image/png;base64,aGk=",
    "image/png",
    "aGk=",
    "thinking",
]


def attempt(work: Callable[[], Transcript]) -> Transcript | TranscriptError:
    try:
        return work()
    except TranscriptError as error:
        return error


SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=3) | st.sampled_from(WORDS_OF_SHAPES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(KEYS), SHAPES, max_size=5), max_size=3))
def test_messages_of_any_shape_are_a_transcript_or_a_short_transcript_error(source: Any) -> None:
    outcome = attempt(lambda: Transcript.of(source))
    if isinstance(outcome, TranscriptError):
        assert str(outcome).isprintable()
        assert len(str(outcome)) < 400
    else:
        assert Transcript(tuple(from_plain(Message, to_plain(each)) for each in outcome.messages)) == outcome
        assert len(outcome.sha256) == 64


def test_what_a_user_says_between_results_stays_where_it_was() -> None:
    result = {"type": "tool_result", "tool_use_id": "a", "content": "1"}
    content = [{"type": "text", "text": "x"}, result, {"type": "text", "text": "y"}, {**result, "tool_use_id": "b"}]
    assert [each.role for each in one(role="user", content=content)] == ["user", "tool", "user", "tool"]


def test_an_error_repeats_little_of_what_was_given() -> None:
    for source in (
        {"role": "x" * 1_000_000, "content": ""},
        {"role": "user", "content": "", "x" * 1_000_000: 1},
        {"role": "user", "content": [{"type": "x" * 1_000_000}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": "x" * 1_000_000}]},
    ):
        with pytest.raises(TranscriptError) as caught:
            Transcript.of([source])
        assert len(str(caught.value)) < 400

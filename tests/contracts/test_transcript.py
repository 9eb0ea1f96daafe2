"""Transcripts: what is accepted, what identifies one, and the two texts that a router reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import jinja2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import TranscriptError
from trinity_mlx.contracts.text_format import TextFormat
from trinity_mlx.contracts.transcript import ROLES, Message, Transcript

# The rules of Qwen3's own chat template with a generation prompt. A result of a tool is told by its role alone: the
# template also takes a user's message between its tags for one, since its messages have no other way to say so.
QWEN3_TEMPLATE = """
{%- set found = namespace(query=messages|length - 1, open=true) -%}
{%- for message in messages|reverse -%}
  {%- if found.open and message.role == 'user' -%}
    {%- set found.query = messages|length - 1 - loop.index0 -%}
    {%- set found.open = false -%}
  {%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
  {%- if message.role == 'tool' -%}
    {%- if loop.first or loop.previtem.role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
    {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' -}}
    {%- if loop.last or loop.nextitem.role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
  {%- else -%}
  {%- set content, reasoning = message.content or '', '' -%}
  {%- if message.role == 'assistant' and '</think>' in content -%}
    {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
    {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
  {%- endif -%}
  {{- '<|im_start|>' + message.role.replace('developer', 'system') + '\\n' -}}
  {%- if message.role == 'assistant' and loop.index0 > found.query and (loop.last or reasoning) -%}
    {{- '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') -}}
  {%- else -%}
    {{- content -}}
  {%- endif -%}
  {%- for call in message.tool_calls or [] -%}
    {%- if (loop.first and content) or not loop.first -%}{{- '\\n' -}}{%- endif -%}
    {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
    {{- call.function.arguments + '}\\n</tool_call>' -}}
  {%- endfor -%}
  {{- '<|im_end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\\n' -}}
  {%- if enable_thinking is defined and enable_thinking is false -%}
    {{- '<think>\\n\\n</think>\\n\\n' -}}
  {%- endif -%}
{%- endif -%}
"""
TEMPLATE = jinja2.Environment(keep_trailing_newline=True).from_string(QWEN3_TEMPLATE)

PIECES = st.sampled_from(
    ["<think>", "</think>", "<tool_response>", "</tool_response>", "\n", "\n\n", " ", "x", "é", "漢", "\r\n", "{{}}"]
)
CONTENTS = st.one_of(st.lists(PIECES, max_size=9).map("".join), st.text(max_size=20))
CONVERSATIONS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "developer"]), "content": CONTENTS}),
    min_size=1,
    max_size=6,
)
ONE_CALL = {"id": "c", "function": {"name": "now", "arguments": "{}"}}
CALLS = st.fixed_dictionaries(
    {
        "role": st.just("assistant"),
        "content": CONTENTS,
        "tool_calls": st.lists(
            st.builds(
                lambda name, arguments: {"id": "c", "function": {"name": name, "arguments": arguments}},
                st.text("abc_", min_size=1, max_size=5),
                st.sampled_from(["{}", '{"q": 1}', "", "no JSON"]),
            ),
            max_size=3,
        ),
    }
)
RESULTS = st.fixed_dictionaries({"role": st.just("tool"), "tool_call_id": st.just("c"), "content": CONTENTS})


def canonical_hash(messages: list[dict[str, str]]) -> str:
    text = json.dumps(messages, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def test_hash_of_a_known_transcript_is_a_known_literal() -> None:
    transcript = Transcript.of([user("What is 17 + 25?"), {"role": "assistant", "content": 'é "42"\n'}])
    assert transcript.sha256 == "15ec2addf6032d587e06fff0841dfa0c47ba63f4e3822bf15be8b01220c634f4"


@given(CONVERSATIONS)
def test_hash_is_sha256_over_canonical_json_of_the_messages(messages: list[dict[str, str]]) -> None:
    assert Transcript.of(messages).sha256 == canonical_hash(messages)


@given(CONVERSATIONS, CONVERSATIONS)
def test_two_transcripts_share_a_hash_exactly_when_they_are_equal(
    one: list[dict[str, str]], other: list[dict[str, str]]
) -> None:
    assert (Transcript.of(one).sha256 == Transcript.of(other).sha256) == (one == other)


def test_hash_depends_on_the_order_of_messages() -> None:
    messages = [user("a"), user("b")]
    assert Transcript.of(messages).sha256 != Transcript.of(messages[::-1]).sha256


@given(CONVERSATIONS)
def test_every_accepted_form_gives_the_same_transcript(messages: list[dict[str, str]]) -> None:
    objects = [Message(**message) for message in messages]
    forms = [Transcript.of(messages), Transcript.of(objects), Transcript.of(iter(objects))]
    assert all(form == Transcript(tuple(objects)) for form in forms)
    assert Transcript.of(forms[0]) is forms[0]


def test_a_prompt_is_one_user_message() -> None:
    assert Transcript.of("hello\n") == Transcript((Message("user", "hello\n"),))


def no_messages() -> Iterator[Message]:
    yield from ()


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ([], "empty"),
        (no_messages(), "empty"),
        (user("a"), "dict"),
        (b"hello", "bytes"),
        (bytearray(b"hello"), "message 0"),
        (17, "int"),
        (None, "NoneType"),
        (["hello"], "message 0"),
        ([user("a"), None], "message 1"),
        ([user("a"), {"content": "b"}], "message 1: it has no role"),
        ([{"role": "user"}], "message 0: it has no content"),
        ([{}], "message 0: it has no role and no content"),
        ([user("a"), {"role": "robot", "content": "b"}], "message 1: unknown role 'robot'"),
        ([user("a"), {"role": "tool", "content": "b"}], "message 1: tool_call_id is NoneType"),
        ([{**user("a"), "weight": 1}], "message 0: the message has the key 'weight'"),
        ([{**user("a"), "tool_call_id": "1"}], "only one of role 'tool' does"),
        ([{**user("a"), "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": ""}}]}], "not ToolCall"),
        ([{**user("a"), "tool_calls": "f"}], "tool_calls is str, not a list"),
        ([{"role": "assistant", "tool_calls": [{"type": "custom", "custom": {}}]}], "type is 'custom'"),
        ([{"role": "assistant", "function_call": {"name": "f"}}], "message 0 has no content|no content"),
        ([user("r" * 9), {"role": "r" * 1_000_000, "content": ""}], "unknown role 'rrr"),
        ([{"role": "User", "content": "b"}], "unknown role 'User'"),
        ([{"role": None, "content": "b"}], "unknown role None"),
        ([{"role": ["user"], "content": "b"}], "message 0: unknown role"),
        ([{"role": "user", "content": None}], "message 0: content of a user message is NoneType"),
        ([{"role": "user", "content": b"b"}], "is bytes"),
        ([{"role": "user", "content": [{"type": "text", "text": "b"}, 7]}], "message 0: part 1: it is int"),
        ([{"role": "user", "content": [{"type": "video"}]}], "message 0: part 0: its type is 'video'"),
        ([{"role": "user", "content": [{"type": "text", "text": "b", "bold": True}]}], "has the key 'bold'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "a text part is NoneType"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}],
            "begins with https",
        ),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "data:image/png;base64,?"}]}], "not base64"),
        ([{"role": "assistant", "content": [{"type": "tool_use", "id": 1, "name": "f"}]}], "tool call's id is int"),
        ([user("a"), user("ok"), user("ab\ud800")], "message 2: .*surrogate at character 2"),
        ("\udc80", "surrogate at character 0"),
    ],
)
def test_bad_input_is_a_transcript_error_that_names_the_place(source: Any, place: str) -> None:
    with pytest.raises(TranscriptError, match=place):
        Transcript.of(source)


def test_bad_input_is_a_usage_error_with_exit_code_two() -> None:
    assert TranscriptError.exit_code == 2


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON_VALUES)
def test_any_json_value_is_either_a_transcript_or_a_transcript_error(value: Any) -> None:
    try:
        transcript = Transcript.of(value)
    except TranscriptError as error:
        message = str(error)
    else:
        message = transcript.sha256
        assert all(each.role in ROLES for each in transcript.messages)
    assert message.isprintable()


def test_role_lines_are_role_colon_content_joined_by_one_newline() -> None:
    messages = [{"role": "system", "content": "Be brief.\n"}, user(""), {"role": "assistant", "content": "a: b"}]
    assert TextFormat.ROLE_LINES.render(Transcript.of(messages)) == "system: Be brief.\n\nuser: \nassistant: a: b"


@given(CONVERSATIONS)
def test_role_lines_of_any_conversation_follow_the_published_rule(messages: list[dict[str, str]]) -> None:
    expected = "\n".join("{role}: {content}".format(**message) for message in messages)
    assert TextFormat.ROLE_LINES.render(Transcript.of(messages)) == expected


@settings(max_examples=250, deadline=None)
@given(CONVERSATIONS)
def test_qwen3_chat_equals_the_models_own_template(messages: list[dict[str, str]]) -> None:
    expected = TEMPLATE.render(messages=messages, add_generation_prompt=True, enable_thinking=False)
    assert TextFormat.QWEN3_CHAT.render(Transcript.of(messages)) == expected


@example([{"role": "user", "content": ""}, {"role": "assistant", "content": "", "tool_calls": [ONE_CALL]}])
@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.one_of(CALLS, RESULTS, CONVERSATIONS.map(lambda messages: messages[0])), min_size=1, max_size=7),
)
def test_qwen3_chat_with_tools_equals_the_models_own_template(messages: list[dict[str, Any]]) -> None:
    expected = TEMPLATE.render(messages=messages, add_generation_prompt=True, enable_thinking=False)
    assert TextFormat.QWEN3_CHAT.render(Transcript.of(messages)) == expected


def test_qwen3_chat_of_one_question_is_the_documented_literal() -> None:
    rendered = TextFormat.QWEN3_CHAT.render(Transcript.of("Hi"))
    assert rendered == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_qwen3_chat_drops_reasoning_before_the_last_question_and_keeps_it_after() -> None:
    thought = {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nanswer"}
    rendered = TextFormat.QWEN3_CHAT.render(Transcript.of([user("q"), thought, user("q"), thought]))
    first, last = rendered.split("<|im_start|>assistant\n")[1:3]
    assert first.startswith("answer<|im_end|>")
    assert last.startswith("<think>\nwhy\n</think>\n\nanswer<|im_end|>")


def test_formats_are_named_as_artifacts_name_them() -> None:
    assert [str(each) for each in TextFormat] == ["role-lines", "qwen3-chat"]

"""What an agent is told and shown in each role."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.contracts.routing import Role
from trinity_mlx.contracts.transcript import Message
from trinity_mlx.rules.roles import CallForm, call_messages, instruction, request
from trinity_mlx.rules.suggestion import parse_suggestion
from trinity_mlx.rules.verdict import VerdictWords, parse_verdict

TASK = (Message("user", "What is 6 * 7?"),)
REPLIES = st.lists(st.tuples(st.sampled_from(Role), st.text(max_size=5)), max_size=5)
MESSAGES = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text(max_size=5)), min_size=1, max_size=5
)


def said(text: str) -> Message:
    return Message("assistant", text)


def as_turns(replies: list[tuple[Role, str]]) -> list[tuple[Role, list[Message]]]:
    return [(role, [said(text)]) for role, text in replies]


def test_each_role_is_told_something_else() -> None:
    assert len({instruction(role) for role in Role}) == len({request(role) for role in Role}) == 3
    for role in Role:
        assert role.label in instruction(role)
        assert role.label in request(role)


def test_the_thinker_is_asked_for_tags_that_can_be_read() -> None:
    assert parse_suggestion(instruction(Role.THINKER)) is not None
    assert "solver" in instruction(Role.THINKER)
    assert "verifier" in instruction(Role.THINKER)


def test_the_published_thinker_is_not() -> None:
    assert "<" not in instruction(Role.THINKER, ask_suggestions=False)
    assert instruction(Role.THINKER).startswith(instruction(Role.THINKER, ask_suggestions=False))


@pytest.mark.parametrize("role", [Role.WORKER, Role.VERIFIER])
def test_no_other_role_hears_of_tags(role: Role) -> None:
    assert instruction(role) == instruction(role, ask_suggestions=False)
    assert "<" not in instruction(role)


def test_the_verifier_is_told_both_words_that_are_read() -> None:
    for word in ("ACCEPT", "REVISE"):
        assert word in instruction(Role.VERIFIER)
        assert parse_verdict(word, VerdictWords.STRICT).status != "unknown"


def test_plain_puts_the_instruction_before_the_messages_as_they_are() -> None:
    task = (Message("system", "Be brief."), *TASK, Message("assistant", "41"))
    messages = call_messages(Role.VERIFIER, task, [(Role.WORKER, [said("42")])], CallForm.PLAIN)
    assert messages == (Message("system", instruction(Role.VERIFIER)), *task, Message("assistant", "42"))


def test_a_dialogue_merges_system_messages_behind_the_instruction() -> None:
    task = (Message("system", "Be brief."), *TASK, Message("system", "Use French."))
    told = instruction(Role.WORKER)
    assert call_messages(Role.WORKER, task, []) == (Message("system", f"{told}\n\nBe brief.\n\nUse French."), *TASK)


def test_a_dialogue_asks_for_each_reply_that_no_user_asked_for() -> None:
    replies = [(Role.THINKER, [said("multiply")]), (Role.WORKER, [said("42")])]
    assert call_messages(Role.VERIFIER, TASK, replies)[1:] == (
        *TASK,
        Message("assistant", "multiply"),
        Message("user", request(Role.WORKER)),
        Message("assistant", "42"),
        Message("user", request(Role.VERIFIER)),
    )


def test_a_task_of_system_messages_alone_still_ends_with_a_user() -> None:
    messages = call_messages(Role.THINKER, (Message("system", "Greet."),), [])
    assert [message.role for message in messages] == ["system", "user"]


@given(MESSAGES, REPLIES, st.sampled_from(Role))
def test_a_dialogue_is_what_strict_providers_take(
    task: list[Message], replies: list[tuple[Role, str]], role: Role
) -> None:
    messages = call_messages(role, task, as_turns(replies))
    assert [message.role for message in messages].count("system") == 1
    assert messages[0].role == "system"
    assert messages[-1].role == "user"
    new = messages[1 + sum(message.role != "system" for message in task) :]
    assert all(one.role != other.role for one, other in pairwise(new))


@given(MESSAGES, REPLIES, st.sampled_from(Role), st.sampled_from(CallForm))
def test_every_text_of_the_conversation_is_shown_in_order(
    task: list[Message], replies: list[tuple[Role, str]], role: Role, form: CallForm
) -> None:
    messages = call_messages(role, task, as_turns(replies), form)
    shown_texts = [m.content for m in messages[1:] if m.role != "system" and m.content not in map(request, Role)]
    told = [m for m in task if m.role != "system"]
    assert shown_texts == [*(message.content for message in told), *(text for _, text in replies)]
    for message in task:
        assert any(message.content in shown.content for shown in messages if shown.role == message.role)


@given(MESSAGES, REPLIES, st.sampled_from(Role), st.sampled_from(Role), st.text(max_size=5))
def test_a_call_continues_the_one_before_it(
    task: list[Message], replies: list[tuple[Role, str]], role: Role, after: Role, text: str
) -> None:
    call = call_messages(role, task, as_turns(replies))
    following = call_messages(after, task, as_turns([*replies, (role, text)]))
    assert following[1 : len(call)] == call[1:]
    assert following[len(call)] == Message("assistant", text)

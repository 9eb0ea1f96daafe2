"""What every provider does with the answer that it was given: leave out the reasoning, refuse one that holds
nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..contracts.errors import ReplyInvalid
from ..contracts.parts import Part, Refusal, Text, ToolCall
from ..contracts.provider import Finish, Reply, Usage, counted
from ..contracts.transcript import Message
from .wire.failures import Callee
from .wire.thinking import strip_thinking

MAX_NAME = 500
"""Characters of the name of a model or a request; a longer one is none."""


def finished_reply(
    callee: Callee,
    text: str,
    finish: Finish,
    *,
    calls: Sequence[ToolCall] = (),
    refusal: str | None = None,
    model: str | None = None,
    usage: Usage | None = None,
    request_id: str | None = None,
) -> Reply:
    """The reply that a text, calls of tools and a refusal make; None is no refusal, an empty one a refusal without
    words.

    Raises:
        ReplyInvalid: there is none of them but space.
    """
    answer = strip_thinking(text)
    said: list[Part] = [Text(answer)] if answer.strip() else []
    parts = (*said, *calls, *([Refusal(refusal)] if refusal is not None else []))
    if parts:
        ending = _ending(finish, bool(calls), refusal is not None)
        return Reply(Message("assistant", parts), ending, _fit(model) or callee.agent.model, usage, _fit(request_id))
    if finish is Finish.LENGTH:
        reason = "the token limit was reached before an answer began; raise max_tokens"
    elif finish is Finish.CONTENT_FILTER:
        reason = "the answer was withheld by the provider's filter"
    else:
        reason = "the answer is empty"
    repeats = finish in (Finish.LENGTH, Finish.CONTENT_FILTER)
    raise callee.error(ReplyInvalid, reason, retryable=False if repeats else None, request_id=request_id)


def checked_reply(callee: Callee, reply: object) -> Reply:
    """``reply`` of a provider of any make, held to its types: what is merely reported and unfit is left out.

    Raises:
        ReplyInvalid: it is no Reply, or holds no message of the assistant with something in it.
    """
    if not isinstance(reply, Reply) or not isinstance(reply.message, Message) or not _holds_something(reply.message):
        raise callee.error(ReplyInvalid, "its provider returned no reply with a text in it")
    if not isinstance(reply.finish, Finish):
        raise callee.error(ReplyInvalid, f"its reply ends with {callee.quoted(repr(reply.finish))}, no Finish")
    usage = reply.usage
    return replace(
        reply,
        model=_fit(reply.model) or callee.agent.model,
        usage=counted(usage.input_tokens, usage.output_tokens) if isinstance(usage, Usage) else None,
        request_id=_fit(reply.request_id),
    )


def _holds_something(message: Message) -> bool:
    is_there = bool(message.text.strip() or message.tool_calls)
    return message.role == "assistant" and (is_there or any(isinstance(part, Refusal) for part in message.parts))


def _ending(finish: Finish, has_calls: bool, is_refusal: bool) -> Finish:
    """``finish`` as what the reply holds has it: servers differ in what they say of calls and refusals."""
    if is_refusal:
        return Finish.REFUSED
    if has_calls and finish in (Finish.STOP, Finish.OTHER):
        return Finish.TOOL_CALLS
    return Finish.OTHER if finish in (Finish.TOOL_CALLS, Finish.REFUSED) and not has_calls else finish


def _fit(value: object) -> str | None:
    """``value`` where it is a name that a line can show."""
    return value if isinstance(value, str) and value.isprintable() and len(value) <= MAX_NAME else None

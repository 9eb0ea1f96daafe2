"""What every provider does with the text that it was given: leave out the reasoning, refuse an empty answer."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from ..contracts.errors import ReplyInvalid
from ..contracts.provider import Finish, Reply, Usage
from .wire.failures import Callee
from .wire.thinking import strip_thinking


def _encodable(text: str) -> str:
    text.encode("utf-8")
    return text


Text = Annotated[str, AfterValidator(_encodable)]
"""Text of a model that is valid Unicode: JSON can spell half a character, which nothing after it could write down."""


def finished_reply(
    callee: Callee,
    text: str,
    finish: Finish,
    *,
    model: str | None = None,
    usage: Usage | None = None,
    request_id: str | None = None,
) -> Reply:
    """The reply that ``text`` makes.

    Raises:
        ReplyInvalid: nothing is left but space.
    """
    answer = strip_thinking(text)
    if answer.strip():
        return Reply(answer, finish, model or callee.agent.model, usage, request_id)
    if finish is Finish.LENGTH:
        reason = "the token limit was reached before an answer began; raise max_tokens"
    elif finish is Finish.CONTENT_FILTER:
        reason = "the answer was withheld by the provider's filter"
    else:
        reason = "the answer is empty"
    repeats = finish in (Finish.LENGTH, Finish.CONTENT_FILTER)
    raise callee.error(ReplyInvalid, reason, retryable=False if repeats else None, request_id=request_id)

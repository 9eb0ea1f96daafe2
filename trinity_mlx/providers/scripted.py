"""Answers read from a file: the same ones every time, for tests and for demonstrations without a network.

A script is TOML or JSON with a list of ``replies``. The first whose conditions all hold is given::

    [[replies]]
    role = "Verifier"            # Worker, Thinker or Verifier; without it, any
    turn = 2                     # counted from 0; without it, any
    contains = "42"              # a part of some message or of a tool's result; without it, anything
    last = "tool"                # the role of the last message; without it, any
    tools = true                 # whether tools are offered; without it, either way
    text = "ACCEPT"
    finish = "stop"              # or length, content_filter, other
    delay_s = 0.5                # before the answer
    usage = { input_tokens = 10, output_tokens = 1 }

    [[replies]]
    tool_calls = [{ name = "look_up", arguments = { city = "Paris" } }]     # or arguments as text; id, if it matters

    [[replies]]
    refusal = "I will not help with that."

    [[replies]]
    error = "unavailable"        # or unreachable, timeout, refused, rate_limited, invalid; text says what

Tokens that ``usage`` does not state are counted as words: an order of magnitude, and not what a model would count.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field, JsonValue

from ..contracts.errors import (
    PoolInvalid,
    ProviderError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
    ProviderUnreachable,
    ReplyInvalid,
)
from ..contracts.parts import ToolResult
from ..contracts.pool import Agent
from ..contracts.provider import MAX_COUNT, Finish, OnText, Provider, Reply, Request, Usage
from ..contracts.transcript import Message
from ..files.models import Faults, Strict, as_model, parse_model, parse_toml, read_content
from .answers import finished_reply
from .wire.calls import call_of
from .wire.failures import Callee
from .wire.shape import Text
from .wire.thinking import ThinkingFilter

ERRORS: dict[str, type[ProviderError]] = {
    "unreachable": ProviderUnreachable,
    "timeout": ProviderTimeout,
    "refused": ProviderRefused,
    "rate_limited": ProviderRateLimited,
    "unavailable": ProviderUnavailable,
    "invalid": ReplyInvalid,
}


_FAULTS = Faults(PoolInvalid)


class _Loose(Strict):
    model_config = ConfigDict(strict=False)


class _Usage(_Loose):
    input_tokens: int = Field(ge=0, le=MAX_COUNT)
    output_tokens: int = Field(ge=0, le=MAX_COUNT)


class _Call(_Loose):
    name: Text = Field(min_length=1)
    arguments: Text | dict[str, JsonValue] = Field(default_factory=dict)
    id: Text | None = None

    @property
    def text(self) -> str:
        given = self.arguments
        return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)


class _Rule(_Loose):
    role: Literal["Worker", "Thinker", "Verifier"] | None = None
    turn: int | None = Field(None, ge=0)
    contains: str | None = None
    last: Literal["system", "user", "assistant", "developer", "tool"] | None = None
    tools: bool | None = None
    text: Text = ""
    tool_calls: tuple[_Call, ...] = ()
    refusal: Text | None = None
    finish: Finish = Finish.STOP
    usage: _Usage | None = None
    delay_s: float = Field(0.0, ge=0)
    error: Literal["unreachable", "timeout", "refused", "rate_limited", "unavailable", "invalid"] | None = None

    def fits(self, request: Request) -> bool:
        return (
            self.role in (None, request.role.label)
            and self.turn in (None, request.turn)
            and self.last in (None, request.messages[-1].role if request.messages else None)
            and self.tools in (None, bool(request.tools))
            and (self.contains is None or any(self.contains in _words_of(each) for each in request.messages))
        )


class _Script(_Loose):
    replies: tuple[_Rule, ...] = Field(min_length=1)


def make_provider(agent: Agent, api_key: str | None) -> Provider:
    """The provider of an agent with ``provider = "scripted"``.

    ``extra`` holds ``script``, the path of a TOML or JSON file, or ``replies`` themselves.

    Raises:
        PoolInvalid: there is no script, or it is malformed.
    """
    return Scripted(agent, _script_of(agent))


class Scripted:
    """Answers by the first rule that fits."""

    is_live = False

    def __init__(self, agent: Agent, script: _Script) -> None:
        self._callee = Callee(agent)
        self._script = script

    async def reply(self, request: Request, on_text: OnText | None = None) -> Reply:
        """One attempt; see ``Provider``. With ``on_text`` the answer comes word by word."""
        rule = self._rule_for(request)
        await asyncio.sleep(rule.delay_s)
        if rule.error:
            raise self._callee.error(ERRORS[rule.error], rule.text or f"the script asks for the error {rule.error!r}")
        if on_text:
            await _stream(rule.text, on_text)
        usage = Usage(rule.usage.input_tokens, rule.usage.output_tokens) if rule.usage else _words(request, rule.text)
        calls = [call_of(self._callee, each.id, each.name, each.text) for each in rule.tool_calls]
        return finished_reply(self._callee, rule.text, rule.finish, calls=calls, refusal=rule.refusal, usage=usage)

    async def close(self) -> None:
        """Nothing is held."""

    def _rule_for(self, request: Request) -> _Rule:
        for rule in self._script.replies:
            if rule.fits(request):
                return rule
        last = _words_of(request.messages[-1]) if request.messages else ""
        raise self._callee.error(
            ReplyInvalid,
            f"no reply of the script fits role {request.role.label}, turn {request.turn} and the last message "
            f"{self._callee.quoted(last)!r}; add one without conditions at the end",
            retryable=False,
        )


def _words_of(message: Message) -> str:
    """The text of a message, results of tools included."""
    return message.text + "".join(part.text for part in message.parts if isinstance(part, ToolResult))


async def _stream(text: str, on_text: OnText) -> None:
    passed = ThinkingFilter(on_text)
    for word in re.findall(r"\S+\s*|\s+", text):
        passed.feed(word)
        await asyncio.sleep(0)
    passed.end()


def _words(request: Request, text: str) -> Usage:
    return Usage(sum(len(_words_of(each).split()) for each in request.messages), len(text.split()))


def _script_of(agent: Agent) -> _Script:
    unknown = sorted(set(agent.extra) - {"script", "replies"})
    if unknown or len(agent.extra) != 1:
        named = ", ".join(map(repr, agent.extra)) or "nothing"
        raise PoolInvalid(
            f"agent {agent.name!r}: a scripted agent's extra holds either script (a path) or replies, not {named}"
        )
    if "replies" in agent.extra:
        return as_model(agent.extra, _Script, f"replies of agent {agent.name!r}", _FAULTS)
    path = Path(str(agent.extra["script"]))
    origin = f"script {path} of agent {agent.name!r}"
    content = read_content(path, _FAULTS, origin=origin)
    if path.suffix == ".json":
        return parse_model(content, _Script, origin, _FAULTS)
    return as_model(parse_toml(content, origin, _FAULTS), _Script, origin, _FAULTS)

"""What a provider offers: messages in, one reply out; the protocol of the entry points ``trinity_mlx.providers``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from .pool import Agent
from .routing import Role
from .transcript import Message

ENTRY_POINT_GROUP = "trinity_mlx.providers"

MAX_COUNT = 2**53
"""The largest number of tokens that is believed: whatever reads JSON holds whole numbers exactly up to it."""

OnText = Callable[[str], None]
"""Told each piece of text as it arrives."""


class Finish(StrEnum):
    """Why a reply ended."""

    STOP = "stop"
    """The model was done."""
    LENGTH = "length"
    """The token limit cut it; such a reply is never read as a verdict."""
    TOOL_CALLS = "tool_calls"
    """The model asks for tools to be called; the reply holds at least one call."""
    REFUSED = "refused"
    """The model will not answer; the reply holds its refusal. Asking again costs as much and brings the same."""
    CONTENT_FILTER = "content_filter"
    """The provider withheld the rest."""
    OTHER = "other"
    """Something else, or the provider did not say."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a provider counted for one call, each from 0 to ``MAX_COUNT``; a sum stays there."""

    input_tokens: int
    output_tokens: int

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            min(MAX_COUNT, self.input_tokens + other.input_tokens),
            min(MAX_COUNT, self.output_tokens + other.output_tokens),
        )


def counted(input_tokens: object, output_tokens: object) -> Usage | None:
    """What a provider counted; None where it did not, or where a count is no whole number from 0 to ``MAX_COUNT``."""
    if type(input_tokens) is not int or type(output_tokens) is not int:
        return None
    if not (0 <= input_tokens <= MAX_COUNT and 0 <= output_tokens <= MAX_COUNT):
        return None
    return Usage(input_tokens, output_tokens)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may ask to have called.

    ``parameters`` is the JSON schema of its arguments. ``strict`` asks the provider to hold arguments to it.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool | None = None


class ToolMode(StrEnum):
    """Whether a model may call tools."""

    AUTO = "auto"
    """It decides."""
    NONE = "none"
    """It may not."""
    REQUIRED = "required"
    """It must call one."""
    NAMED = "named"
    """It must call the one that is named."""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools a model may call; ``name`` goes with ``NAMED``, ``parallel`` says whether several at once."""

    mode: ToolMode = ToolMode.AUTO
    name: str = ""
    parallel: bool | None = None


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """JSON as the form of the answer: any object, or one of ``schema``."""

    schema: Mapping[str, Any] | None = None
    name: str = "answer"
    description: str = ""
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one call is sampled; what is None is left to the agent, and then to the provider."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One call of an agent: the messages with the role's instruction in front, the role, and the turn (from 0).

    Tools, response format and sampling are those of whoever asked for the run, and reach a Worker alone.
    """

    messages: tuple[Message, ...]
    role: Role
    turn: int
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    response_format: ResponseFormat | None = None
    sampling: Sampling = Sampling()


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer: a message of the assistant that holds a text, calls of tools or a refusal, never nothing.

    ``usage`` is None where the provider did not count.
    """

    message: Message
    finish: Finish
    model: str
    usage: Usage | None = None
    request_id: str | None = None

    @property
    def text(self) -> str:
        """The text of the message; empty where it holds calls or a refusal alone."""
        return self.message.text


class Provider(Protocol):
    """Calls one agent's model. Made once for an agent, used by many runs at once."""

    @property
    def is_live(self) -> bool:
        """Whether a call leaves this process and may cost money."""

    async def reply(self, request: Request, on_text: OnText | None = None) -> Reply:
        """One attempt, without retries; with ``on_text`` the answer is streamed.

        The caller sets the time limit and cancels; cancelling must not leave a connection open.

        Raises:
            ProviderError: there is no usable answer; the class and its attributes say why.
        """

    async def close(self) -> None:
        """Give back connections and models."""


class ProviderFactory(Protocol):
    """What an entry point names: makes the provider of one agent.

    Raises:
        PoolInvalid: the agent lacks something that this provider needs.
        EnvironmentUnavailable: a package that it needs is not installed.
    """

    def __call__(self, agent: Agent, api_key: str | None) -> Provider:
        """The provider for ``agent``; ``api_key`` is the resolved secret, None where the agent names none."""

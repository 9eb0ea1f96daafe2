"""What a provider offers: messages in, one reply out; the protocol of the entry points ``trinity_mlx.providers``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from .pool import Agent
from .routing import Role
from .transcript import Message

ENTRY_POINT_GROUP = "trinity_mlx.providers"

OnText = Callable[[str], None]
"""Told each piece of text as it arrives."""


class Finish(StrEnum):
    """Why a reply ended."""

    STOP = "stop"
    """The model was done."""
    LENGTH = "length"
    """The token limit cut it; such a reply is never read as a verdict."""
    CONTENT_FILTER = "content_filter"
    """The provider withheld the rest."""
    OTHER = "other"
    """Something else, or the provider did not say."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a provider counted for one call."""

    input_tokens: int
    output_tokens: int

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens)


@dataclass(frozen=True, slots=True)
class Request:
    """One call of an agent: the messages with the role's instruction in front, the role, and the turn (from 0)."""

    messages: tuple[Message, ...]
    role: Role
    turn: int


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. ``text`` is never blank; ``usage`` is None where the provider did not count."""

    text: str
    finish: Finish
    model: str
    usage: Usage | None = None
    request_id: str | None = None


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

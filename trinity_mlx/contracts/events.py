"""What happens in a run, as events: the live view shows them, a trace keeps them."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from .canonical import canonical_json
from .provider import Usage
from .routing import Margins, Role, RouteLogits
from .transcript import Message, Transcript

SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class Content:
    """Text of a user or a model: a trace keeps its hash and length, and the text itself only where asked to.

    Of a message that holds parts it is their canonical JSON, as in the transcript's hash: images by their hash alone.
    """

    text: str
    is_parts: bool = False

    @classmethod
    def of(cls, message: Message) -> Content:
        """The content of ``message``."""
        if isinstance(message.content, str):
            return cls(message.content)
        return cls(canonical_json(message.hashed()["content"]).decode("utf-8"), is_parts=True)


@dataclass(frozen=True, slots=True)
class TaskMessage:
    """One message of a task; ``name`` is that of its participant, empty where there is none."""

    role: str
    content: Content
    name: str = ""

    @classmethod
    def all_of(cls, transcript: Transcript) -> tuple[TaskMessage, ...]:
        """The messages of ``transcript``."""
        return tuple(cls(message.role, Content.of(message), message.name) for message in transcript.messages)


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins. ``agents`` holds slot, name, provider and model of each; ``limits`` only what is limited.

    ``resumes`` is the id of the part of this run that waited for tools before; ``task`` is then everything said so far.
    """

    kind: ClassVar[str] = "run_started"
    task: tuple[TaskMessage, ...]
    transcript_hash: str
    policy: Mapping[str, Any]
    pool: str
    agents: tuple[Mapping[str, Any], ...]
    limits: Mapping[str, float]
    router: Mapping[str, Any]
    resumes: str | None = None


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """A turn begins (counted from 0); ``transcript_hash`` is that of everything said so far."""

    kind: ClassVar[str] = "turn_started"
    turn: int
    messages: int
    transcript_hash: str


@dataclass(frozen=True, slots=True)
class Routed:
    """The router was read and the policy applied.

    ``raw_slot`` and ``raw_role`` are the router's own choice, ``slot`` and ``role`` what the policy made of it;
    ``adjustments`` names each rule that changed something, in order. ``read_hash`` is the hash of the transcript that
    the router read, which is not the whole one under some policies. What the router gave is None where it was bypassed.
    """

    kind: ClassVar[str] = "routed"
    turn: int
    slot: int
    role: Role
    raw_slot: int | None
    raw_role: Role | None
    adjustments: tuple[str, ...]
    margins: Margins | None
    logits: RouteLogits | None
    read_hash: str | None
    route_hash: str | None
    token_count: int | None
    latency_ms: float


@dataclass(frozen=True, slots=True)
class ProviderCalled:
    """An attempt at a provider begins; ``attempt`` counts from 1 for each agent of a turn."""

    kind: ClassVar[str] = "provider_called"
    turn: int
    slot: int
    agent: str
    provider: str
    model: str
    role: Role
    attempt: int


@dataclass(frozen=True, slots=True)
class ProviderFailed:
    """An attempt gave no usable answer; ``retry_in_s`` is None where no further attempt at this agent follows.

    Text that was streamed in it no longer counts.
    """

    kind: ClassVar[str] = "provider_failed"
    turn: int
    slot: int
    agent: str
    attempt: int
    error: str
    message: str
    status: int | None
    latency_ms: float
    retry_in_s: float | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Fallback:
    """An agent has failed for this turn, and the next best takes it."""

    kind: ClassVar[str] = "fallback"
    turn: int
    from_slot: int
    to_slot: int
    reason: str


@dataclass(frozen=True, slots=True)
class ToolsCalled:
    """A Worker asks for ``calls`` tools in the middle of its turn.

    ``message`` holds them, ``transcript_hash`` includes it.
    """

    kind: ClassVar[str] = "tools_called"
    turn: int
    slot: int
    agent: str
    model: str
    calls: int
    message: Content
    finish: str
    usage: Usage | None
    cost_usd: float | None
    latency_ms: float
    request_id: str | None
    transcript_hash: str


@dataclass(frozen=True, slots=True)
class ToolsAnswered:
    """The tools have run, and the Worker goes on; ``results`` are in the order of the calls."""

    kind: ClassVar[str] = "tools_answered"
    turn: int
    slot: int
    results: tuple[Content, ...]
    errors: int
    latency_ms: float
    transcript_hash: str


@dataclass(frozen=True, slots=True)
class TurnCompleted:
    """A reply joined the transcript. ``cost_usd`` is None where the agent has no price or nobody counted tokens.

    Usage, cost and latency are those of all calls of the agent in this turn, between which tools may have run.
    """

    kind: ClassVar[str] = "turn_completed"
    turn: int
    slot: int
    agent: str
    model: str
    role: Role
    reply: Content
    finish: str
    usage: Usage | None
    cost_usd: float | None
    latency_ms: float
    request_id: str | None
    verdict: str | None
    suggested_role: Role | None
    fallback_from: int | None
    transcript_hash: str


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A person has decided whether the answer is released; ``reviewer`` is who, empty where nobody said."""

    kind: ClassVar[str] = "reviewed"
    approved: bool
    reviewer: str
    comment: Content


@dataclass(frozen=True, slots=True)
class RunPaused:
    """A run waits for ``calls`` tools, or for a review where that is 0; another part, which names this one, goes on."""

    kind: ClassVar[str] = "run_paused"
    status: str
    calls: int
    turns: int
    usage: Usage
    cost_usd: float | None
    wall_ms: float


@dataclass(frozen=True, slots=True)
class RunCompleted:
    """A run ended with a message for the user; ``status`` is ``accepted``, ``max_turns`` or ``refused``."""

    kind: ClassVar[str] = "run_completed"
    status: str
    answer: Content
    turns: int
    usage: Usage
    cost_usd: float | None
    wall_ms: float


@dataclass(frozen=True, slots=True)
class RunFailed:
    """A run ended without one that counts; ``answer`` is the best so far. ``status``: budget_exceeded or failed."""

    kind: ClassVar[str] = "run_failed"
    status: str
    error: str
    message: str
    details: Mapping[str, Any]
    answer: Content | None
    turns: int
    usage: Usage
    cost_usd: float | None
    wall_ms: float


Event = (
    RunStarted
    | TurnStarted
    | Routed
    | ProviderCalled
    | ProviderFailed
    | Fallback
    | ToolsCalled
    | ToolsAnswered
    | TurnCompleted
    | Reviewed
    | RunPaused
    | RunCompleted
    | RunFailed
)

End = RunPaused | RunCompleted | RunFailed
"""The last event of a run, or of the part of it up to its tools."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of a reply as it arrives; no trace keeps it."""

    turn: int
    slot: int
    role: Role
    text: str


class Sink(Protocol):
    """Where events go; several may listen to one run.

    One that also has ``delta(self, delta: TextDelta) -> None`` is told each piece of text as it arrives, in order with
    the events, and providers stream.
    """

    def emit(self, event: Event) -> Awaitable[None] | None:
        """Take one event, in order.

        What is given back is awaited before the run asks an agent, a tool or a person, and before it ends. What
        either raises ends the run.
        """

    def close(self) -> None:
        """No more events follow."""

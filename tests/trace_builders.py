"""Events of runs, as a coordinator tells them, for the tests of traces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trinity_mlx.contracts.canonical import canonical_sha256, fixed6
from trinity_mlx.contracts.events import (
    Content,
    Event,
    Fallback,
    ProviderCalled,
    ProviderFailed,
    Routed,
    RunCompleted,
    RunFailed,
    RunStarted,
    TaskMessage,
    TurnCompleted,
    TurnStarted,
)
from trinity_mlx.contracts.provider import Usage
from trinity_mlx.contracts.routing import Margins, Role, RouteLogits
from trinity_mlx.contracts.transcript import Message, Transcript
from trinity_mlx.tracing.jsonl import JsonlTrace

TASK = Transcript.of("What is 17 + 25?\nassistant, answer [briefly].")
REPLIES = ("17 + 25 = 42", "ACCEPT: 42 is right")
LOGITS = RouteLogits((0.5, -1.25), (2.0, 0.1, -0.30000001))


class Clock:
    """Starts on 2 January 2026 at 03:04:05 UTC; each reading is 250 ms after the one before."""

    def __init__(self) -> None:
        self.readings = 0

    def __call__(self) -> tuple[float, float]:
        self.readings += 1
        passed = 0.25 * (self.readings - 1)
        return 1767323045.0 + passed, 77.0 + passed


def started(task: Transcript = TASK, **changes: Any) -> RunStarted:
    fields: dict[str, Any] = {
        "task": TaskMessage.all_of(task),
        "transcript_hash": task.sha256,
        "policy": {"name": "default", "max_turns": 5, "floor_margin": None},
        "pool": "pair",
        "agents": (
            {"slot": 0, "name": "alpha", "provider": "scripted", "model": "a-1"},
            {"slot": 1, "name": "beta", "provider": "openai", "model": "b-2"},
        ),
        "limits": {"tokens": 5000},
        "router": {"artifact": "nano", "profile": "cpu"},
    }
    return RunStarted(**fields | changes)


def routed(turn: int, role: Role = Role.WORKER, read_hash: str | None = None, **changes: Any) -> Routed:
    logits = {"agent": [fixed6(value) for value in LOGITS.agent], "role": [fixed6(value) for value in LOGITS.role]}
    fields: dict[str, Any] = {
        "turn": turn,
        "slot": 0,
        "role": role,
        "raw_slot": 0,
        "raw_role": Role.WORKER,
        "adjustments": (),
        "margins": Margins(1.75, 1.9),
        "logits": LOGITS,
        "read_hash": read_hash,
        "route_hash": canonical_sha256({"slot": 0, "role": 0, "logits": logits}),
        "token_count": 12,
        "latency_ms": 3.25,
    }
    return Routed(**fields | changes)


def called(turn: int, slot: int = 0, attempt: int = 1, role: Role = Role.WORKER) -> ProviderCalled:
    name, provider, model = (("alpha", "scripted", "a-1"), ("beta", "openai", "b-2"))[slot]
    return ProviderCalled(turn, slot, name, provider, model, role, attempt)


def failed(turn: int, slot: int = 0, attempt: int = 1, **changes: Any) -> ProviderFailed:
    fields: dict[str, Any] = {
        "turn": turn,
        "slot": slot,
        "agent": ("alpha", "beta")[slot],
        "attempt": attempt,
        "error": "ProviderRateLimited",
        "message": "slow down [please]",
        "status": 429,
        "latency_ms": 120.0,
        "retry_in_s": None,
        "request_id": "req-1",
    }
    return ProviderFailed(**fields | changes)


def completed(turn: int, transcript: Transcript, slot: int = 0, **changes: Any) -> TurnCompleted:
    fields: dict[str, Any] = {
        "turn": turn,
        "slot": slot,
        "agent": ("alpha", "beta")[slot],
        "model": ("a-1", "b-2")[slot],
        "role": Role.WORKER,
        "reply": Content(transcript.messages[-1].content),
        "finish": "stop",
        "usage": Usage(120, 33),
        "cost_usd": 0.0012,
        "latency_ms": 812.0,
        "request_id": None,
        "verdict": None,
        "suggested_role": None,
        "fallback_from": None,
        "transcript_hash": transcript.sha256,
    }
    return TurnCompleted(**fields | changes)


def ended(**changes: Any) -> RunCompleted:
    fields: dict[str, Any] = {
        "status": "accepted",
        "answer": Content(REPLIES[0]),
        "turns": 2,
        "usage": Usage(240, 66),
        "cost_usd": 0.0024,
        "wall_ms": 2500.0,
    }
    return RunCompleted(**fields | changes)


def failure(**changes: Any) -> RunFailed:
    fields: dict[str, Any] = {
        "status": "budget_exceeded",
        "error": "BudgetExceeded",
        "message": "the run exceeds its limit of tokens: 6000 of 5000",
        "details": {"limit": 5000.0},
        "answer": None,
        "turns": 0,
        "usage": Usage(0, 0),
        "cost_usd": None,
        "wall_ms": 900.0,
    }
    return RunFailed(**fields | changes)


def extended(transcript: Transcript, reply: str) -> Transcript:
    return Transcript((*transcript.messages, Message("assistant", reply)))


def good_run(task: Transcript = TASK) -> Iterator[Event]:
    """Every kind of event but a failed end: a retry, a fallback, a changed role, a verdict."""
    first = extended(task, REPLIES[0])
    second = extended(first, REPLIES[1])
    yield started(task)
    yield TurnStarted(0, len(task.messages), task.sha256)
    yield routed(0, read_hash=task.sha256)
    yield called(0)
    yield failed(0, retry_in_s=1.5)
    yield called(0, attempt=2)
    yield failed(0, attempt=2)
    yield Fallback(0, 0, 1, "ProviderRateLimited: slow down")
    yield called(0, slot=1)
    yield completed(0, first, slot=1, fallback_from=0, suggested_role=Role.VERIFIER)
    yield TurnStarted(1, len(first.messages), first.sha256)
    yield routed(1, Role.VERIFIER, adjustments=("suggestion",), margins=Margins(None, None))
    yield called(1, role=Role.VERIFIER)
    yield completed(1, second, role=Role.VERIFIER, verdict="accept", usage=None, cost_usd=None)
    yield ended()


def write(path: Path, events: Iterator[Event] | list[Event], run_id: str = "run-1", **options: Any) -> Path:
    trace = JsonlTrace(path, run_id, clock=Clock(), **options)
    for event in events:
        trace.emit(event)
    trace.close()
    return path

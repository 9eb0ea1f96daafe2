"""Whether a trace is whole and its events follow from one another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..contracts.routing import Role, RouteLogits, route_hash
from ..contracts.transcript import ROLES, Message, Transcript
from .reader import Line, Run, Trace
from .record import text_sha256

_MESSAGE_START = re.compile(rf"^({'|'.join(ROLES)}): ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not hold: the file's line, the check, and what is wrong."""

    line: int
    check: str
    what: str


@dataclass(frozen=True, slots=True)
class RunReport:
    """What the checks of one run found.

    ``head`` is the hash of its last line: who keeps it elsewhere can tell later whether anything was changed.
    ``transcripts`` counts transcript hashes that could be computed again from kept texts.
    """

    run_id: str
    events: int
    finished: bool
    head: str
    transcripts: int
    problems: tuple[Problem, ...]


def verify(trace: Trace) -> list[RunReport]:
    """Check every run of ``trace``; a run without an end is unfinished, and nothing is wrong with that."""
    return [verify_run(run) for run in trace.runs]


def verify_run(run: Run) -> RunReport:
    """Check one run: sequence, chain, times, order of events, and every hash that can be computed again."""
    replay = _Replay()
    checks = (
        _sequence(run),
        _order(run),
        _contents(run),
        _transcript_links(run),
        _route_hashes(run),
        replay.check(run),
    )
    problems = sorted((problem for found in checks for problem in found), key=lambda problem: problem.line)
    head = run.lines[-1].sha256
    return RunReport(run.run_id, len(run.lines), run.end is not None, head, replay.computed, tuple(problems))


def _sequence(run: Run) -> Iterator[Problem]:
    """Numbers from 0 without a gap, each line with the hash of the one before, and no step back in time."""
    previous, elapsed = None, 0.0
    for expected, line in enumerate(run.lines):
        if line["seq"] != expected:
            yield Problem(line.number, "sequence", f"seq is {line['seq']} where {expected} follows")
        if line["previous"] != previous:
            what = "previous is not the hash of the line before: one of the two was changed, or lines are missing"
            yield Problem(line.number, "chain", what)
        if line.elapsed_ms < elapsed:
            yield Problem(line.number, "time", f"elapsed_ms goes back from {elapsed} to {line.elapsed_ms}")
        previous, elapsed = line.sha256, line.elapsed_ms


FOLLOWERS = {
    None: {"run_started"},
    "run_started": {"turn_started", "run_failed"},
    "turn_started": {"routed", "run_failed"},
    "routed": {"provider_called", "fallback", "run_failed"},
    "provider_called": {"provider_failed", "turn_completed", "run_failed"},
    "provider_failed": {"provider_called", "fallback", "run_failed"},
    "fallback": {"provider_called", "fallback", "run_failed"},
    "turn_completed": {"turn_started", "run_completed", "run_failed"},
    "run_completed": set(),
    "run_failed": set(),
}
"""What may follow each event. A run that fails may do so at once, also while an agent is being called."""


@dataclass
class _Place:
    """Where a run stands: the turn, the slot whose turn it is, and how often each slot was called in it."""

    turn: int = -1
    slot: int | None = None
    attempts: dict[int, int] = field(default_factory=dict)

    def step(self, line: Line) -> Iterator[tuple[str, Any]]:
        """Take ``line`` in; every field with the value that it should have had."""
        match line.event:
            case "turn_started":
                self.turn, self.attempts = self.turn + 1, {}
            case "routed":
                self.slot = line["slot"]
            case "provider_called":
                self.attempts[line["slot"]] = self.attempts.get(line["slot"], 0) + 1
                yield from (("slot", self.slot), ("attempt", self.attempts[line["slot"]]))
            case "provider_failed":
                yield from (("slot", self.slot), ("attempt", self.attempts.get(line["slot"])))
            case "fallback":
                yield "from_slot", self.slot
                self.slot = line["to_slot"]
            case "turn_completed":
                yield "slot", self.slot
        if "turn" in line.record:
            yield "turn", self.turn


def _order(run: Run) -> Iterator[Problem]:
    """Every event after one that it may follow, and of the turn, slot and attempt that were under way."""
    place, before = _Place(), None
    for line in run.lines:
        if line.event not in FOLLOWERS[before]:
            what = f"{line.event} stands after {before}" if before else f"the run begins with {line.event}"
            yield Problem(line.number, "order", what)
        for name, expected in place.step(line):
            if line[name] != expected:
                yield Problem(line.number, "order", f"{name} of {line.event} is {line[name]} where {expected} follows")
        before = line.event


def _contents(run: Run) -> Iterator[Problem]:
    """Every kept text against its hash and length, unless secrets were taken out of it."""
    for line in run.lines:
        for name in ("task", "reply", "answer"):
            content = line.record.get(name)
            if content is None or not _is_original(content):
                continue
            if (content["sha256"], content["characters"]) != (text_sha256(content["text"]), len(content["text"])):
                yield Problem(line.number, "content", f"the text of {name} is not the one that was hashed")


def _transcript_links(run: Run) -> Iterator[Problem]:
    """Each turn begins with the transcript that the run, or the turn before, ended with."""
    expected = None
    for line in run.lines:
        if line.event == "turn_started" and expected not in (None, line["transcript_hash"]):
            yield Problem(line.number, "transcript", "the turn begins with another transcript than the one before left")
        if line.event in ("run_started", "turn_completed"):
            expected = line["transcript_hash"]


def _route_hashes(run: Run) -> Iterator[Problem]:
    """The route hash from the router's choice and logits, where the line has all of these."""
    for line in run.lines:
        if line.event != "routed":
            continue
        slot, role, logits, recorded = (line[name] for name in ("raw_slot", "raw_role", "logits", "route_hash"))
        if None not in (slot, role, logits, recorded) and recorded != _route_hash(slot, role, logits):
            yield Problem(line.number, "route", "route_hash does not belong to this slot, role and logits")


def _route_hash(slot: int, role: str, logits: dict[str, list[float]]) -> str:
    return route_hash(slot, Role[role.upper()], RouteLogits(tuple(logits["agent"]), tuple(logits["role"])))


class _Replay:
    """The transcript of a run, built again from the texts of the task and the replies."""

    def __init__(self) -> None:
        self.computed = 0
        self._messages: tuple[Message, ...] = ()

    def check(self, run: Run) -> Iterator[Problem]:
        """Compare each transcript hash as far as all texts before it were kept as they were."""
        for line in run.lines:
            if line.event == "run_started":
                self._messages = _task_messages(line["task"], line["transcript_hash"])
            elif line.event == "turn_completed":
                self._add(line["reply"])
            if "transcript_hash" in line.record and self._messages:
                self.computed += 1
                if line["transcript_hash"] != Transcript(self._messages).sha256:
                    what = "transcript_hash does not belong to the texts of task and replies"
                    yield Problem(line.number, "transcript", what)

    def _add(self, reply: dict[str, Any]) -> None:
        known = self._messages and _is_original(reply)
        self._messages = (*self._messages, Message("assistant", reply["text"])) if known else ()


def _task_messages(task: dict[str, Any], transcript_hash: str) -> tuple[Message, ...]:
    """The messages whose lines make up the task's text; none where it was not kept, or the lines are ambiguous."""
    if not _is_original(task):
        return ()
    before, *parts = _MESSAGE_START.split(task["text"])
    contents = [part.removesuffix("\n") for part in parts[1:-1:2]] + parts[-1:]
    messages = tuple(Message(role, content) for role, content in zip(parts[::2], contents, strict=True))
    return messages if messages and not before and Transcript(messages).sha256 == transcript_hash else ()


def _is_original(content: dict[str, Any]) -> bool:
    return content.get("text") is not None and not content.get("redacted")

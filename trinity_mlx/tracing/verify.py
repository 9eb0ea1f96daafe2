"""Whether a trace is whole and its events follow from one another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..contracts.canonical import canonical_sha256
from ..contracts.routing import Role, RouteLogits, route_hash
from .reader import Line, Run, Trace
from .record import text_sha256


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
    problems = sorted((problem for problems in checks for problem in problems), key=lambda problem: problem.line)
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
    "run_started": {"turn_started", "tools_answered", "reviewed", "run_failed"},
    "turn_started": {"routed", "run_failed"},
    "routed": {"provider_called", "fallback", "routed", "run_failed"},
    "provider_called": {"provider_failed", "tools_called", "turn_completed", "run_failed"},
    "provider_failed": {"provider_called", "fallback", "routed", "run_completed", "run_failed"},
    "fallback": {"provider_called", "fallback", "run_failed"},
    "tools_called": {"tools_answered", "run_paused", "run_failed"},
    "tools_answered": {"provider_called", "fallback", "routed", "run_failed"},
    "turn_completed": {"turn_started", "reviewed", "run_paused", "run_completed", "run_failed"},
    "reviewed": {"run_completed", "run_failed"},
    "run_paused": set(),
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
            case "tools_answered":
                self._resume(line)
                self.attempts = {}
                yield "slot", self.slot
            case "tools_called":
                yield "slot", self.slot
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

    def _resume(self, line: Line) -> None:
        """The turn and the slot of a run that goes on with the results of its tools."""
        if self.slot is None:
            self.turn, self.slot = line["turn"], line["slot"]


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
        for name, content in _contents_of(line):
            if not _is_original(content):
                continue
            if (content["sha256"], content["characters"]) != (text_sha256(content["text"]), len(content["text"])):
                yield Problem(line.number, "content", f"the text of {name} is not the one that was hashed")


def _contents_of(line: Line) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ("reply", "answer", "message", "comment"):
        if isinstance(line.record.get(name), dict):
            yield name, line[name]
    if line.event == "run_started":
        yield from (("task", message["content"]) for message in line["task"])
    if line.event == "tools_answered":
        yield from (("results", content) for content in line["results"])


def _transcript_links(run: Run) -> Iterator[Problem]:
    """Each turn begins with the transcript that the run, or the turn before, ended with."""
    expected = None
    for line in run.lines:
        if line.event == "turn_started" and expected not in (None, line["transcript_hash"]):
            yield Problem(line.number, "transcript", "the turn begins with another transcript than the one before left")
        if line.event in ("run_started", "tools_called", "tools_answered", "turn_completed"):
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
        self._messages: list[dict[str, Any]] | None = None

    def check(self, run: Run) -> Iterator[Problem]:
        """Compare each transcript hash as far as all texts before it were kept as they were."""
        for line in run.lines:
            self._add(line)
            if "transcript_hash" in line.record and self._messages is not None:
                self.computed += 1
                if line["transcript_hash"] != canonical_sha256(self._messages):
                    what = "transcript_hash does not belong to the texts of task and replies"
                    yield Problem(line.number, "transcript", what)

    def _add(self, line: Line) -> None:
        """Take in what ``line`` adds; from the first text on that was not kept, nothing can be known."""
        before: list[dict[str, Any]] | None = [] if line.event == "run_started" else self._messages
        added = list(_said(line))
        if before is not None:
            is_known = all(_is_original(content) for _, content, _ in added)
            self._messages = [*before, *(_hashed(*each) for each in added)] if is_known else None


def _said(line: Line) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Role, content and name of each message that an event adds to the transcript."""
    if line.event == "run_started":
        yield from ((message["role"], message["content"], message.get("name", "")) for message in line["task"])
    elif line.event == "tools_answered":
        yield from (("tool", content, "") for content in line["results"])
    elif line.event in ("tools_called", "turn_completed"):
        yield "assistant", line["reply" if line.event == "turn_completed" else "message"], ""


def _hashed(role: str, content: dict[str, Any], name: str) -> dict[str, Any]:
    """A message as it stands in a transcript's hash; parts that are no JSON stay text, which then has another hash."""
    text: Any = content["text"]
    if content.get("parts"):
        with suppress(ValueError, RecursionError):
            text = json.loads(text, parse_float=str)
    return {"role": role, "content": text} | ({"name": name} if name else {})


def _is_original(content: dict[str, Any]) -> bool:
    return content.get("text") is not None and not content.get("redacted")

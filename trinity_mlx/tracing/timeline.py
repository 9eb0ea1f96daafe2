"""A run for people: what happened, one short line each, in order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .reader import Line, Run

_LONGEST = 200
_DIGITS = 12
_HASH = re.compile(r"\b[0-9a-f]{64}\b")


class Tone(StrEnum):
    """How an entry is meant."""

    HEAD = "head"
    PLAIN = "plain"
    DETAIL = "detail"
    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a timeline; ``elapsed_ms`` since the run's start is None for what has no time of its own.

    ``text`` is printable: whatever a provider sent that would steer a terminal has become white space.
    """

    elapsed_ms: float | None
    tone: Tone
    text: str


def timeline(run: Run) -> Iterator[Entry]:
    """The entries of ``run``."""
    yield Entry(None, Tone.HEAD, _printable(f"run {run.run_id}"))
    names = _names(run)
    for line in run.lines:
        for tone, text in _TELLERS.get(line.event, _nothing)(line, names):
            yield Entry(None if tone is Tone.DETAIL else line.elapsed_ms, tone, _printable(text))
    if run.end is None:
        yield Entry(None, Tone.BAD, f"unfinished: nothing follows {run.lines[-1].event}")


Told = Iterator[tuple[Tone, str]]


def _run_started(line: Line, names: Mapping[int, str]) -> Told:
    yield Tone.PLAIN, f"begun {line.time:%Y-%m-%d %H:%M:%S} UTC, policy {_policy(line['policy'])}, pool {line['pool']}"
    if line["resumes"] is not None:
        yield Tone.DETAIL, f"goes on from {_short(line['resumes'])} with the results of its tools"
    yield Tone.DETAIL, f"task: {_task(line['task'])}"
    yield Tone.DETAIL, f"agents: {', '.join(map(_agent, line['agents'])) or 'none'}"
    yield Tone.DETAIL, f"limits: {_pairs(line['limits']) or 'none'}"
    if line["router"]:
        yield Tone.DETAIL, f"router: {_pairs(_brief_receipt(line['router']))}"
    if line["refs"]:
        yield Tone.DETAIL, f"refs: {_pairs(line['refs'])}"


def _routed(line: Line, names: Mapping[int, str]) -> Told:
    chosen = f"turn {line['turn']}: {line['role']} by {_name(line['slot'], names)}"
    margins = line["margins"] or {}
    known = [f"{split} {margins[split]:.3f}" for split in ("agent", "role") if margins.get(split) is not None]
    yield Tone.PLAIN, chosen + (f", margins {', '.join(known)}" if known else "") + f", routed in {_ms(line)}"
    raw = line["raw_slot"], line["raw_role"]
    if line["adjustments"] or (None not in raw and raw != (line["slot"], line["role"])):
        own = "" if None in raw else f"the router's own choice was {raw[1]} by {_name(raw[0], names)}; "
        yield Tone.DETAIL, f"{own}changed by {', '.join(line['adjustments']) or 'nothing named'}"


def _provider_failed(line: Line, names: Mapping[int, str]) -> Told:
    status = f" (status {line['status']})" if line["status"] is not None else ""
    again = "" if line["retry_in_s"] is None else f"; again in {line['retry_in_s']:.1f} s"
    what = f"{line['error']}{status}: {_short(line['message'])}"
    yield Tone.BAD, f"{line['agent']} failed at attempt {line['attempt']} after {_ms(line)}: {what}{again}"


def _fallback(line: Line, names: Mapping[int, str]) -> Told:
    places = f"{_name(line['from_slot'], names)} to {_name(line['to_slot'], names)}"
    yield Tone.PLAIN, f"fallback from {places}: {_short(line['reason'])}"


def _turn_completed(line: Line, names: Mapping[int, str]) -> Told:
    parts = [f"{line['agent']} ({line['model']}) replied in {_ms(line)}", _spent(line), line["finish"]]
    if line["verdict"] is not None:
        parts.append(f"verdict {line['verdict']}")
    if line["suggested_role"] is not None:
        parts.append(f"suggests {line['suggested_role']}")
    yield Tone.PLAIN, ", ".join(part for part in parts if part)
    if line["reply"].get("text") is not None:
        yield Tone.DETAIL, _content(line["reply"])


def _tools_called(line: Line, names: Mapping[int, str]) -> Told:
    parts = [
        f"{line['agent']} ({line['model']}) asks for {_count(line['calls'], 'tool')} after {_ms(line)}",
        _spent(line),
    ]
    yield Tone.PLAIN, ", ".join(parts)
    if line["message"].get("text") is not None:
        yield Tone.DETAIL, _content(line["message"])


def _tools_answered(line: Line, names: Mapping[int, str]) -> Told:
    failures = f", {line['errors']} of them failed" if line["errors"] else ""
    yield Tone.PLAIN, f"{_count(len(line['results']), 'tool')} gave results after {_ms(line)}{failures}"
    for content in line["results"]:
        if content.get("text") is not None:
            yield Tone.DETAIL, _content(content)


def _reviewed(line: Line, names: Mapping[int, str]) -> Told:
    who, verb = _short(line["reviewer"]) or "the reviewer", "released" if line["approved"] else "rejected"
    yield Tone.GOOD if line["approved"] else Tone.BAD, f"{who} {verb} the answer"
    if line["comment"].get("text"):
        yield Tone.DETAIL, _content(line["comment"])


def _run_paused(line: Line, names: Mapping[int, str]) -> Told:
    what = f"the results of {_count(line['calls'], 'tool')}" if line["calls"] else "a review"
    yield Tone.PLAIN, f"waits for {what} {_totals(line)}"


def _run_completed(line: Line, names: Mapping[int, str]) -> Told:
    yield Tone.GOOD if line["status"] == "accepted" else Tone.PLAIN, f"{line['status']} {_totals(line)}"


def _run_failed(line: Line, names: Mapping[int, str]) -> Told:
    yield Tone.BAD, f"{line['status']} {_totals(line)}: {line['error']}: {_short(line['message'])}"


def _nothing(line: Line, names: Mapping[int, str]) -> Told:
    yield from ()


_TELLERS: dict[str, Callable[[Line, Mapping[int, str]], Told]] = {
    "run_started": _run_started,
    "routed": _routed,
    "provider_failed": _provider_failed,
    "fallback": _fallback,
    "tools_called": _tools_called,
    "tools_answered": _tools_answered,
    "turn_completed": _turn_completed,
    "reviewed": _reviewed,
    "run_paused": _run_paused,
    "run_completed": _run_completed,
    "run_failed": _run_failed,
}


def _names(run: Run) -> dict[int, str]:
    agents = run.start["agents"] if run.start else ()
    return {agent["slot"]: str(agent.get("name")) for agent in agents if isinstance(agent.get("slot"), int)}


def _name(slot: int, names: Mapping[int, str]) -> str:
    return names.get(slot, f"slot {slot}")


def _agent(agent: Mapping[str, Any]) -> str:
    return f"{agent.get('slot')} {agent.get('name')} ({agent.get('provider')} {agent.get('model')})"


def _policy(policy: Mapping[str, Any]) -> str:
    turns = f" of at most {policy['max_turns']} turns" if "max_turns" in policy else ""
    return f"{policy.get('name', 'without a name')}{turns}"


def _brief_receipt(router: Mapping[str, Any]) -> Mapping[str, Any]:
    """``router`` with the receipt by its hash alone, which is all that older traces have of it."""
    receipt = router.get("receipt")
    return {**router, "receipt": receipt.get("sha256")} if isinstance(receipt, Mapping) else router


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_HASH.sub(_beginning, str(value))}" for name, value in values.items())


def _beginning(digest: re.Match[str]) -> str:
    return digest[0][:_DIGITS]


def _content(content: Mapping[str, Any]) -> str:
    if content.get("text") is not None:
        return _short(content["text"])
    return f"{content['characters']} characters, sha256 {content['sha256'][:_DIGITS]}"


def _task(messages: Sequence[Mapping[str, Any]]) -> str:
    if not messages:
        return "none"
    last = _content(messages[-1]["content"])
    return last if len(messages) == 1 else f"{len(messages)} messages, the last of {messages[-1]['role']}: {last}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun if number == 1 else noun + 's'}"


def _totals(line: Line) -> str:
    return f"after {_count(line['turns'], 'turn')} and {line['wall_ms'] / 1000:.2f} s, {_spent(line)}"


def _spent(line: Line) -> str:
    usage = line["usage"]
    tokens = f"{usage['input_tokens']} tokens in and {usage['output_tokens']} out" if usage else "tokens not counted"
    return tokens if line["cost_usd"] is None else f"{tokens}, ${line['cost_usd']:.4f}"


def _ms(line: Line) -> str:
    return f"{line['latency_ms']:.0f} ms"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST else f"{flat[:_LONGEST]}..."


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)

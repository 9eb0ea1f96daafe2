"""One row of a table: what is known of each agent's answer to one prompt, and how a record says it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from ..contracts.plain import to_plain
from ..contracts.routing import Role
from ..contracts.text_format import TextFormat
from ..contracts.transcript import Message, Transcript

FIELDS = (
    *("id", "prompt", "messages", "scores", "costs", "seconds", "turns", "runs", "responses"),
    *("category", "split", "role"),
)
"""What is read of a row; any other field is passed over, and ``Table.unread`` names it."""
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt and what is known of each agent's answer to it, by the agent's name.

    Attributes:
        scores: how good it was, in [0, 1]; an agent that was not asked is missing.
        costs: what it cost, in any one unit.
        seconds: how long it took.
        turns: how many turns it took, where an answer is a run.
        runs: the scores of repeated answers, where there were several; ``scores`` is then their mean.
        responses: the answers themselves, where they were kept.
        category: the kind of prompt.
        split: ``train``, ``val`` or ``test``.
        role: which role is the right one here.
        line: where the row stands in its file, from 1.
    """

    id: str
    transcript: Transcript
    scores: Mapping[str, float]
    costs: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    turns: Mapping[str, float] = field(default_factory=dict)
    runs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    responses: Mapping[str, str] = field(default_factory=dict)
    category: str | None = None
    split: str | None = None
    role: Role | None = None
    line: int = 0

    @property
    def text(self) -> str:
        """What identifies the row's prompt: the text of a lone user message, else role lines of all messages."""
        prompt = _lone_prompt(self.transcript)
        return TextFormat.ROLE_LINES.render(self.transcript) if prompt is None else prompt

    def to_dict(self) -> dict[str, Any]:
        """The row as a line of JSONL holds it."""
        optional = {
            "costs": dict(self.costs),
            "seconds": dict(self.seconds),
            "turns": dict(self.turns),
            "runs": {agent: list(scores) for agent, scores in self.runs.items()},
            "responses": dict(self.responses),
            "category": self.category,
            "split": self.split,
            "role": None if self.role is None else self.role.label,
        }
        prompt, messages = _lone_prompt(self.transcript), self.transcript.messages
        asked = {"messages": [to_plain(message) for message in messages]} if prompt is None else {"prompt": prompt}
        return {"id": self.id, **asked, "scores": dict(self.scores)} | {
            name: value for name, value in optional.items() if value not in (None, {})
        }


def row_of(line: int, record: Mapping[str, Any]) -> Row:
    """The row that ``record`` describes; ``line`` says where it stands in its file, from 1.

    Raises:
        ValueError: a field is missing, or holds something else.
        TranscriptError: its messages are not a transcript.
    """
    runs = {agent: _repeated(agent, values) for agent, values in _mapping(record, "runs").items()}
    given = _numbers(record, "scores", most=1.0)
    scores = {agent: sum(values) / len(values) for agent, values in runs.items()} | given
    if not scores:
        fields = ", ".join(record)
        raise ValueError(
            f"there is no score: `scores` maps at least one agent to a number from 0 to 1; it has {fields:.200}"
        )
    return Row(
        id=_text(record, "id") or str(line),
        transcript=_transcript(record),
        scores=scores,
        costs=_numbers(record, "costs"),
        seconds=_numbers(record, "seconds"),
        turns=_numbers(record, "turns"),
        runs=runs,
        responses=_responses(record),
        category=_text(record, "category"),
        split=_one_of(record, "split", SPLITS),
        role=_role(record),
        line=line,
    )


def _transcript(record: Mapping[str, Any]) -> Transcript:
    given = [name for name in ("prompt", "messages") if record.get(name) is not None]
    if len(given) != 1:
        raise ValueError(
            f"a row has either `prompt` or `messages`, and this one has {' and '.join(given) or 'neither'}"
        )
    value = record[given[0]]
    if given[0] == "prompt" and not isinstance(value, str):
        raise ValueError(f"prompt is {value!r:.60}, and a text is needed")
    if not value:
        raise ValueError(f"{given[0]} is empty")
    return Transcript.of(value)


def _mapping(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and key.strip() for key in value):
        raise ValueError(f"{name} is {value!r:.60}, and an object from agents to numbers is needed")
    return {agent: each for agent, each in value.items() if each is not None}


def _responses(record: Mapping[str, Any]) -> dict[str, str]:
    responses = _mapping(record, "responses")
    wrong = next((agent for agent, text in responses.items() if not isinstance(text, str)), None)
    if wrong is not None:
        raise ValueError(f"responses.{wrong} is {responses[wrong]!r:.60}, and a text is needed")
    return {agent: text for agent, text in responses.items() if text}


def _numbers(record: Mapping[str, Any], name: str, most: float = float("inf")) -> dict[str, float]:
    return {agent: _number(f"{name}.{agent}", value, most) for agent, value in _mapping(record, name).items()}


def _repeated(agent: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, Iterable) or isinstance(values, str | Mapping):
        raise ValueError(f"runs.{agent} is {values!r:.60}, and a list of scores is needed")
    scores = tuple(_number(f"runs.{agent}", value, 1.0) for value in values)
    if not scores:
        raise ValueError(f"runs.{agent} is empty")
    return scores


def _number(name: str, value: Any, most: float) -> float:
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if not is_number or not 0.0 <= value <= most or value == float("inf"):
        allowed = "a number from 0 to 1" if most == 1.0 else "a number of at least 0"
        raise ValueError(f"{name} is {value!r:.60}, and {allowed} is needed")
    return float(value)


def _text(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    if value is not None and (not isinstance(value, str | int) or isinstance(value, bool) or value == ""):
        raise ValueError(f"{name} is {value!r:.60}, and a text is needed")
    return None if value is None else str(value)


def _one_of(record: Mapping[str, Any], name: str, allowed: Sequence[str]) -> str | None:
    value = record.get(name)
    if value is not None and value not in allowed:
        raise ValueError(f"{name} is {value!r:.60}, and one of {', '.join(allowed)} is needed")
    return value


def _role(record: Mapping[str, Any]) -> Role | None:
    name = _one_of(record, "role", [role.label for role in Role])
    return None if name is None else Role[name.upper()]


def _lone_prompt(transcript: Transcript) -> str | None:
    """The text of a transcript that is one user message; None of any other."""
    match transcript.messages:
        case (Message(role="user", content=str(prompt)),):
            return prompt
    return None

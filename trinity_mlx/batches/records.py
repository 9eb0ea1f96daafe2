"""From a chunk of lines to the records that answer them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..contracts.errors import TrinityError, UsageError
from ..contracts.routing import RouteDecision, Selection, SelectionMode
from ..routing.router import Router
from .chunks import Chunk
from .lines import BatchLine


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of every line.

    Attributes:
        selection: how to choose.
        allow_slots: the slots that may be chosen; None allows all.
        timings: add what each route took. Without them a record depends on its chunk and the router alone.
    """

    selection: Selection = field(default_factory=Selection)
    allow_slots: tuple[int, ...] | None = None
    timings: bool = False

    @property
    def draws(self) -> bool:
        """Whether chance decides, with a fresh seed for each line."""
        modes = (self.selection.agent, self.selection.role)
        return SelectionMode.SAMPLE in modes and self.selection.seed is None

    def seeded(self, seed: int) -> Question:
        """The same, where chance decides with ``seed``; each transcript still has a draw of its own."""
        return replace(self, selection=replace(self.selection, seed=seed)) if self.draws else self

    def to_dict(self) -> dict[str, Any]:
        """As plain values, without the timings, which change no decision."""
        how = self.selection
        return {
            "selection": {"agent": str(how.agent), "role": str(how.role), "temperature": how.temperature},
            "seed": how.seed,
            "guarded": how.guarded,
            "allow_slots": None if self.allow_slots is None else sorted(set(self.allow_slots)),
        }


@dataclass(frozen=True, slots=True)
class Routed:
    """The answers to a chunk.

    Attributes:
        records: one JSON object for each line that says something, without the line's end.
        failed: how many of them are errors.
        by: what computed them, as plain values: whatever the decisions depend on.
    """

    records: tuple[str, ...]
    failed: int
    by: Mapping[str, Any]


def route_chunk(router: Router, chunk: Chunk, question: Question) -> Routed:
    """Route the lines of ``chunk`` together; one that cannot be routed has an error record in its place.

    Raises:
        SelectionError: no slot is allowed, or one that does not exist.
        NonFiniteLogits: the model itself is broken.
        NotEnoughMemory: the device has none left.
    """
    lines = chunk.parsed()
    good = [line.transcript for line in lines if not isinstance(line.transcript, UsageError)]
    decisions = iter(
        router.route_many(good, selection=question.selection, allow_slots=question.allow_slots, errors="return")
    )
    results = [line.transcript if isinstance(line.transcript, UsageError) else next(decisions) for line in lines]
    records = tuple(_text(_record(line, result, question)) for line, result in zip(lines, results, strict=True))
    return Routed(records, sum(isinstance(result, TrinityError) for result in results), identity_of(router))


def identity_of(router: Router) -> dict[str, Any]:
    """Whatever the decisions of ``router`` depend on but the device, as plain values."""
    identity = router.identity
    window = identity.window
    return {
        "artifact": identity.artifact.name,
        "adapter": identity.artifact.adapter_ref,
        "base": identity.artifact.base_ref,
        "head": identity.head_ref,
        "profile": identity.profile,
        "dtype": identity.dtype,
        "kernels": identity.variant.kernels,
        "quantize": identity.variant.quantize,
        "window": [window.head, window.tail, window.step] if window else None,
    }


def _record(line: BatchLine, result: RouteDecision | TrinityError, question: Question) -> dict[str, Any]:
    head = {"line": line.number} | line.echo
    if isinstance(result, TrinityError):
        return head | {"error": {"type": type(result).__name__, "message": str(result)}}
    fields = result.to_dict()
    if not question.timings:
        del fields["timings_ms"]
    return head | fields


def _text(record: Mapping[str, Any]) -> str:
    """JSON in one line that UTF-8 can hold: half a surrogate pair (in an id, say) is spelled out."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(record, allow_nan=False)
    return text

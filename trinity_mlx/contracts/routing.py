"""What a route is: logits, margins, the way of choosing, and the decision with its proofs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

from .canonical import canonical_sha256, fixed6
from .errors import NonFiniteLogits, SelectionError, UsageError


class Role(IntEnum):
    """What the chosen agent is asked to do; the value is the index in the head's role logits."""

    WORKER = 0
    THINKER = 1
    VERIFIER = 2

    @property
    def label(self) -> str:
        """``Worker``, ``Thinker`` or ``Verifier``."""
        return self.name.capitalize()


@dataclass(frozen=True, slots=True)
class RouteLogits:
    """The head's output for one transcript, float32 values: ``agent[slots]`` and ``role[3]``.

    ``distance`` says how unlike the transcript is to all that the router was trained on: 1 is as far from the nearest
    kind of prompt as its own prompts are. It is None for a head that knows no kinds (docs/method.md, section 1).

    Raises:
        NonFiniteLogits: a value is NaN or infinite.
    """

    agent: tuple[float, ...]
    role: tuple[float, ...]
    distance: float | None = None

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in (*self.agent, *self.role, self.distance or 0.0)):
            raise NonFiniteLogits(
                f"the router's logits are not finite (agent {self.agent}, role {self.role}): "
                "the base, the adapter or the head holds NaN or overflows; verify the files, or try float32"
            )

    @property
    def row(self) -> tuple[float, ...]:
        """Both splits as the head gives them: agent first, then role."""
        return self.agent + self.role

    @classmethod
    def split(cls, values: Sequence[float], measured: bool = False) -> RouteLogits:
        """Split one row of the head's output: all but the last three choose the slot, the last three the role.

        ``measured`` says that the square of the distance follows them.
        """
        distance = math.sqrt(max(values[-1], 0.0)) if measured else None
        logits = values[:-1] if measured else values
        return cls(tuple(logits[: -len(Role)]), tuple(logits[-len(Role) :]), distance)


class SelectionMode(StrEnum):
    """How an index is chosen from a split's logits."""

    ARGMAX = "argmax"
    """The largest logit; the lowest index among equals."""
    SOFTMAX = "softmax"
    """The largest probability (the same choice as argmax), with the probabilities reported."""
    SAMPLE = "sample"
    """Drawn from the softmax with a seeded draw."""


@dataclass(frozen=True, slots=True)
class Selection:
    """How a decision is made from logits, apart for agent and role.

    ``temperature`` divides the logits before the softmax (> 0). ``seed`` fixes the draw of ``sample``; any
    non-negative integer is a seed, 0 too. ``None`` asks for a fresh seed, which the decision then records.
    ``guarded`` is whether the router's own guard is heard, where it has one.

    Raises:
        SelectionError: the temperature is not a positive number, or the seed is negative.
    """

    agent: SelectionMode = SelectionMode.ARGMAX
    role: SelectionMode = SelectionMode.ARGMAX
    temperature: float = 1.0
    seed: int | None = None
    guarded: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise SelectionError(f"temperature is {self.temperature}: it must be a number above 0")
        if self.seed is not None and self.seed < 0:
            raise SelectionError(f"seed is {self.seed}: it must be 0 or more")

    @classmethod
    def parse(cls, text: str, temperature: float = 1.0, seed: int | None = None) -> Selection:
        """From ``"sample"`` (both splits) or ``"agent=sample,role=argmax"`` (each its own); ``"guard=off"`` besides.

        Raises:
            SelectionError: a mode or a split has no such name.
        """
        modes = {"agent": SelectionMode.ARGMAX, "role": SelectionMode.ARGMAX}
        guarded = True
        for part in text.split(","):
            split, named, mode = part.strip().rpartition("=")
            if split == "guard":
                guarded = _is_on(mode)
                continue
            if named and split not in modes:
                raise SelectionError(f"unknown split {split!r} in selection {text!r}: use agent=, role= or guard=")
            for target in [split] if named else list(modes):
                modes[target] = _mode(mode)
        return cls(modes["agent"], modes["role"], temperature, seed, guarded)


def _mode(text: str) -> SelectionMode:
    try:
        return SelectionMode(text)
    except ValueError:
        raise SelectionError(f"unknown selection {text!r}: use {', '.join(SelectionMode)}") from None


def _is_on(text: str) -> bool:
    if text not in ("on", "off"):
        raise SelectionError(f"guard={text} is neither: use guard=on or guard=off")
    return text == "on"


class GuardRule(StrEnum):
    """Why a guard took a decision out of the router's hands."""

    MARGIN = "margin"
    """No agent led clearly."""
    DISTANCE = "distance"
    """Nothing like the transcript was trained on."""


@dataclass(frozen=True, slots=True)
class Guard:
    """When a router stands aside (docs/method.md, section 1).

    ``slot`` takes over where the agent margin is under ``margin``, or where the transcript is unlike all that was
    trained on by more than ``distance``. A limit that is None is not looked at.

    Raises:
        SelectionError: the slot is negative, or a limit is not a number of at least 0.
    """

    slot: int
    margin: float | None = None
    distance: float | None = None

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.margin, self.distance) if limit is not None]
        if self.slot < 0 or not all(math.isfinite(limit) and limit >= 0 for limit in limits):
            raise SelectionError(f"{self} is no guard: slot and limits must be 0 or more")


@dataclass(frozen=True, slots=True)
class Margins:
    """Largest logit minus the second largest of each split; ``None`` where there is no second candidate."""

    agent: float | None
    role: float | None


@dataclass(frozen=True, slots=True)
class Probabilities:
    """Softmax of each split at the selection's temperature; a slot that is not allowed has 0."""

    agent: tuple[float, ...]
    role: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen from one transcript's logits, and how clear it was.

    ``ranking`` lists the allowed slots from the largest logit down. ``tied_slots`` and ``tied_roles`` hold the
    indices that share the largest logit, and are empty where one leads alone. ``probabilities`` is ``None`` when
    both splits use argmax. ``guarded`` says why ``slot`` is the guard's and not the router's; all the rest is as the
    router has it.
    """

    slot: int
    role: Role
    margins: Margins
    ranking: tuple[int, ...]
    selection: Selection
    tied_slots: tuple[int, ...] = ()
    tied_roles: tuple[Role, ...] = ()
    probabilities: Probabilities | None = None
    guarded: GuardRule | None = None


@dataclass(frozen=True, slots=True)
class ArtifactIdentity:
    """Which router answered: a name for people, and the content hashes of adapter and base."""

    name: str
    adapter_ref: str
    base_ref: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall time in milliseconds, results materialised: loading the router (once), and this route.

    Transcripts that were read in one batch share its time evenly.
    """

    load: float
    route: float


@dataclass(frozen=True, slots=True)
class Gap:
    """The tokens of a transcript from ``start`` up to ``stop``, which a window left out."""

    start: int
    stop: int

    def to_dict(self) -> dict[str, int]:
        """As plain values."""
        return {"start": self.start, "stop": self.stop, "tokens": self.stop - self.start}


@dataclass(frozen=True, slots=True)
class Window:
    """How a long transcript is read in part: its first ``head`` tokens and at most its last ``tail``.

    What is left out ends at a multiple of ``step`` tokens. So while a conversation grows by less than that, the text
    that is read grows at its end alone, and what was read of it in the turn before is read no more. A transcript of up
    to ``head + tail`` tokens is read whole.

    Raises:
        UsageError: ``head`` is negative, or not 1 <= ``step`` <= ``tail``.
    """

    head: int
    tail: int
    step: int = 256

    def __post_init__(self) -> None:
        if self.head < 0 or not 1 <= self.step <= self.tail:
            raise UsageError(
                f"a window of head {self.head}, tail {self.tail} and step {self.step} reads nothing: "
                "head must be 0 or more, step at least 1, and tail at least one step"
            )

    @classmethod
    def parse(cls, text: str) -> Window:
        """From ``"HEAD,TAIL"`` or ``"HEAD,TAIL,STEP"``; the step is 256 at most where none is given.

        Raises:
            UsageError: the text is neither, or the window reads nothing.
        """
        parts = [part.strip() for part in text.split(",")]
        if len(parts) not in (2, 3) or not all(part.isdecimal() and len(part) < 10 for part in parts):
            raise UsageError(
                f"{text[:100]!r} is not a window: give HEAD,TAIL in tokens, as in 512,1536, or HEAD,TAIL,STEP"
            )
        head, tail, *step = map(int, parts)
        return cls(head, tail, step[0] if step else max(1, min(256, tail)))

    @property
    def size(self) -> int:
        """The most tokens that are read."""
        return self.head + self.tail

    def gap(self, count: int) -> Gap | None:
        """What is left out of ``count`` tokens."""
        if count <= self.size:
            return None
        return Gap(self.head, -(-(count - self.tail) // self.step) * self.step)


@dataclass(frozen=True, slots=True)
class Read:
    """What reading a transcript gives, before anything is chosen from it.

    ``token_count`` counts the tokens of the whole transcript, ``reused`` those that did not have to be read for it.
    ``gap`` is what a window left out.
    """

    logits: RouteLogits
    token_count: int
    reused: int
    transcript_hash: str
    gap: Gap | None = None


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """Who speaks next, in which role, and everything needed to check it.

    ``token_count`` counts the tokens of the whole input text; ``reused_tokens`` of them were not read again, because
    an earlier call, or one beside it, had read the same beginning. ``gap`` is what a reading window left out.
    """

    choice: Choice
    label: str
    logits: RouteLogits
    token_count: int
    reused_tokens: int
    transcript_hash: str
    artifact: ArtifactIdentity
    profile: str
    timings: Timings
    gap: Gap | None = None

    @property
    def slot(self) -> int:
        """Index of the chosen agent slot."""
        return self.choice.slot

    @property
    def role(self) -> Role:
        """The role that the chosen agent takes."""
        return self.choice.role

    @property
    def margins(self) -> Margins:
        """Margins of both splits, among the allowed slots."""
        return self.choice.margins

    @property
    def ranking(self) -> tuple[int, ...]:
        """Allowed slots, best first."""
        return self.choice.ranking

    @property
    def route_hash(self) -> str:
        """The hash of this decision; see ``route_hash``."""
        return route_hash(self.slot, self.role, self.logits)

    def to_dict(self) -> dict[str, Any]:
        """The decision as JSON-ready plain values: the object that ``trinity-mlx route --json`` prints."""
        choice = self.choice
        return {
            "agent": {"slot": self.slot, "label": self.label},
            "role": {"id": int(self.role), "name": self.role.label},
            "logits": {"agent": list(self.logits.agent), "role": list(self.logits.role)},
            "margins": {"agent": choice.margins.agent, "role": choice.margins.role},
            "ranking": list(choice.ranking),
            "ties": {"agent": list(choice.tied_slots), "role": [int(role) for role in choice.tied_roles]},
            "guard": {
                "heard": choice.selection.guarded,
                "spoke": choice.guarded and str(choice.guarded),
                "distance": self.logits.distance,
            },
            "selection": _selection_dict(choice.selection),
            "probabilities": _probabilities_dict(choice.probabilities),
            "token_count": self.token_count,
            "reused_tokens": self.reused_tokens,
            "left_out": self.gap.to_dict() if self.gap else None,
            "transcript_hash": self.transcript_hash,
            "route_hash": self.route_hash,
            "artifact": {
                "name": self.artifact.name,
                "adapter_ref": self.artifact.adapter_ref,
                "base_ref": self.artifact.base_ref,
            },
            "profile": self.profile,
            "timings_ms": {"load": round(self.timings.load, 3), "route": round(self.timings.route, 3)},
        }


def route_hash(slot: int, role: Role, logits: RouteLogits) -> str:
    """sha256 over the canonical JSON of slot, role id and all logits as text with six decimals.

    The hashed object is ``{"logits": {"agent": [...], "role": [...]}, "role": id, "slot": index}``.
    """
    texts = {"agent": [fixed6(value) for value in logits.agent], "role": [fixed6(value) for value in logits.role]}
    return canonical_sha256({"slot": slot, "role": int(role), "logits": texts})


def _selection_dict(selection: Selection) -> Mapping[str, Any]:
    return {
        "agent": str(selection.agent),
        "role": str(selection.role),
        "temperature": selection.temperature,
        "seed": selection.seed,
    }


def _probabilities_dict(probabilities: Probabilities | None) -> Mapping[str, Any] | None:
    if probabilities is None:
        return None
    return {"agent": list(probabilities.agent), "role": list(probabilities.role)}

"""How a run is coordinated: every choice on which public sources differ, and every safeguard, as a named option."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self, get_type_hints

from ..contracts.errors import PolicyInvalid, SelectionError
from ..contracts.routing import Guard, Selection, SelectionMode
from .options import OptionReader
from .roles import CallForm
from .verdict import VerdictWords


class Reads(StrEnum):
    """What the router reads in each turn."""

    TRANSCRIPT = "transcript"
    """The task and every reply."""
    WORKER_ANSWERS = "worker-answers"
    """The task and the Worker's replies alone."""


class EarlyVerifier(StrEnum):
    """What becomes of a Verifier that is chosen while there is no answer to check."""

    WORKER = "worker"
    """The same turn is a Worker's."""
    ERROR = "error"
    """The run fails before anybody is called."""
    ALLOW = "allow"
    """The Verifier is called."""


class AcceptReturns(StrEnum):
    """What a run returns when a Verifier accepts."""

    WORKER_ANSWER = "worker-answer"
    """The answer that was accepted."""
    VERIFIER_TEXT = "verifier-text"
    """The Verifier's own reply."""


class OnRefusal(StrEnum):
    """What becomes of a turn in which the called agent refuses to answer."""

    FALLBACK = "fallback"
    """The next best agent takes it; where nobody is left, the run ends with the refusal."""
    END = "end"
    """The run ends with a Worker's refusal; in other roles the next best agent takes the turn."""


class Review(StrEnum):
    """Whether a person looks at an answer before it is released."""

    NONE = "none"
    ASK = "ask"
    """The run waits for a decision; without approval the answer stays unreleased, and the run fails."""


class MissingMargin(StrEnum):
    """How confident a choice counts whose margin does not exist, as where there is one agent only."""

    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class Policy:
    """The options of a run. Each takes a plain value too (``"worker"``, ``"3"``, ``"none"``), as a command line has it.

    Confidence: a choice is ``low`` where either margin lies under its ``low_*_margin``, ``high`` where both reach their
    ``high_*_margin``, and ``medium`` between; 0 in all four, the default, switches this off. A Worker chosen with low
    confidence becomes a Thinker, and after that Thinker (or one that was chosen itself) the next turn is a Verifier's.

    Raises:
        PolicyInvalid: an option's value is of the wrong kind, out of range, or lacks another that it needs.
    """

    name: str = "default"
    max_turns: int = 5
    """How many replies a run may take; 1 or more."""
    reads: Reads = Reads.TRANSCRIPT
    agent_selection: SelectionMode = SelectionMode.ARGMAX
    role_selection: SelectionMode = SelectionMode.ARGMAX
    temperature: float = 1.0
    """What the logits are divided by before the softmax; above 0."""
    seed: int | None = None
    """What a sampled choice is drawn from, with the transcript and the turn; a run that samples needs one."""
    early_verifier: EarlyVerifier = EarlyVerifier.WORKER
    accept_returns: AcceptReturns = AcceptReturns.WORKER_ANSWER
    verdict_words: VerdictWords = VerdictWords.TOLERANT
    respect_suggestions: bool = True
    """Whether a Thinker's suggestion decides the role of the next turn."""
    ask_suggestions: bool = True
    """Whether the Thinker is asked for the tags of a suggestion."""
    worker_synonym: bool = True
    """Whether a Thinker may also write ``worker`` for ``solver``."""
    roles_in_turn: bool = True
    """Whether Worker and Verifier take turns where the role logits are all equal, and so say nothing about roles."""
    input_answers: bool = False
    """Whether an assistant message of the task counts as a Worker's answer."""
    call_form: CallForm = CallForm.DIALOGUE
    fallback: bool = True
    """Whether the next best agent takes a turn in which the chosen one failed."""
    on_refusal: OnRefusal = OnRefusal.FALLBACK
    max_tool_rounds: int = 50
    """How often a Worker may call tools within one turn; 0 or more."""
    review: Review = Review.NONE
    sticky_margin: float | None = None
    """Keep the agent that spoke last unless another's logit leads by at least this; above 0."""
    floor_margin: float | None = None
    """Under this agent margin, ``default_slot`` takes the turn; above 0."""
    floor_distance: float | None = None
    """Beyond this distance from all that the router was trained on, ``default_slot`` takes the turn; above 0."""
    default_slot: int | None = None
    own_guard: bool = True
    """Whether the guard that the router brings stands where the policy names no default slot."""
    bypass_slot: int | None = None
    """The agent of every turn; the router is asked for the role alone."""
    low_agent_margin: float = 0.0
    low_role_margin: float = 0.0
    high_agent_margin: float = 0.0
    high_role_margin: float = 0.0
    missing_margin: MissingMargin = MissingMargin.MEDIUM

    def __post_init__(self) -> None:
        for name, option in _OPTIONS.items():
            object.__setattr__(self, name, option.read(name, getattr(self, name)))
        _check_ranges(self)
        _check_pairs(self)
        try:
            Selection(temperature=self.temperature, seed=self.seed)
        except SelectionError as error:
            raise PolicyInvalid(str(error)) from None

    @classmethod
    def named(cls, name: str) -> Policy:
        """The shipped policy of that name.

        Raises:
            PolicyInvalid: there is none.
        """
        if name not in POLICIES:
            raise PolicyInvalid(f"unknown policy {name!r}: use {' or '.join(POLICIES)}")
        return POLICIES[name]

    def with_options(self, **options: Any) -> Self:
        """This policy with other values for some options, typed or plain.

        Raises:
            PolicyInvalid: an option has no such name, or a value does not fit.
        """
        unknown = [name for name in options if name not in _OPTIONS]
        if unknown:
            raise PolicyInvalid(f"unknown policy option {unknown[0]!r}: use {', '.join(_OPTIONS)}")
        return replace(self, **options)

    @property
    def selection(self) -> Selection:
        """How slot and role are chosen from the logits."""
        return Selection(self.agent_selection, self.role_selection, self.temperature, self.seed)

    @property
    def guard(self) -> Guard | None:
        """Whose turn it is where the router is not to be followed, and when."""
        slot = self.default_slot
        return None if slot is None else Guard(slot, self.floor_margin, self.floor_distance)

    def guarded_by(self, guard: Guard | None, slots: Collection[int]) -> Self:
        """This policy with a router's own ``guard``, unless it has one, wants none, or nobody sits in its slot."""
        if guard is None or not self.own_guard or self.default_slot is not None or guard.slot not in slots:
            return self
        limits = {"floor_margin": guard.margin or None, "floor_distance": guard.distance or None}
        return self.with_options(default_slot=guard.slot, **limits) if any(limits.values()) else self

    @property
    def samples(self) -> bool:
        """Whether any choice is drawn, so that a run needs a seed."""
        return SelectionMode.SAMPLE in (self.agent_selection, self.role_selection)

    @property
    def has_confidence(self) -> bool:
        """Whether choices are classed by their margins."""
        return any(getattr(self, name) for name in _MARKS)

    def to_dict(self) -> dict[str, Any]:
        """Every option as a JSON-ready plain value; ``with_options`` takes them back."""
        values = {name: getattr(self, name) for name in _OPTIONS}
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in values.items()}


_OPTIONS = {name: OptionReader.of(kind) for name, kind in get_type_hints(Policy).items()}
_MARKS = ("low_agent_margin", "low_role_margin", "high_agent_margin", "high_role_margin")
_LEAST = {"max_turns": 1, "max_tool_rounds": 0, "default_slot": 0, "bypass_slot": 0, **dict.fromkeys(_MARKS, 0)}


def _check_ranges(policy: Policy) -> None:
    for name, least in _LEAST.items():
        value = getattr(policy, name)
        if value is not None and value < least:
            raise PolicyInvalid(f"policy option {name} is {value}: it must be {least} or more")
    for name in ("sticky_margin", "floor_margin", "floor_distance"):
        value = getattr(policy, name)
        if value is not None and value <= 0:
            raise PolicyInvalid(f"policy option {name} is {value}: it must be above 0, or none to switch it off")


def _check_pairs(policy: Policy) -> None:
    has_floor = policy.floor_margin is not None or policy.floor_distance is not None
    if has_floor != (policy.default_slot is not None):
        raise PolicyInvalid(
            "policy options floor_margin or floor_distance and default_slot belong together: give both or neither"
        )
    for low, high in zip(_MARKS[:2], _MARKS[2:], strict=True):
        if getattr(policy, high) < getattr(policy, low):
            raise PolicyInvalid(
                f"policy option {high} is {getattr(policy, high)}: it must not be under {low}, "
                f"which is {getattr(policy, low)}"
            )


POLICIES = {
    "default": Policy(),
    "published": Policy(
        name="published",
        early_verifier=EarlyVerifier.ERROR,
        accept_returns=AcceptReturns.VERIFIER_TEXT,
        verdict_words=VerdictWords.STRICT,
        ask_suggestions=False,
        worker_synonym=False,
        roles_in_turn=False,
        input_answers=True,
        call_form=CallForm.PLAIN,
        fallback=False,
        on_refusal=OnRefusal.END,
        own_guard=False,
    ),
}
"""``default``, and ``published``: what the published port does, rule by rule."""

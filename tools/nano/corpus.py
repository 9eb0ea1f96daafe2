"""Generated conversations with the slot, the role and the state that a router should see in them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from .fillers import fill
from .noise import disturb
from .phrases import LANGUAGES, SLOTS, Split, cell, words

Message = dict[str, str]

ROLES = ("worker", "thinker", "verifier")
STATE_ROLES = {
    "open": "worker",
    "plan_needed": "thinker",
    "planned": "worker",
    "answered": "verifier",
    "check_asked": "verifier",
    "refuted_by_verifier": "worker",
    "refuted_by_user": "worker",
}
STATES = tuple(STATE_ROLES)
MAX_CHARACTERS = 1500

_STATE_WEIGHTS = (24, 17, 11, 14, 12, 12, 10)
# The training text leans on the languages that have fewer phrasings.
_LANGUAGE_WEIGHTS = {"train": (79, 7, 7, 7), "heldout": (88, 4, 4, 4)}


@dataclass(frozen=True)
class Example:
    """One conversation: `messages` of role and content, the right slot (0-6) and role (0-2), its state, and
    the ids of all phrasing families that it uses."""

    messages: list[Message]
    slot: int
    role: int
    state: str
    families: tuple[str, ...]


def transcript(messages: list[Message]) -> str:
    """The text that the router reads (format `role-lines`)."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def examples(split: Split, count: int, seed: int) -> list[Example]:
    """`count` conversations from the families of one split; the same seed gives the same list."""
    rng = Random(f"{split}-{seed}")
    return [_example(split, rng) for _ in range(count)]


def _example(split: Split, rng: Random) -> Example:
    state = rng.choices(STATES, _STATE_WEIGHTS)[0]
    slot = rng.randrange(len(SLOTS))
    while True:
        conversation = _Conversation(split, rng, SLOTS[slot])
        conversation.open_with_history()
        _SCENES[state](conversation)
        if len(transcript(conversation.messages)) <= MAX_CHARACTERS:
            role = ROLES.index(STATE_ROLES[state])
            return Example(conversation.messages, slot, role, state, tuple(conversation.families))


@dataclass
class _Conversation:
    """A conversation as it is being written: one topic, one language, one way of showing agents' replies."""

    split: Split
    rng: Random
    slot: str
    messages: list[Message] = field(default_factory=list)
    families: list[str] = field(default_factory=list)
    topic: dict[str, str] = field(default_factory=dict)
    lead_in: str = ""

    def __post_init__(self) -> None:
        self.language = self.rng.choices(LANGUAGES, _LANGUAGE_WEIGHTS[self.split])[0]
        self.prefixed = self.chance(0.35)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def phrase(self, kind: str, **given: str) -> str:
        """A phrase of a kind, from the families of this split, language and slot."""
        family = self.rng.choice(cell(self.split, self.language, kind, self.slot))
        self.families.append(family.id)
        topic = self.topic if self.chance(0.6) else {}
        return fill(family.choose(self.rng), self.rng, topic, given)

    def user(self, text: str) -> None:
        self.messages.append({"role": "user", "content": disturb(text, self.rng)})

    def agent(self, name: str, text: str) -> None:
        content = f"{name}: {text}" if self.prefixed else text
        self.messages.append({"role": "assistant", "content": content})

    def open_with_history(self) -> None:
        """Perhaps a system prompt, perhaps an earlier exchange on another topic."""
        if self.chance(0.25):
            self.messages.append({"role": "system", "content": self.phrase("system")})
        if self.chance(0.12):
            self.earlier_exchange()

    def earlier_exchange(self) -> None:
        slot, self.slot = self.slot, self.rng.choice(SLOTS)
        self.user(self.courteous(self.phrase("task")))
        self.answer()
        if self.chance(0.4):
            self.agent("Verifier", self.phrase("accept"))
        self.slot, self.topic = slot, {}
        self.lead_in = self.phrase("switch" if self.chance(0.6) else "thanks") if self.chance(0.7) else ""

    def courteous(self, text: str) -> str:
        """The text with a greeting before it or a remark after it, now and then."""
        before = self.phrase("greeting") if self.chance(0.15) else ""
        after = self.phrase("tail") if self.chance(0.15) else ""
        return " ".join(part for part in (self.lead_in, before, text, after) if part)

    def task(self) -> None:
        self.user(self.courteous(self.phrase("task")))

    def big_task(self) -> None:
        wrapped = self.chance(0.55)
        self.user(self.courteous(self.wrapped("wrap-big") if wrapped else self.phrase("big")))

    def wrapped(self, kind: str) -> str:
        """A request about a task, its answer, or what is wrong with the answer."""
        names = ("task", "task2", "task3", "answer", "fault")
        parts = {name: self.phrase(name.rstrip("23")) for name in names}
        return self.phrase(kind, **parts)

    def plan(self) -> None:
        text = self.phrase("plan")
        if self.chance(0.3):
            text += self.rng.choice(("\n", " ")) + self.phrase("plan")
        if self.chance(0.5):
            role = self.rng.choice(("solver",) * 5 + ("verifier",))
            tags = f"<suggestion>{self.phrase('suggestion')}</suggestion>"
            text += f"\n{tags}{self.rng.choice(('', chr(10)))}<suggested_role>{role}</suggested_role>"
        self.agent("Thinker note", text)

    def answer(self) -> None:
        texts = [self.phrase("answer") for _ in range(self.rng.choice((1, 1, 1, 2)))]
        self.agent("Worker answer", self.rng.choice(("\n", "\n\n", " ")).join(texts))

    def verdict(self) -> None:
        faults = {name: self.phrase("fault") for name in ("fault", "fault2")}
        mark = self.rng.choice(words()["verdict_mark"])
        self.agent("Verifier", mark + self.rng.choice((" ", " ", "\n")) + self.phrase("verdict", **faults))

    def asked(self) -> None:
        """The task as the user put it, small or big, perhaps with the plan that followed."""
        if self.chance(0.3):
            self.big_task()
        else:
            self.task()
        if self.chance(0.3):
            self.plan()

    def refuted_round(self) -> None:
        self.answer()
        self.verdict()


def _open(talk: _Conversation) -> None:
    talk.task()
    if talk.chance(0.2):
        talk.answer()
        if talk.chance(0.4):
            talk.agent("Verifier", talk.phrase("accept"))
        talk.user(talk.phrase("followup"))


def _plan_needed(talk: _Conversation) -> None:
    talk.big_task()


def _planned(talk: _Conversation) -> None:
    if talk.chance(0.5):
        talk.big_task()
    else:
        talk.task()
    if talk.chance(0.2):
        talk.refuted_round()
    talk.plan()


def _answered(talk: _Conversation) -> None:
    talk.asked()
    if talk.chance(0.25):
        talk.refuted_round()
        if talk.chance(0.3):
            talk.plan()
    talk.answer()


def _check_asked(talk: _Conversation) -> None:
    kind = talk.rng.choice(("claim", "wrap-check", "ask-check"))
    if kind == "ask-check":
        talk.asked()
        talk.answer()
        talk.user(talk.phrase(kind))
    else:
        talk.user(talk.courteous(talk.phrase(kind) if kind == "claim" else talk.wrapped(kind)))


def _refuted_by_verifier(talk: _Conversation) -> None:
    talk.asked()
    for _ in range(talk.rng.choice((1, 1, 1, 2))):
        talk.refuted_round()


def _refuted_by_user(talk: _Conversation) -> None:
    if talk.chance(0.35):
        talk.user(talk.courteous(talk.wrapped("wrap-refuted")))
        return
    talk.asked()
    talk.answer()
    talk.user(talk.phrase("refute", fault=talk.phrase("fault")))


_SCENES: dict[str, Callable[[_Conversation], None]] = {
    "open": _open,
    "plan_needed": _plan_needed,
    "planned": _planned,
    "answered": _answered,
    "check_asked": _check_asked,
    "refuted_by_verifier": _refuted_by_verifier,
    "refuted_by_user": _refuted_by_user,
}

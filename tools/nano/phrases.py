"""The phrase files: families of phrasings, the words that fill them, and which families are held out.

A file under `phrases/` holds three kinds of line:

    # kind slot slot ...     the lines below are families of this kind, for these slots
    @word one; two; three    a table of words
    anything else            one family: a template with `{word}` to fill and `[one|two]` to choose from

In every section the fifth of the families whose templates hash lowest is held out: picked by nobody, and
the same on every run.
"""

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Literal

Split = Literal["train", "heldout"]

SLOTS = ("mathematics", "code", "science", "writing", "planning", "facts", "data")
LANGUAGES = ("english", "spanish", "french", "german")
HELDOUT_EVERY = 5

_FOLDER = Path(__file__).parent / "phrases"
_CHOICE = re.compile(r"\[([^\[\]]*\|[^\[\]]*)\]")


@dataclass(frozen=True)
class Family:
    """One phrasing family, with the slots that it suits."""

    id: str
    kind: str
    slots: tuple[str, ...]
    language: str
    template: str
    split: Split

    def phrasings(self) -> int:
        """Number of distinct phrasings, the filled-in words not counted."""
        return math.prod(choices.count("|") + 1 for choices in _CHOICE.findall(self.template))

    def choose(self, rng: Random) -> str:
        """One phrasing, its words still to be filled in."""
        return _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), self.template)


@cache
def families() -> tuple[Family, ...]:
    """Every family of every phrase file, in the order of the files."""
    return tuple(family for path in _files() for family in _read_families(path))


@cache
def cell(split: Split, language: str, kind: str, slot: str) -> tuple[Family, ...]:
    """The families for one use; where a language has none of its own, the English ones."""
    found = tuple(
        family
        for family in families()
        if (family.split, family.language, family.kind) == (split, language, kind) and slot in family.slots
    )
    if found or language == "english":
        return found
    return cell(split, "english", kind, slot)


@cache
def words() -> dict[str, tuple[str, ...]]:
    """The tables of words, by name."""
    lines = [line for path in _files() for line in _lines(path) if line.startswith("@")]
    tables = (line[1:].partition(" ") for line in lines)
    return {name: tuple(row.strip().split("; ")) for name, _, row in tables}


def _files() -> list[Path]:
    return sorted(_FOLDER.glob("*.txt"))


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _sections(path: Path) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
    """The sections of one file: kind, slots (all of them where none is named) and templates."""
    kind, slots = "", ()
    templates: list[str] = []
    for line in _lines(path):
        if line.startswith("# "):
            yield kind, slots, templates
            kind, *named = line[2:].split()
            slots = tuple(named) or ((path.stem,) if path.stem in SLOTS else SLOTS)
            templates = []
        elif not line.startswith("@"):
            templates.append(line.replace("\\n", "\n"))
    yield kind, slots, templates


def _read_families(path: Path) -> Iterator[Family]:
    language = path.stem if path.stem in LANGUAGES else "english"
    for kind, slots, templates in _sections(path):
        heldout = _heldout(templates)
        for number, template in enumerate(templates):
            split: Split = "heldout" if template in heldout else "train"
            name = "-".join(slots) if len(slots) < len(SLOTS) else "any"
            yield Family(f"{language}.{kind}.{name}.{number}", kind, slots, language, template, split)


def _heldout(templates: list[str]) -> set[str]:
    """The templates of a section to hold out: at least one, if one remains."""
    count = max(1, round(len(templates) / HELDOUT_EVERY)) if len(templates) > 1 else 0
    return set(sorted(templates, key=lambda template: hashlib.sha256(template.encode()).digest())[:count])

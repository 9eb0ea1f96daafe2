"""Suites: conversations with the route that is expected of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..contracts.errors import InputFileError, SuiteInvalid, TranscriptError
from ..contracts.routing import Role
from ..contracts.transcript import Transcript
from ..files.models import Faults, Lenient, plain, read_model
from ..files.paths import existing_file
from ..files.shipped import data_path


@dataclass(frozen=True, slots=True)
class Route:
    """A slot and a role: what a case expects, or what it got."""

    slot: int
    role: Role


@dataclass(frozen=True, slots=True)
class Case:
    """One conversation and what is expected of it.

    ``token_count`` is the number of router input tokens, None where the suite does not state it.
    """

    id: str
    transcript: Transcript
    expected: Route
    token_count: int | None = None
    tags: tuple[str, ...] = ()
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Suite:
    """Cases in the order in which they are run; ``sha256`` is that of the file."""

    name: str
    sha256: str
    cases: tuple[Case, ...]

    def only(self, ids: tuple[str, ...]) -> Suite:
        """The same suite with the cases ``ids`` alone; without any, all of it.

        Raises:
            SuiteInvalid: there is no case of that name.
        """
        if not ids:
            return self
        known = {case.id for case in self.cases}
        unknown = [wanted for wanted in ids if wanted not in known]
        if unknown:
            raise SuiteInvalid(f"suite {self.name} has no case {unknown[0][:200]!r}")
        return Suite(self.name, self.sha256, tuple(case for case in self.cases if case.id in ids))


class _Expected(Lenient):
    agent_id: Annotated[int, Field(ge=0)]
    role_id: Annotated[int, Field(ge=0, lt=len(Role))]


class _Message(Lenient):
    role: str
    content: str


class _Case(Lenient):
    id: Annotated[str, Field(min_length=1)]
    messages: Annotated[list[_Message], Field(min_length=1)]
    expected: _Expected
    router_input_tokens: Annotated[int, Field(ge=1)] | None = None
    tags: list[str] = Field(default_factory=list)
    notes: str | None = None


class _File(Lenient):
    schema_version: Annotated[int, Field(ge=1, le=1)]
    cases: Annotated[list[_Case], Field(min_length=1)]


def builtin_suites() -> list[str]:
    """Names of the suites that ship with the package."""
    return sorted(path.stem for path in data_path("fixtures/suites").glob("*.json"))


def find_suite(name: str | Path) -> Suite:
    """A shipped suite by name, or the suite in a file.

    Raises:
        InputFileError: there is neither.
        SuiteInvalid: the file does not hold a suite.
    """
    if str(name) in builtin_suites():
        return read_suite(data_path("fixtures/suites") / f"{name}.json")
    path = existing_file(name)
    if path is None:
        raise InputFileError(f"no suite {str(name)!r}: name one of {', '.join(builtin_suites())}, or a JSON file")
    return read_suite(path)


def read_suite(path: Path) -> Suite:
    """The suite in a file of the public shape: ``cases[]`` of id, messages, expected, tags, notes.

    Raises:
        InputFileError: the file cannot be read.
        SuiteInvalid: it holds something else, a case twice, or messages that are no transcript.
    """
    document, sha256 = read_model(path, _File, Faults(SuiteInvalid, InputFileError))
    seen: set[str] = set()
    for case in document.cases:
        if case.id in seen:
            raise SuiteInvalid(f"{path}: case {case.id!r} stands there twice")
        seen.add(case.id)
    return Suite(plain(path.stem), sha256, tuple(_case(path, case) for case in document.cases))


def _case(path: Path, case: _Case) -> Case:
    try:
        transcript = Transcript.of([message.model_dump() for message in case.messages])
    except TranscriptError as error:
        raise SuiteInvalid(f"{path}: case {case.id!r}: {error}") from None
    expected = Route(case.expected.agent_id, Role(case.expected.role_id))
    return Case(case.id, transcript, expected, case.router_input_tokens, tuple(case.tags), case.notes or "")

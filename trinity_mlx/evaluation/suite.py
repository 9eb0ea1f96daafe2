"""Suites: conversations with the route that is expected of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ..contracts.errors import InputFileError, SuiteInvalid, TranscriptError
from ..contracts.routing import Role
from ..contracts.transcript import Transcript
from ..files.hashing import FileHashes
from ..files.models import Faults, Lenient, Strict, plain, read_model
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


class _Case(Lenient):
    id: Annotated[str, Field(min_length=1)]
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    expected: _Expected
    router_input_tokens: Annotated[int, Field(ge=1)] | None = None
    tags: list[str] = Field(default_factory=list)
    notes: str | None = None


class _File(Lenient):
    schema_version: Annotated[int, Field(ge=1, le=1)]
    cases: Annotated[list[_Case], Field(min_length=1)]


class _PinnedFile(Strict):
    file: Annotated[str, Field(min_length=1)]
    size: Annotated[int, Field(ge=1)]
    sha256: str
    home: str


class PinnedSuite(Strict):
    """A suite of others: it does not ship with the package, and its bytes are known."""

    schema_name: Annotated[Literal["trinity-mlx.suite-pin"], Field(alias="schema")]
    version: Literal[1]
    name: str
    summary: str
    cases: _PinnedFile
    snapshot: _PinnedFile | None = None


def builtin_suites() -> list[str]:
    """Names of the suites that ship with the package."""
    return sorted(path.stem for path in data_path("fixtures/suites").glob("*.json"))


def pinned_suites() -> list[str]:
    """Names of the suites of others that are known, and found once a user has their file."""
    return sorted(path.stem for path in data_path("fixtures/suite_pins").glob("*.json"))


def find_suite(name: str | Path, folder: Path | None = None) -> Suite:
    """A shipped suite by name, a user's own in ``folder``, a pinned one whose file lies there, or the suite in a file.

    Raises:
        InputFileError: there is none of these; of a pinned one it says where its file is to be had.
        SuiteInvalid: the file does not hold a suite, or is not the pinned one.
    """
    if str(name) in builtin_suites():
        return read_suite(data_path("fixtures/suites") / f"{name}.json")
    if str(name) in pinned_suites():
        return _pinned(str(name), folder)
    own = existing_file(folder / f"{name}.json") if folder else None
    path = own or existing_file(name)
    if path is None:
        known = ", ".join([*builtin_suites(), *pinned_suites()])
        raise InputFileError(f"no suite {str(name)[:200]!r}: name one of {known}, or a JSON file")
    return read_suite(path)


def pinned_snapshot(name: str, folder: Path) -> Path | None:
    """The snapshot that belongs to the pinned suite ``name``, where its file lies in ``folder``.

    Raises:
        SuiteInvalid: a file of that name lies there, and is not the pinned one.
    """
    pin = _pin(name) if name in pinned_suites() else None
    path = existing_file(folder / pin.snapshot.file) if pin and pin.snapshot else None
    if pin is None or pin.snapshot is None or path is None:
        return None
    sha256 = FileHashes().sha256(path)
    if sha256 != pin.snapshot.sha256:
        raise SuiteInvalid(f"{path} is not the snapshot of suite {name}: its sha256 is {sha256}: get it anew")
    return path


def _pin(name: str) -> PinnedSuite:
    return read_model(data_path("fixtures/suite_pins") / f"{name}.json", PinnedSuite, Faults(SuiteInvalid))[0]


def _pinned(name: str, folder: Path | None) -> Suite:
    pin = _pin(name)
    path = existing_file(folder / pin.cases.file) if folder else None
    if path is None:
        place = folder / pin.cases.file if folder else pin.cases.file
        raise InputFileError(
            f"the file of suite {name} is not on this machine: it comes from {pin.cases.home} "
            f"({pin.cases.size} bytes); save it as {place}{_beside(pin)}"
        )
    suite = read_suite(path)
    if suite.sha256 != pin.cases.sha256:
        raise SuiteInvalid(f"{path} is not the file of suite {name}: its sha256 is {suite.sha256}: get it anew")
    return replace(suite, name=name)


def _beside(pin: PinnedSuite) -> str:
    return f", and beside it {pin.snapshot.home}, what others measured" if pin.snapshot else ""


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
        transcript = Transcript.of(case.messages)
    except TranscriptError as error:
        raise SuiteInvalid(f"{path}: case {case.id!r}: {error}") from None
    expected = Route(case.expected.agent_id, Role(case.expected.role_id))
    return Case(case.id, transcript, expected, case.router_input_tokens, tuple(case.tags), case.notes or "")

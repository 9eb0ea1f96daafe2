"""Lanes: what one profile gives with one artifact, with the margins to hold and how they came about.

A lane is a JSON file, ``runtime_profiles/<profile>/<artifact>.json`` (``<artifact>+int8.json`` for a variant): shipped
ones lie in ``fixtures``, a user's own in the configuration folder, and a user's own goes first. It has the keys of a
public snapshot (``schema_version``, ``cases``) and those of ``Lane``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from ..contracts.backend import Variant
from ..contracts.errors import InputFileError, LaneInvalid, SnapshotInvalid
from ..contracts.routing import ArtifactIdentity
from ..files.atomic import write_json
from ..files.models import Faults, Strict, plain, read_model
from ..files.paths import existing_file
from ..files.shipped import data_path
from ..routing.router import RouterIdentity
from .results import Evaluation
from .snapshot import OWN_HASHES, Snapshot, SnapshotCase, make_snapshot, snapshot_case

FOLDER = "runtime_profiles"
_Margin = Annotated[float, Field(ge=0)]


class LaneArtifact(Strict):
    """The artifact by name, and by content where the lane was measured."""

    name: str
    adapter_ref: str | None = None
    base_ref: str | None = None
    head_ref: str | None = None


class LaneFloors(Strict):
    """The least margins, in logits."""

    agent: _Margin
    role: _Margin


class LaneWorst(Strict):
    """The smallest margin seen, and its case."""

    value: _Margin
    case: str


class LaneMargins(Strict):
    """The worst of both splits."""

    agent: LaneWorst
    role: LaneWorst


class SignOff(Strict):
    """Who stands for it, and since when: a name in one line, and a day in UTC."""

    by: Annotated[str, Field(min_length=1, max_length=200)]
    date: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]


class LaneSuite(Strict):
    """The suite that the lane is about."""

    name: str
    sha256: str


class Lane(Strict):
    """One lane.

    ``status`` is ``measured`` (on the machine in ``provenance``), ``published`` (the figures are others') or
    ``unmeasured`` (decisions are checked against the suite, and nothing else is known).
    """

    schema_version: Literal[1] = 1
    profile: str
    artifact: LaneArtifact
    variant: str = ""
    status: Literal["measured", "published", "unmeasured"]
    note: str = ""
    suite: LaneSuite | None = None
    floors: LaneFloors | None = None
    worst: LaneMargins | None = None
    signed_off: SignOff | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)
    hashes: Literal["trinity-mlx-1"] = OWN_HASHES
    cases: list[SnapshotCase] = Field(default_factory=list)
    origin: Annotated[Path | None, Field(exclude=True)] = None

    @model_serializer(mode="wrap")
    def _without_an_empty_signature(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A lane that nobody signed looks as lanes always did."""
        document: dict[str, Any] = handler(self)
        if document.get("signed_off", ...) is None:
            del document["signed_off"]
        return document

    @property
    def name(self) -> str:
        """``profile/artifact``, with the variant where it is not the usual one."""
        return f"{self.profile}/{_stem(self.artifact.name, self.variant)}"

    @property
    def snapshot(self) -> Snapshot | None:
        """Its cases as a snapshot; None where nothing was measured."""
        return make_snapshot(f"lane {self.name} ({plain(str(self.origin))})", True, self.cases) if self.cases else None

    def describes(self, artifact: ArtifactIdentity, head_ref: str) -> bool:
        """Whether the lane was made with this very adapter, base and head, or with none in particular."""
        measured = self.artifact
        pairs = (
            (measured.adapter_ref, artifact.adapter_ref),
            (measured.base_ref, artifact.base_ref),
            (measured.head_ref, head_ref),
        )
        return all(recorded in (None, actual) for recorded, actual in pairs)


def lane_file(folder: Path, profile: str, artifact: str, variant: Variant) -> Path:
    """Where the lane lies below a folder of lanes."""
    return folder / profile / f"{_stem(artifact, variant.label)}.json"


def user_lanes(config_dir: Path) -> Path:
    """The folder of a user's own lanes."""
    return config_dir / FOLDER


def shipped_lanes() -> Path:
    """The folder of the lanes that come with the package."""
    return data_path("fixtures", FOLDER)


def find_lane(profile: str, artifact: str, variant: Variant, config_dir: Path | None = None) -> Lane | None:
    """The lane of a profile, an artifact and a variant; a variant without its own has the usual one's.

    Raises:
        LaneInvalid: its file is malformed, or is about something else.
    """
    folders = [*([user_lanes(config_dir)] if config_dir else []), shipped_lanes()]
    for wanted in dict.fromkeys((variant, Variant())):
        for folder in folders:
            path = existing_file(lane_file(folder, profile, artifact, wanted))
            if path is not None:
                return _of_its_place(read_lane(path), profile, artifact, wanted)
    return None


def _of_its_place(lane: Lane, profile: str, artifact: str, variant: Variant) -> Lane:
    subject, expected = (lane.profile, lane.artifact.name, lane.variant), (profile, artifact, variant.label)
    if subject != expected:
        place = f"{profile}/{_stem(artifact, variant.label)}"
        raise LaneInvalid(f"{lane.origin} is about {lane.name}, and lies where {place} belongs: move it or remove it")
    return lane


def read_lane(path: Path) -> Lane:
    """The lane in a file.

    Raises:
        InputFileError: the file cannot be read.
        LaneInvalid: it holds something else, or a case twice.
    """
    lane, _ = read_model(path, Lane, Faults(LaneInvalid, InputFileError))
    try:
        make_snapshot(str(path), True, lane.cases)
    except SnapshotInvalid as error:
        raise LaneInvalid(str(error)) from None
    return lane.model_copy(update={"origin": path})


def write_lane(path: Path, lane: Lane) -> None:
    """Write a lane, whole or not at all.

    Raises:
        FolderUnavailable: it cannot be written.
    """
    write_json(path, lane.model_dump(mode="json"))


def measured_lane(
    evaluation: Evaluation, identity: RouterIdentity, floors: LaneFloors, provenance: Mapping[str, Any]
) -> Lane:
    """The lane that an evaluation without failures establishes."""
    artifact = identity.artifact
    return Lane(
        profile=identity.profile,
        artifact=LaneArtifact(
            name=artifact.name,
            adapter_ref=artifact.adapter_ref,
            base_ref=artifact.base_ref,
            head_ref=identity.head_ref,
        ),
        variant=identity.variant.label,
        status="measured",
        suite=LaneSuite(name=evaluation.suite.name, sha256=evaluation.suite.sha256),
        floors=floors,
        worst=_worst(evaluation),
        provenance=dict(provenance),
        cases=[snapshot_case(result.case.id, result.decision) for result in evaluation.results if result.decision],
    )


def lane_names(config_dir: Path | None = None) -> Sequence[str]:
    """``profile/artifact`` of every lane, the user's and the shipped ones."""
    folders = [*([user_lanes(config_dir)] if config_dir else []), shipped_lanes()]
    return sorted({f"{path.parent.name}/{path.stem}" for folder in folders for path in folder.glob("*/*.json")})


def _stem(artifact: str, variant: str) -> str:
    """A file's name without its ending; an artifact's name is free text, and must not lead elsewhere."""
    name = quote(artifact, safe=" ")
    return f"{name}+{variant}" if variant else name


def _worst(evaluation: Evaluation) -> LaneMargins | None:
    agent, role = evaluation.worst_agent, evaluation.worst_role
    if agent is None or role is None:
        return None
    return LaneMargins(
        agent=LaneWorst(value=round(agent.value, 6), case=agent.case),
        role=LaneWorst(value=round(role.value, 6), case=role.case),
    )

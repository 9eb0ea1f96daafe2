"""A head of any kind, at either token: trained with its offsets, sealed, and routed with as training measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.builders import make_base
from tests.training_tables import AGENTS, answers_of, records
from trinity_mlx.artifacts.manifest import read_manifest
from trinity_mlx.artifacts.vector import read_vector
from trinity_mlx.contracts.artifact import ReadPosition
from trinity_mlx.contracts.errors import UsageError, VectorInvalid
from trinity_mlx.contracts.routing import Role
from trinity_mlx.evaluation.certify import certify
from trinity_mlx.evaluation.suite import Case, Route, Suite
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.routing.loading import load_router
from trinity_mlx.routing.recipe import Recipe
from trinity_mlx.training.answers import Answers
from trinity_mlx.training.head import Head
from trinity_mlx.training.heads import HEADS
from trinity_mlx.training.pipeline import Trained, TrainingRequest, train
from trinity_mlx.training.reading import Engine, Reading
from trinity_mlx.training.roles import RoleSource
from trinity_mlx.training.sealing import VECTOR_FILE, BaseIdentity
from trinity_mlx.training.settings import Settings
from trinity_mlx.training.vector_layout import Layout

PROFILES = {"cpu": "torch", "mlx": "mlx"}


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    return Reading(make_base(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    rows = [{**row, "responses": {"alpha": "The answer is 42."}} for row in records(120)]
    return answers_of(tmp_path_factory.mktemp("table") / "t.jsonl", rows)


def trained(
    answers: Answers, reading: Reading, out: Path, head: str, backend: str = "torch", **asked: object
) -> Trained:
    settings = {"iterations": 3, "population": 6, "rank": 8, "offsets": False}
    more = {name: asked.pop(name) for name in list(asked) if name in ("offsets", "algorithm")}
    return train(
        TrainingRequest(
            answers=answers,
            reading=reading,
            identity=BaseIdentity("test/tiny"),
            engine=Engine(load_backend(backend)),
            settings=Settings(head=head, **{**settings, **more}),  # type: ignore[arg-type]
            out=out,
            **asked,  # type: ignore[arg-type]
        )
    )


@pytest.mark.parametrize(
    ("head", "profile", "position"),
    [
        *((head, "cpu", ReadPosition.SECOND_TO_LAST) for head in HEADS if head != "linear"),
        ("linear", "cpu", ReadPosition.LAST),
        ("low-rank", "mlx", ReadPosition.LAST),
    ],
)
def test_a_router_decides_as_its_training_measured(
    head: str, profile: str, position: ReadPosition, answers: Answers, reading: Reading, tmp_path: Path
) -> None:
    reading = replace(reading, position=position)
    with_offsets = (head, profile) == ("low-rank", "cpu")
    made = trained(answers, reading, tmp_path / "out", head, PROFILES[profile], offsets=with_offsets)
    test = answers.where("test").tolist()
    with load_router(made.bundle.folder, reading.base.folder, profile, "float32") as router:
        decisions = router.route_many([answers.rows[row].transcript for row in test])
    assert np.array_equal([decision.slot for decision in decisions], made.summary.choices)
    assert made.progress.kept
    assert (made.bundle.head.elu is not None) == (head == "low-rank")
    assert made.bundle.head.position is position


def test_a_low_rank_head_is_in_the_bundle_and_in_no_vector(answers: Answers, reading: Reading, tmp_path: Path) -> None:
    made = trained(answers, reading, tmp_path / "out", "low-rank", algorithm="ridge")
    manifest = read_manifest(made.bundle.folder)
    assert not (made.bundle.folder / VECTOR_FILE).exists()
    assert (manifest.version, manifest.vector, manifest.made["head"]) == (2, (), "low-rank, rank 8")
    assert made.bundle.head.elu
    assert made.bundle.head.elu.tensor.shape == (8 + 2 * len(Role), reading.base.config.hidden_size)
    head = Head(np.zeros((len(AGENTS) + 3, 8)), np.zeros((8, 64)))
    with pytest.raises(VectorInvalid, match=r"head of the bundle there is low-rank.*are in router_head.safetensors"):
        read_vector(made.bundle.folder / VECTOR_FILE)
    with pytest.raises(VectorInvalid, match="holds a linear head, and this one is low-rank"):
        Layout.of(reading.base).vector({}, head)


def test_a_lane_is_certified_and_held_for_a_head_of_any_kind(
    answers: Answers, reading: Reading, tmp_path: Path
) -> None:
    """The lane names the head by all that it is, so that of another position is not taken for it."""
    lanes = []
    for position in ReadPosition:
        out = tmp_path / position
        made = trained(answers, replace(reading, position=position), out, "low-rank", algorithm="ridge")
        source = Recipe(str(out), str(reading.base.folder), "cpu")
        with source.load() as router:
            decided = [(row, router.route(row.transcript)) for row in answers.rows[:4]]
        cases = [Case(row.id, row.transcript, Route(decision.slot, decision.role)) for row, decision in decided]
        suite = Suite("own", "0" * 64, tuple(cases))
        certificate = certify(source, suite, runs=2, processes=0, floor_ratio=0.5, provenance={})
        assert certificate.lane
        assert certificate.lane.artifact.head_ref == made.bundle.head.ref
        lanes.append(certificate.lane)
    assert lanes[0].artifact.head_ref != lanes[1].artifact.head_ref


def test_role_rows_are_kept_from_and_for_heads_of_any_kind(answers: Answers, reading: Reading, tmp_path: Path) -> None:
    low = trained(answers, reading, tmp_path / "low", "low-rank", algorithm="ridge")
    linear = trained(
        answers,
        reading,
        tmp_path / "linear",
        "linear",
        roles=RoleSource.KEEP,
        keep_roles_of=low.bundle,
        algorithm="ridge",
    )
    again = trained(
        answers,
        reading,
        tmp_path / "again",
        "low-rank",
        roles=RoleSource.KEEP,
        keep_roles_of=linear.bundle,
        algorithm="ridge",
    )
    assert linear.bundle.head.elu, "a linear head beside role rows that are not is written as a low-rank one"
    task = [{"role": "user", "content": "Add 3 and 4."}]
    talks = [task, [*task, {"role": "assistant", "content": "The answer is 42."}]]
    for bundle in (low.bundle, linear.bundle, again.bundle):
        with load_router(bundle.folder, reading.base.folder, "cpu", "float32") as router:
            assert [router.route(talk).role for talk in talks] == [Role.WORKER, Role.VERIFIER]
    with pytest.raises(UsageError, match="reads the same token"):
        trained(
            answers,
            replace(reading, position=ReadPosition.LAST),
            tmp_path / "other",
            "linear",
            roles=RoleSource.KEEP,
            keep_roles_of=low.bundle,
            algorithm="ridge",
        )


def test_a_fallback_stays_linear(answers: Answers, reading: Reading, tmp_path: Path) -> None:
    made = trained(answers, reading, tmp_path / "out", "low-rank", max_seconds=0.0)
    assert made.progress.stopped
    assert made.bundle.head.elu is None

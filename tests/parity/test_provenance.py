"""Published hashes: known by name, and demanded of nobody who lacks their components."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trinity_mlx.contracts.artifact import Base
from trinity_mlx.files.safetensors import read_header
from trinity_mlx.parity.provenance import PUBLISHED, PUBLISHED_TENSOR, bytes_sha256, is_reproduced, published_sha256
from trinity_mlx.parity.record import Task, record_reference, record_run
from trinity_mlx.parity.stages import STAGES_FILE, Subject
from trinity_mlx.profiles.backends import load_backend

PUBLISHED_VECTOR = "b9bf105b818cc32f3a25877b75adce1ec65e5201d524b929d217eb045a6ffa05"
SAME_AS_NPY = "769f64ee4e01080ff67e64a677ed3ce5268da69cdf7a44810accb096ef64ab10"

HISTORICAL = "600be6ab0f5a34325b9857182ccb5fce5971549a0ce8588cdacc992eda54014c"
REPRODUCIBLE = "5aaa24c15898794dec09dccae650e35549c33cc24815e70ac6641cc3b466b725"


def test_both_hashes_are_known_by_name() -> None:
    assert PUBLISHED == {HISTORICAL: "historical", REPRODUCIBLE: "reproducible"}


@pytest.mark.parametrize(
    ("kind", "vector", "found", "answer"),
    [
        ("reference", PUBLISHED_VECTOR, HISTORICAL, True),
        ("reference", PUBLISHED_VECTOR, REPRODUCIBLE, False),
        ("reference", SAME_AS_NPY, HISTORICAL, True),
        ("reference", PUBLISHED_VECTOR, None, None),
        ("reference", "0" * 64, HISTORICAL, None),
        ("run", PUBLISHED_VECTOR, HISTORICAL, None),
    ],
)
def test_only_a_reference_of_the_published_vector_can_reproduce_the_historical_hash(
    kind: str, vector: str, found: str | None, answer: bool | None
) -> None:
    assert is_reproduced(kind, vector, found) is answer


@pytest.fixture
def subject(tiny_base: Base) -> Subject:
    """A matrix of the tiny base under the name of the tensor whose hashes are published."""
    source = tiny_base.tensors["model.layers.1.mlp.up_proj.weight"]
    return Subject(PUBLISHED_TENSOR, source, np.linspace(-0.1, 0.1, min(source.shape), dtype="<f4"))


def task(subject: Subject, *, is_single: bool, vector: str = PUBLISHED_VECTOR) -> Task:
    return Task("0" * 64, vector, (subject,), np.zeros((10, 64), "<f4"), is_single)


def test_one_tensor_and_all_tensors_answer_alike(tmp_path: Path, subject: Subject) -> None:
    """A bundle of all holds the tensor in its source's orientation, and the published hashes are of the other."""
    for name, is_single in (("one", True), ("all", False)):
        report = record_reference(task(subject, is_single=is_single), tmp_path / name)
        assert report["reference_hash_reproducible"] is False
    one = read_header(tmp_path / "one" / STAGES_FILE)["stage.final_bf16"]
    every = read_header(tmp_path / "all" / STAGES_FILE)[f"tensor.{PUBLISHED_TENSOR}.final_bf16"]
    assert one.shape == every.shape[::-1]
    assert published_sha256(one, None) == published_sha256(every, PUBLISHED_TENSOR) == bytes_sha256(one)
    assert bytes_sha256(every) != bytes_sha256(one)


def test_the_question_is_not_put_to_a_run_or_to_another_vector(tmp_path: Path, subject: Subject) -> None:
    other = record_reference(task(subject, is_single=False, vector="0" * 64), tmp_path / "other")
    run = record_run(task(subject, is_single=False), tmp_path / "run", load_backend("torch"), "cpu", "cpu")
    assert other["reference_hash_reproducible"] is run["reference_hash_reproducible"] is None
    assert other["read_back"]["components"] > 0
    assert run["read_back"] == {"components": None, "stages": other["read_back"]["stages"]}

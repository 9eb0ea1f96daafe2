"""One transcript on two profiles, against the plain recipe and against itself."""

from __future__ import annotations

import hashlib
import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import numpy as numpy_files

from trinity_mlx.contracts.errors import ContextLengthError, UnknownProfile
from trinity_mlx.contracts.routing import Role, RouteLogits
from trinity_mlx.contracts.transcript import Transcript
from trinity_mlx.parity.routes import (
    HIDDEN_BOUNDS,
    LOGITS_BOUNDS,
    Bounds,
    RouteComparison,
    Tracer,
    token_ids_sha256,
)
from trinity_mlx.rules.distance import Distance

from ..builders import PlainRecipe, relative

TRANSCRIPT = Transcript.of("What is 17 + 25? Answer briefly.")
VECTORS = st.lists(st.floats(-100, 100), min_size=3, max_size=3)


@pytest.fixture(scope="module")
def tracer(tiny_folders: dict[str, Path]) -> Tracer:
    return Tracer.open(**tiny_folders)


@pytest.fixture(scope="module")
def found(tracer: Tracer) -> RouteComparison:
    return tracer.compare(TRANSCRIPT, "cpu", "mlx")


def test_two_profiles_agree_on_a_small_router(found: RouteComparison) -> None:
    assert found.a.token_ids == found.b.token_ids
    assert (found.a.backend, found.b.backend) == ("torch", "mlx")
    assert (found.a.dtype, found.b.dtype) == ("float32", "bfloat16")
    assert found.hidden.cosine > HIDDEN_BOUNDS.min_cosine
    assert found.logits.relative_l2 < 0.1
    assert found.checks["token_ids"]
    assert found.checks["head"]


def test_what_bfloat16_rounds_away_is_little_from_one_transcript_to_the_next(tracer: Tracer) -> None:
    """A single transcript may lie anywhere: over sixteen the median of the cosines was 0.9997 whatever the kernels."""
    prompts = [
        f"{text} {number}" for text in ("What is it?", "Write a poem.", "Fix my code.", "a") for number in range(4)
    ]
    cosines = [tracer.compare(Transcript.of(prompt), "cpu", "mlx").hidden.cosine for prompt in prompts]
    assert statistics.median(cosines) > 0.9995


def test_one_profile_agrees_with_itself(tracer: Tracer) -> None:
    found = tracer.compare(TRANSCRIPT, "cpu", "cpu")
    assert found.passed
    assert found.hidden.largest < 1e-5
    assert found.logits.largest < 1e-5


def test_a_trace_is_what_the_plain_recipe_computes(
    found: RouteComparison, adapted_recipe: PlainRecipe, tiny_head: np.ndarray
) -> None:
    expected = adapted_recipe.hidden(found.a.token_ids)
    assert relative(found.a.hidden, expected) < 1e-4
    assert relative(found.a.logits.agent + found.a.logits.role, tiny_head @ expected) < 1e-4


def test_hashes_can_be_recomputed_by_anybody(found: RouteComparison, tiny_folders: dict[str, Path]) -> None:
    head = numpy_files.load_file(tiny_folders["artifact"] / "router_head.safetensors")["trinity_router_head"]
    assert found.a.head_sha256 == hashlib.sha256(head.tobytes()).hexdigest()
    compact = json.dumps(list(found.a.token_ids), separators=(",", ":"))
    assert token_ids_sha256(found.a.token_ids) == hashlib.sha256(compact.encode()).hexdigest()


def test_every_difference_that_matters_fails(found: RouteComparison) -> None:
    side = found.a
    moved = RouteLogits(side.logits.agent[::-1], side.logits.role)
    other = {
        "token_ids": replace(side, token_ids=(*side.token_ids, 1)),
        "head": replace(side, head_sha256="0" * 64),
        "hidden": replace(side, hidden=tuple(-value for value in side.hidden)),
        "logits": replace(side, logits=moved),
        "slot": replace(side, choice=replace(side.choice, slot=side.choice.slot + 1)),
        "role": replace(side, choice=replace(side.choice, role=Role((side.choice.role + 1) % len(Role)))),
    }
    assert replace(found, b=side).passed
    for check, changed in other.items():
        compared = replace(found, b=changed)
        assert [name for name, holds in compared.checks.items() if not holds] == [check]
        assert not compared.passed


def test_the_report_is_json_with_both_sides(found: RouteComparison) -> None:
    report = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (report["schema"], report["version"]) == ("trinity-mlx.parity.routes", 1)
    assert set(report["checks"]) == {"token_ids", "head", "hidden", "logits", "slot", "role"}
    assert report["hidden"]["limits"] == {"min_cosine": 0.99, "max_relative": 0.12}
    assert len(report["a"]["hidden"]) == 64
    assert len(report["logits"]["differences"]) == 10
    assert report["a"]["agent_margin"] >= 0


def test_the_limits_are_the_published_ones() -> None:
    assert Bounds(0.99, 0.12) == HIDDEN_BOUNDS
    assert Bounds(0.99, 0.10) == LOGITS_BOUNDS


@given(VECTORS, VECTORS)
def test_closeness_is_cosine_and_relative_distance(one: list[float], other: list[float]) -> None:
    found = Distance.between(other, one)
    a, b = np.array(one), np.array(other)
    assert found.largest == np.abs(a - b).max()
    if min(np.linalg.norm(a), np.linalg.norm(b)) > 1e-6:
        assert found.relative_l2 == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a))
        assert found.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-9)


def test_closeness_of_zero_vectors_and_of_nan() -> None:
    assert Distance.between([0, 0], [0, 0]) == Distance(1.0, 0.0, 0.0)
    assert not HIDDEN_BOUNDS.hold(Distance.between([0, 0], [0, 1]))
    assert not HIDDEN_BOUNDS.hold(Distance.between([1, float("nan")], [1, float("nan")]))


def test_a_transcript_that_is_too_long_is_refused(tracer: Tracer) -> None:
    with pytest.raises(ContextLengthError, match="at most 600"):
        tracer.trace(Transcript.of("word " * 700), "cpu")


def test_an_unknown_profile_is_refused(tracer: Tracer) -> None:
    with pytest.raises(UnknownProfile, match="no profile 'gpu9'"):
        tracer.trace(TRANSCRIPT, "gpu9")

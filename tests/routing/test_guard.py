"""A bundle's guard: distances as numpy computes them, on both backends, and decisions that say where it spoke."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import numpy as numpy_files

from trinity_mlx import Router, load_router
from trinity_mlx.artifacts.bundle import (
    ADAPTER_FILE,
    GUARD_FILE,
    GUARD_TENSOR,
    HEAD_FILE,
    HEAD_TENSOR,
    BundleDraft,
    open_bundle,
    seal_bundle,
)
from trinity_mlx.cli.main import main
from trinity_mlx.contracts.artifact import Base
from trinity_mlx.contracts.errors import BundleInvalid, TensorFileInvalid
from trinity_mlx.contracts.routing import Guard, GuardRule, Selection

from ..builders import LABELS, PROFILES

TALKS = [f"Question {number}: what is {number} + {number * number}?" for number in range(12)] + ["x", "Now rhyme."]
CENTRES, SLOT = 5, 1


def sealed(folder: Path, base: Base, guard: Guard | None, kinds: np.ndarray | None = None) -> Path:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(8)
    head = draw.normal(size=(len(LABELS) + 3, base.config.hidden_size)).astype(np.float32)
    numpy_files.save_file({}, folder / ADAPTER_FILE)
    numpy_files.save_file({HEAD_TENSOR: head}, folder / HEAD_FILE)
    if kinds is not None:
        numpy_files.save_file({GUARD_TENSOR: kinds.astype(np.float32)}, folder / GUARD_FILE)
    seal_bundle(folder, BundleDraft("guarded", "test/tiny", base.ref, LABELS, {}, guard=guard))
    return folder


@pytest.fixture(scope="module")
def hidden(tiny_base: Base, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    folder = sealed(tmp_path_factory.mktemp("plain") / "plain", tiny_base, None)
    with load_router(folder, tiny_base.folder, profile="cpu", dtype="float32") as router:
        return np.array(router.values(TALKS))


def distances(hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows for a file of kinds around the first talks, and how far all talks are, from the definition."""
    unit = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    centres, spreads = unit[:CENTRES], np.linspace(0.2, 0.6, CENTRES)
    rows = np.column_stack([-2.0 * centres, 1.0 + (centres**2).sum(1)]) / spreads[:, None] ** 2
    apart = np.linalg.norm(unit[:, None] - centres[None], axis=2) / spreads
    return rows, apart.min(1)


@pytest.fixture(scope="module")
def expected(hidden: np.ndarray) -> np.ndarray:
    return distances(hidden)[1]


@pytest.fixture(scope="module")
def guarded(hidden: np.ndarray, tiny_base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows, expected = distances(hidden)
    guard = Guard(SLOT, margin=0.05, distance=float(np.median(expected)))
    return sealed(tmp_path_factory.mktemp("guarded") / "guarded", tiny_base, guard, rows)


@pytest.fixture(params=list(PROFILES.values()))
def router(request: pytest.FixtureRequest, guarded: Path, tiny_base: Base) -> Iterator[Router]:
    with load_router(guarded, tiny_base.folder, profile=request.param, dtype="float32") as router:
        yield router


def test_distances_are_those_of_the_definition(router: Router, expected: np.ndarray) -> None:
    found = [decision.logits.distance or 0.0 for decision in router.route_many(TALKS)]
    np.testing.assert_allclose(np.square(found), np.square(expected), rtol=1e-4, atol=1e-4)
    assert router.route(TALKS[7]).logits.distance == found[7], "an answer is remembered with its distance"


def test_what_is_far_away_or_unclear_goes_to_the_guards_slot(router: Router, expected: np.ndarray) -> None:
    limit = float(np.median(expected))
    decisions = router.route_many(TALKS)
    rules = {decision.choice.guarded for decision in decisions}
    assert rules >= {None, GuardRule.DISTANCE}
    for decision, apart in zip(decisions, expected, strict=True):
        margin = decision.margins.agent or 0.0
        rule = GuardRule.DISTANCE if apart > limit * 1.001 else GuardRule.MARGIN if margin < 0.05 else None
        if abs(apart - limit) > 0.001 * limit:
            assert decision.choice.guarded == rule
        assert decision.slot == (SLOT if decision.choice.guarded else decision.ranking[0])
        assert decision.to_dict()["guard"]["spoke"] == (decision.choice.guarded and str(decision.choice.guarded))


def test_a_selection_leaves_the_guard_out(router: Router) -> None:
    for decision in router.route_many(TALKS, selection=Selection.parse("guard=off")):
        assert decision.slot == decision.ranking[0]
        assert decision.choice.guarded is None


def test_the_heads_ref_stands_for_the_guard_and_old_ones_stay(
    guarded: Path, hidden: np.ndarray, tiny_base: Base, tmp_path: Path
) -> None:
    rows, _ = distances(hidden)
    plain = open_bundle(sealed(tmp_path / "plain", tiny_base, None))
    other = open_bundle(sealed(tmp_path / "other", tiny_base, Guard(SLOT, distance=1.0), rows))
    margin = open_bundle(sealed(tmp_path / "margin", tiny_base, Guard(SLOT, margin=1.0)))
    assert plain.guard is None
    assert plain.head.ref == next(
        entry["sha256"] for entry in _manifest(plain.folder)["files"] if entry["path"] == HEAD_FILE
    )
    assert len({plain.head.ref, other.head.ref, margin.head.ref, open_bundle(guarded).head.ref}) == 4
    assert margin.head.kinds is None
    assert _manifest(plain.folder)["version"] == 1
    assert _manifest(margin.folder)["version"] == 2


def test_a_guard_that_does_not_fit_is_refused(hidden: np.ndarray, tiny_base: Base, tmp_path: Path) -> None:
    rows, _ = distances(hidden)
    with pytest.raises(TensorFileInvalid):
        sealed(tmp_path / "without", tiny_base, Guard(0, distance=1.0))
    with pytest.raises(BundleInvalid, match="guard names slot 99"):
        sealed(tmp_path / "slot", tiny_base, Guard(99, margin=1.0))
    with pytest.raises(BundleInvalid, match="guards nothing"):
        sealed(tmp_path / "nothing", tiny_base, Guard(0))
    narrow = sealed(tmp_path / "narrow", tiny_base, Guard(0, distance=1.0), rows[:, 1:])
    with pytest.raises(TensorFileInvalid, match=GUARD_TENSOR):
        load_router(narrow, tiny_base.folder, profile="cpu")


def test_people_are_told_of_a_guard_and_when_it_chose(guarded: Path, router: Router, tiny_base: Base) -> None:
    shown = CliRunner().invoke(main, ["inspect", str(guarded)], catch_exceptions=False).output
    assert f"slot {SLOT} ({LABELS[SLOT]}) takes over where no agent leads by 0.050 or a transcript is further" in shown
    said = {
        GuardRule.DISTANCE: "nothing like this was trained on",
        GuardRule.MARGIN: "no agent leads by 0.050",
        None: "",
    }
    options = ["--artifact", str(guarded), "--base", str(tiny_base.folder), "--dtype", "float32"]
    profile = router.identity.profile
    for text, decision in zip(TALKS, router.route_many(TALKS), strict=True):
        told = CliRunner().invoke(main, ["route", text, "--profile", profile, *options], catch_exceptions=False).output
        rule = decision.choice.guarded
        assert ("the router's guard chose the agent" in told) == (rule is not None)
        assert said[rule] in told


def _manifest(folder: Path) -> dict:
    import json

    return json.loads((folder / "manifest.json").read_text())

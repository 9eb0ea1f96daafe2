"""Snapshots: the public files, ours, and the distance between two rows of logits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trinity_mlx.contracts.errors import FolderUnavailable, InputFileError, SnapshotInvalid, TrinityError
from trinity_mlx.contracts.routing import RouteLogits
from trinity_mlx.evaluation.snapshot import (
    distance,
    make_snapshot,
    read_snapshot,
    snapshot_case,
    write_snapshot,
)
from trinity_mlx.rules.distance import Distance

from ..evaluation_cases import (
    AGENT_LOGITS,
    FLOAT32,
    ROLE_LOGITS,
    attempt,
    decision_of,
    faulty_json,
    is_one_line,
    write_json,
)

PUBLIC: dict[str, Any] = {
    "schema_version": 1,
    "generated_at": "2026-01-02T03:04:05Z",
    "cases": [
        {
            "id": name,
            "agent_id": 4,
            "role_id": 2,
            "token_count": 15,
            "agent_margin": 2.25,
            "role_margin": 0.5,
            "agent_logits_rounded": [-1.5, 0.0, 0.25, -3.0, 2.5, -0.125, 1],
            "role_logits_rounded": [0.5, -2.0, 1.0],
            "transcript_hash": "sha256:of-a-term",
            "route_hash": "another",
        }
        for name in ("one", "two")
    ],
}
PUBLIC_KEYS = [*PUBLIC["cases"][0]]
PAIRS = st.integers(1, 10).flatmap(lambda size: st.tuples(*[st.lists(FLOAT32, min_size=size, max_size=size)] * 2))


def test_a_public_file_is_read_as_it_is(tmp_path: Path) -> None:
    snapshot = read_snapshot(write_json(tmp_path / "logits.json", PUBLIC))
    case = snapshot.cases["one"]
    assert list(snapshot.cases) == ["one", "two"]
    assert not snapshot.own_hashes
    assert (case.agent_id, case.role_id, case.token_count, case.agent_margin, case.role_margin) == (4, 2, 15, 2.25, 0.5)
    assert case.logits == [-1.5, 0.0, 0.25, -3.0, 2.5, -0.125, 1.0, 0.5, -2.0, 1.0]
    assert (case.transcript_hash, case.route_hash) == ("sha256:of-a-term", "another")


def test_what_is_written_has_the_public_shape_and_is_read_back(tmp_path: Path) -> None:
    cases = [snapshot_case(name, decision_of((1.5, 0.25), (0.5, 2.5, -1.0))) for name in ("é", "b")]
    path = tmp_path / "new" / "folder" / "snapshot.json"
    write_snapshot(path, cases)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert [*document["cases"][0]] == PUBLIC_KEYS
    assert document["schema_version"] == 1
    snapshot = read_snapshot(path)
    assert snapshot.own_hashes
    assert [*snapshot.cases.values()] == cases


@given(agent=AGENT_LOGITS, role=ROLE_LOGITS)
@example(agent=(0.1234567, 1.0), role=(-0.0000004, 2.7182818, 3.1415926))
def test_a_decision_leaves_its_figures_at_six_decimals(agent: tuple[float, ...], role: tuple[float, ...]) -> None:
    decision = decision_of(agent, role)
    case = snapshot_case("x", decision)
    assert case.agent_logits_rounded == [round(value, 6) for value in agent]
    assert case.role_logits_rounded == [round(value, 6) for value in role]
    assert (case.agent_id, case.role_id) == (decision.slot, int(decision.role))
    margins = (case.agent_margin, case.role_margin)
    found = (decision.margins.agent, decision.margins.role)
    assert margins == tuple(None if margin is None else round(margin, 6) for margin in found)
    assert (margins[0] is None) == (len(agent) == 1)
    assert (case.transcript_hash, case.route_hash) == (decision.transcript_hash, decision.route_hash)
    assert json.loads(json.dumps(case.model_dump(mode="json"), allow_nan=False)) == case.model_dump()


@given(PAIRS)
def test_the_distance_is_that_of_numpy(pair: tuple[list[float], list[float]]) -> None:
    found = Distance.between(*pair)
    values, reference = (np.array(row, dtype=np.longdouble) for row in pair)
    lengths = [np.sqrt((row * row).sum()) for row in (values, reference)]
    difference = np.sqrt(((values - reference) ** 2).sum())
    assert found.largest == float(np.abs(np.array(pair[0]) - np.array(pair[1])).max())
    if all(lengths):
        assert found.cosine == pytest.approx(float(values @ reference / (lengths[0] * lengths[1])), abs=1e-12)
        assert found.relative_l2 == pytest.approx(float(difference / lengths[1]), rel=1e-12)


@given(PAIRS)
def test_cosine_and_largest_do_not_depend_on_the_order(pair: tuple[list[float], list[float]]) -> None:
    one, other = Distance.between(*pair), Distance.between(*reversed(pair))
    assert one.cosine == pytest.approx(other.cosine, abs=1e-14)
    assert one.largest == other.largest
    assert -1 <= one.cosine <= 1
    assert all(math.isfinite(value) for value in (one.cosine, one.relative_l2, one.largest))


@given(st.lists(FLOAT32.filter(bool), min_size=1, max_size=10), st.floats(0.5, 4))
def test_a_row_against_itself_its_multiple_and_zero(row: list[float], factor: float) -> None:
    zero = [0.0] * len(row)
    assert Distance.between(row, row) == Distance(pytest.approx(1.0), 0.0, 0.0)
    assert Distance.between([value * factor for value in row], row).cosine == pytest.approx(1.0)
    assert Distance.between([-value for value in row], row).cosine == pytest.approx(-1.0)
    assert Distance.between(row, zero) == Distance(0.0, math.hypot(*row), max(map(abs, row)))
    assert Distance.between(zero, row) == Distance(0.0, 1.0, max(map(abs, row)))
    assert Distance.between(zero, zero) == Distance(1.0, 0.0, 0.0)


def test_lengths_whose_product_is_no_float_have_a_cosine() -> None:
    assert Distance.between([1e-200, 0.0], [1e-200, 0.0]).cosine == 1.0


def test_heads_of_other_sizes_have_no_distance() -> None:
    case = snapshot_case("x", decision_of((1.0, 2.0), (0.0, 1.0, 2.0)))
    assert distance(RouteLogits((1.0, 2.0, 3.0), (0.0, 1.0, 2.0)), case) is None
    assert distance(RouteLogits((1.0, 2.5), (0.0, 1.0, 2.0)), case) == Distance.between(
        [1.0, 2.5, 0.0, 1.0, 2.0], [1.0, 2.0, 0.0, 1.0, 2.0]
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("agent_logits_rounded", []),
        ("agent_logits_rounded", [float("nan")]),
        ("agent_logits_rounded", [float("inf")]),
        ("agent_logits_rounded", [1e39]),
        ("role_logits_rounded", [1.0, 2.0]),
        ("role_id", 3),
        ("agent_id", -1),
        ("agent_id", "4"),
        ("token_count", 0),
        ("agent_margin", float("nan")),
        ("transcript_hash", None),
        ("id", ""),
    ],
)
def test_what_is_no_snapshot_is_refused_with_its_place(tmp_path: Path, key: str, value: Any) -> None:
    document = PUBLIC | {"cases": [PUBLIC["cases"][0] | {key: value}]}
    with pytest.raises(SnapshotInvalid, match=rf"snapshot.json: cases\.0\.{key}"):
        read_snapshot(write_json(tmp_path / "snapshot.json", document))


def test_a_case_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    path = write_json(tmp_path / "snapshot.json", PUBLIC | {"cases": [PUBLIC["cases"][1]] * 2})
    with pytest.raises(SnapshotInvalid, match="case 'two' stands there twice"):
        read_snapshot(path)
    case = snapshot_case("x", decision_of((1.0, 2.0), (0.0, 1.0, 2.0)))
    with pytest.raises(SnapshotInvalid, match="case 'x' stands there twice"):
        make_snapshot("here", True, [case, case])


def test_a_snapshot_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="cannot read"):
        read_snapshot(tmp_path / "missing.json")


@given(data=st.data())
def test_a_faulty_file_is_refused_in_one_line_or_can_be_compared(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "faulty-snapshot.json"
    path.write_bytes(data.draw(faulty_json(PUBLIC)))
    found = attempt(lambda: read_snapshot(path))
    if isinstance(found, TrinityError):
        assert isinstance(found, SnapshotInvalid)
        assert is_one_line(str(found))
    else:
        for case in found.cases.values():
            apart = distance(RouteLogits((3e38,) * 7, (-3e38, 1e-38, 0.0)), case)
            assert apart is None or json.dumps(apart.to_dict(), allow_nan=False)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken.json").mkdir()
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "taken.json", tmp_path / "file" / "below.json"):
        with pytest.raises(FolderUnavailable, match="cannot be written"):
            write_snapshot(path, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.json"]
    assert (tmp_path / "file").read_text() == "mine"

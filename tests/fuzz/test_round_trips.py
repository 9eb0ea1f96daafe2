"""What a writer writes, its reader reads: one law a kind of file, over generated values."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as drawn_from
from hypothesis import strategies as st

from trinity_mlx.artifacts.bundle import BundleDraft, open_bundle, seal_bundle
from trinity_mlx.artifacts.manifest import read_manifest
from trinity_mlx.contracts.artifact import Bundle
from trinity_mlx.contracts.errors import ResumeRefused
from trinity_mlx.contracts.text_format import TextFormat
from trinity_mlx.downloads.pins import Pin, parse_pin
from trinity_mlx.downloads.store import Store
from trinity_mlx.evaluation.lane import (
    Lane,
    LaneArtifact,
    LaneFloors,
    LaneMargins,
    LaneSuite,
    LaneWorst,
    SignOff,
    read_lane,
    write_lane,
)
from trinity_mlx.evaluation.snapshot import SnapshotCase, read_snapshot, write_snapshot
from trinity_mlx.export.workspace import claim
from trinity_mlx.files.safetensors_writer import TensorSpec
from trinity_mlx.parity.report import read_report, write_report

from ..downloads.test_pins import GOOD as GOOD_PIN

T = TypeVar("T")
Law = Callable[[st.SearchStrategy[T], Callable[[T], object]], None]

SHORT = 40
TEXT = st.text(max_size=20)
WHOLE_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
SHA256 = st.text("0123456789abcdef", min_size=64, max_size=64)
FLOATS = st.floats(-3e38, 3e38, allow_nan=False)
MARGINS = st.floats(0, 3e38)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
CASES = st.builds(
    SnapshotCase,
    id=WHOLE_TEXT.filter(bool),
    agent_id=st.integers(0, 99),
    role_id=st.integers(0, 2),
    token_count=st.integers(1, 10**6),
    agent_margin=st.none() | FLOATS,
    role_margin=st.none() | FLOATS,
    agent_logits_rounded=st.lists(FLOATS, min_size=1, max_size=7),
    role_logits_rounded=st.lists(FLOATS, min_size=3, max_size=3),
    transcript_hash=SHA256,
    route_hash=SHA256,
)
WORST = st.builds(LaneWorst, value=MARGINS, case=WHOLE_TEXT)
LANES = st.builds(
    Lane,
    profile=WHOLE_TEXT,
    artifact=st.builds(LaneArtifact, name=TEXT, adapter_ref=st.none() | SHA256, head_ref=st.none() | SHA256),
    variant=WHOLE_TEXT,
    status=st.sampled_from(["measured", "published", "unmeasured"]),
    note=TEXT,
    suite=st.none() | st.builds(LaneSuite, name=WHOLE_TEXT, sha256=SHA256),
    floors=st.none() | st.builds(LaneFloors, agent=MARGINS, role=MARGINS),
    worst=st.none() | st.builds(LaneMargins, agent=WORST, role=WORST),
    signed_off=st.none() | st.builds(SignOff, by=WHOLE_TEXT.filter(bool), date=st.dates().map(date.isoformat)),
    provenance=st.dictionaries(TEXT, JSON, max_size=4),
    cases=st.lists(CASES, max_size=4, unique_by=lambda case: case.id),
)


@pytest.fixture
def law(cases: int | None, seed: int) -> Law[Any]:
    """Holds a law against as many values as were asked for."""

    def hold(values: st.SearchStrategy[Any], holds: Callable[[Any], object]) -> None:
        @drawn_from(seed)
        @settings(max_examples=cases or SHORT, database=None, suppress_health_check=list(HealthCheck))
        @given(values)
        def each(value: Any) -> None:
            holds(value)

        each()

    return hold


def writable(value: Any) -> Any:
    """``value`` as it can stand in a file: half a surrogate pair is a question mark there."""
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")
    return json.loads(text)


def test_lanes(law: Law[Lane], tmp_path: Path) -> None:
    def holds(lane: Lane) -> None:
        write_lane(tmp_path / "lane.json", lane)
        assert read_lane(tmp_path / "lane.json").model_dump(exclude={"origin"}) == writable(
            lane.model_dump(mode="json")
        )

    law(LANES, holds)


def test_snapshots(law: Law[list[SnapshotCase]], tmp_path: Path) -> None:
    def holds(rows: list[SnapshotCase]) -> None:
        write_snapshot(tmp_path / "s.json", rows)
        assert list(read_snapshot(tmp_path / "s.json").cases.values()) == rows

    law(st.lists(CASES, max_size=4, unique_by=lambda case: case.id), holds)


def test_manifests(law: Law[dict[str, Any]], tmp_path: Path, tiny_bundle: Bundle) -> None:
    for name in ("adapter.safetensors", "router_head.safetensors"):
        (tmp_path / name).write_bytes((tiny_bundle.folder / name).read_bytes())
    executions = {entry.source: entry.execution for entry in tiny_bundle.adapter.entries}
    agents = len(tiny_bundle.head.labels)

    def holds(changes: dict[str, Any]) -> None:
        draft = BundleDraft(base_ref=str(tiny_bundle.base_ref), executions=executions, **changes)
        bundle = seal_bundle(tmp_path, draft)
        manifest = read_manifest(tmp_path)
        assert open_bundle(tmp_path) == bundle
        assert (manifest.name, list(manifest.agents)) == (writable(draft.name), writable(list(draft.agents)))
        assert (manifest.made, manifest.lineage) == (writable(draft.made), draft.lineage)
        assert (bundle.text_format, bundle.base_id) == (draft.text_format, writable(draft.base_id))

    named = st.fixed_dictionaries(
        {
            "name": TEXT.filter(bool),
            "base_id": TEXT,
            "base_revision": st.none() | TEXT,
            "agents": st.lists(TEXT, min_size=agents, max_size=agents),
            "text_format": st.sampled_from(TextFormat),
            "tied_embedding": st.sampled_from(["embed_tokens", "lm_head", "compound"]),
            "made": st.dictionaries(WHOLE_TEXT, TEXT, max_size=3),
            "lineage": st.dictionaries(WHOLE_TEXT, SHA256, max_size=3),
        }
    )
    law(named, holds)


def test_states_of_an_export(law: Law[dict[str, Any]], tmp_path: Path) -> None:
    specs = [TensorSpec("t", "F32", (2,)), TensorSpec("u", "F32", (3,))]

    def holds(described: dict[str, Any]) -> None:
        with claim(tmp_path / "out", described, specs, resume=False, force=True) as workspace:
            workspace.record("t", workspace.adapter.write("t", [bytes(8)]))
        with claim(tmp_path / "out", writable(described), specs, resume=True, force=False) as workspace:
            assert workspace.finished.keys() == {"t"}
        with (
            pytest.raises(ResumeRefused),
            claim(tmp_path / "out", {**writable(described), "more": 1}, specs, resume=True, force=False),
        ):
            pass

    law(st.dictionaries(TEXT, JSON, max_size=4).filter(lambda value: "more" not in value), holds)


def test_reports_of_parity(law: Law[tuple[str, str, list[str]]], tmp_path: Path) -> None:
    def holds(content: tuple[str, str, list[str]]) -> None:
        sha256, dtype, names = content
        tensors = [{"name": name, "shape": [1]} for name in names]
        write_report(tmp_path, {"components": {"sha256": sha256, "dtype": dtype}, "tensors": tensors})
        report = read_report(tmp_path)
        assert (report.components, report.components_dtype) == (sha256, writable(dtype))
        assert list(report.tensors) == writable(names)

    law(st.tuples(SHA256, TEXT, st.lists(TEXT, max_size=4)), holds)


def test_records_of_what_was_fetched(law: Law[tuple[str, str]], tmp_path: Path) -> None:
    def holds(texts: tuple[str, str]) -> None:
        pin = parse_pin(json.dumps({**GOOD_PIN, "summary": texts[0]}).encode(), "p")
        folder = tmp_path / "files" / texts[1]
        store = Store(tmp_path)
        store.record(pin, folder)
        recorded = store.find("mine")
        assert recorded is not None
        assert (recorded.pin, recorded.folder) == (pin, folder.resolve())
        assert Pin.model_validate_json(pin.model_dump_json(by_alias=True)) == pin

    names = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), max_size=12)
    law(st.tuples(WHOLE_TEXT, names), holds)

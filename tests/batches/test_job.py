"""Batches through real routers: records that depend on the input alone, and lines that cannot be routed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import trinity_mlx
from trinity_mlx.contracts.errors import InputFileError, ResumeRefused
from trinity_mlx.contracts.routing import Selection
from trinity_mlx.routing.router import Router

PROMPTS = [f"What is {number} + {number % 7}?" for number in range(40)]


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    with trinity_mlx.load_router("nano") as loaded:
        yield loaded


def batch(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(lines))
    return path


def records_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_is_routed_in_three_lines_of_python(router: Router, tmp_path: Path) -> None:
    source = batch(tmp_path, *map(json.dumps, PROMPTS), "no json", '{"id": 7, "prompt": ""}')
    done = trinity_mlx.route_file(source, tmp_path / "out", router)
    assert (done.routed, done.failed, done.end) == (42, 1, source.stat().st_size)
    records = records_of(tmp_path / "out")
    assert [record["line"] for record in records] == list(range(1, 43))
    assert "error" in records[40]
    alone = router.route(PROMPTS[11]).to_dict()
    assert records[11]["agent"] == alone["agent"]
    assert "timings_ms" not in records[11]


def test_records_do_not_depend_on_what_was_routed_before(router: Router, tmp_path: Path) -> None:
    source = batch(tmp_path, *map(json.dumps, PROMPTS))
    for name in ("one", "other"):
        trinity_mlx.route_file(source, tmp_path / name, router)
        router.route(PROMPTS[3])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_the_question_is_the_callers(router: Router, tmp_path: Path) -> None:
    source = batch(tmp_path, '"hi"')
    how = Selection.parse("sample", 2.0, seed=5)
    trinity_mlx.route_file(source, tmp_path / "out", router, selection=how, allow_slots=[3, 1])
    [record] = records_of(tmp_path / "out")
    assert record["selection"] == {"agent": "sample", "role": "sample", "temperature": 2.0, "seed": 5}
    assert set(record["ranking"]) == {1, 3}  # type: ignore[call-overload]
    unguarded = replace(how, guarded=False)
    with pytest.raises(ResumeRefused, match="guarded was True and is False"):
        trinity_mlx.route_file(source, tmp_path / "out", router, selection=unguarded, allow_slots=[1, 3], resume=True)
    with pytest.raises(ResumeRefused, match="another question"):
        trinity_mlx.route_file(source, tmp_path / "out", router, resume=True)


def test_an_input_that_is_not_there_leaves_nothing(router: Router, tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"none\.jsonl cannot be read"):
        trinity_mlx.route_file(tmp_path / "none.jsonl", tmp_path / "out", router)
    assert list(tmp_path.iterdir()) == []

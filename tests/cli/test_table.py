"""``trinity-mlx table``: what is checked, shown, split and merged, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.training_tables import records, write_jsonl
from trinity_mlx.cli import main


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["table", *map(str, arguments)])


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "answers.jsonl", records(30))


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "out.jsonl.zst", "out.csv.gz"])
def test_what_is_written_is_never_named_as_another_format(name: str, answers: Path, tmp_path: Path) -> None:
    result = invoke("split", answers, "--out", tmp_path / name)
    assert result.exit_code == 2
    assert "what is written is JSONL" in result.stderr
    assert not (tmp_path / name).exists()


def test_a_table_that_is_there_is_replaced_only_when_asked(answers: Path) -> None:
    before = answers.read_bytes()
    assert invoke("split", answers, "--out", answers).exit_code == 2
    assert answers.read_bytes() == before
    assert invoke("split", answers, "--out", answers, "--force").exit_code == 0
    assert {json.loads(line)["split"] for line in answers.read_text().splitlines()} == {"train", "val", "test"}


def test_a_split_that_leaves_nothing_to_test_on_says_so(tmp_path: Path) -> None:
    few = write_jsonl(tmp_path / "few.jsonl", records(1))
    result = invoke("split", few, "--out", tmp_path / "out.jsonl")
    assert result.exit_code == 0
    assert "training needs rows in each" in result.stderr


def test_fewer_categories_than_splits_are_refused(tmp_path: Path) -> None:
    alike = write_jsonl(tmp_path / "alike.jsonl", [row | {"category": "one"} for row in records(30)])
    result = invoke("split", alike, "--by", "category", "--out", tmp_path / "out.jsonl")
    assert result.exit_code == 2
    assert "all rows are of 'one': train, val, test need at least 3 categories" in result.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_a_check_names_splits_that_training_refuses(tmp_path: Path) -> None:
    rows = records(4)
    rows[0]["split"] = "val"
    assert "3 rows have no split" in invoke("check", write_jsonl(tmp_path / "t.jsonl", rows)).stderr


@pytest.mark.parametrize("rows", [0, -1])
def test_no_fewer_rows_than_one_are_shown(rows: int, answers: Path) -> None:
    assert invoke("show", answers, "--rows", rows).exit_code == 2

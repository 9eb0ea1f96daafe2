from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training_tables import AGENTS, answers_of, records, table_of, write_jsonl
from trinity_mlx.contracts.errors import TableInvalid
from trinity_mlx.contracts.routing import Role
from trinity_mlx.contracts.transcript import Transcript
from trinity_mlx.training.answers import Answers
from trinity_mlx.training.row import Row
from trinity_mlx.training.table import (
    Table,
    merge_tables,
    read_table,
    split_by_category,
    split_by_text,
    straddling,
)
from trinity_mlx.training.table_files import write_jsonl as write_table

POOL = Path(__file__).parents[3] / "shared" / "reference" / "pools" / "reasoning_gym.jsonl.gz"


def test_a_row_has_what_it_was_given(tmp_path: Path) -> None:
    row = {
        "id": "a",
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}],
        "scores": {"x": 1, "y": None},
        "runs": {"z": [0.0, 1.0]},
        "costs": {"x": 0.25},
        "seconds": {"x": 3},
        "turns": {"x": 2},
        "category": "chat",
        "split": "val",
        "role": "Verifier",
        "colour": "red",
    }
    table = table_of(tmp_path / "t.jsonl", [row])
    found = table.rows[0]
    assert found.scores == {"x": 1.0, "z": 0.5}
    assert (found.costs, found.seconds, found.turns) == ({"x": 0.25}, {"x": 3.0}, {"x": 2.0})
    assert found.runs == {"z": (0.0, 1.0)}
    assert (found.category, found.split, found.role, found.line) == ("chat", "val", Role.VERIFIER, 1)
    assert table.unread == ("colour",)


@pytest.mark.parametrize("compress", [lambda raw: raw, gzip.compress, bz2.compress, lzma.compress])
def test_compression_is_told_by_content_and_not_by_name(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    plain = write_jsonl(tmp_path / "plain.jsonl", records(20))
    packed = tmp_path / "table.jsonl"
    packed.write_bytes(compress(plain.read_bytes()))
    assert read_table(packed).rows == read_table(plain).rows


def test_parquet_has_maps_and_decimals(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet comes with the extra train")
    pyarrow = pytest.importorskip("pyarrow")
    decimals = pyarrow.map_(pyarrow.string(), pyarrow.decimal128(3, 2))
    scores = [{"a": Decimal("0.25"), "b": None}, {"b": Decimal("1")}]
    prompts = pyarrow.array(["one", "two"])

    def read(column: Any) -> list[Mapping[str, float]]:
        parquet.write_table(pyarrow.table({"prompt": prompts, "scores": column}), tmp_path / "t.parquet")
        return [row.scores for row in read_table(tmp_path / "t.parquet").rows]

    assert read(pyarrow.array([list(each.items()) for each in scores], decimals)) == [{"a": 0.25}, {"b": 1.0}]
    twice = [("a", Decimal("1")), ("a", Decimal("0"))]
    with pytest.raises(TableInvalid, match=r"line 2: scores is .* and an object"):
        read(pyarrow.array([[("a", Decimal("1"))], twice], decimals))


def test_csv_and_parquet_hold_the_same_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet comes with the extra train")
    pyarrow = pytest.importorskip("pyarrow")
    csv = tmp_path / "t.csv"
    csv.write_text(
        'id,prompt,scores.a,scores.b,runs.c,category\r\n1,"two\nlines, ""quoted""",0.5,,0;1,k\r\n2,plain,,1,,\r\n',
        encoding="utf-8",
        newline="",
    )
    columns = {
        "id": ["1", "2"],
        "prompt": ['two\nlines, "quoted"', "plain"],
        "scores.a": [0.5, None],
        "scores": [{"b": None}, {"b": 1.0}],
        "runs": [{"c": [0.0, 1.0]}, {"c": None}],
        "category": ["k", None],
    }
    del columns["scores.a"]
    columns["scores"] = [{"a": 0.5, "b": None}, {"a": None, "b": 1.0}]
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    one, other = (read_table(tmp_path / name) for name in ("t.csv", "t.parquet"))
    assert [row.to_dict() for row in one.rows] == [row.to_dict() for row in other.rows]
    assert one.rows[0].scores == {"a": 0.5, "c": 0.5}


WRONG: dict[str, dict[str, Any]] = {
    "scores.x is 1.5, and a number from 0 to 1": {"scores": {"x": 1.5}},
    "scores.x is True": {"scores": {"x": True}},
    "scores.x is 'good'": {"scores": {"x": "good"}},
    "scores is 0.5": {"scores": 0.5},
    "there is no score": {"scores": {}},
    "either `prompt` or `messages`, and this one has neither": {"prompt": None},
    "prompt and messages": {"messages": [{"role": "user", "content": "a"}]},
    "prompt is empty": {"prompt": ""},
    "prompt is 7": {"prompt": 7},
    "split is 'dev', and one of train, val, test": {"split": "dev"},
    "role is 'Boss'": {"role": "Boss"},
    "costs.x is -1": {"costs": {"x": -1}},
    "runs.x is empty": {"runs": {"x": []}},
    "responses.x is 3": {"responses": {"x": 3}},
    "unknown role": {"prompt": None, "messages": [{"role": "king", "content": "a"}]},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_row_is_named_by_its_line(message: str, tmp_path: Path) -> None:
    good = {"id": "good", "prompt": "p", "scores": {"x": 1}}
    bad = {key: value for key, value in {**good, "id": "bad", **WRONG[message]}.items() if value is not None}
    with pytest.raises(TableInvalid) as caught:
        table_of(tmp_path / "t.jsonl", [good, bad])
    assert "line 2: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no row"),
        (b"{", "line 1 is not JSON"),
        (b"[1]\n", "an object is needed"),
        (b'{"a": 1, "a": 2}\n', "stands there twice"),
        (b'{"prompt": "p", "scores": {"x": NaN}}\n', "line 1 is not JSON"),
        (b"\xff\xfe\n", "line 1 is not JSON"),
        (b"\x1f\x8bbroken", "cannot be read"),
        (b"PAR1broken", "Parquet"),
        (b"[" * 100_000, "line 1 is not JSON"),
        (b"\x28\xb5\x2f\xfdbroken", "cannot be read"),
    ],
)
def test_a_file_that_is_no_table_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(TableInvalid, match=message):
        read_table(path)
    with pytest.raises(TableInvalid, match="cannot be read"):
        read_table(tmp_path / "missing.jsonl")


def test_a_table_of_other_programs_habits_is_read(tmp_path: Path) -> None:
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(b'\xef\xbb\xbf{"prompt": "p", "scores": {"x": 1}}\r\n{"prompt": "q", "scores": {"x": 0}}')
    assert [row.text for row in read_table(marked).rows] == ["p", "q"]
    long = tmp_path / "long.csv"
    long.write_text(f"prompt,scores.x\n{'a' * 300_000},1\n", encoding="utf-8")
    assert len(read_table(long).rows[0].text) == 300_000


def test_a_table_in_zstandard_is_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Zstandard comes with the extra train")
    plain = write_jsonl(tmp_path / "plain.jsonl", records(20))
    packed = tmp_path / "packed.jsonl.zst"
    with pyarrow.CompressedOutputStream(str(packed), "zstd") as file:
        file.write(plain.read_bytes())
    assert read_table(packed).rows == read_table(plain).rows
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(TableInvalid, match="cannot be read"):
        read_table(packed)


def test_messages_in_a_cell_that_are_no_json_are_named_by_their_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("messages,scores.x\nhello,1\n", encoding="utf-8")
    with pytest.raises(TableInvalid, match="line 2: messages is 'hello'"):
        read_table(path)


def test_a_pipe_is_no_table_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(TableInvalid, match="no regular file"):
        read_table(tmp_path / "pipe.jsonl")


def test_a_row_without_a_score_tells_what_it_has_instead(tmp_path: Path) -> None:
    with pytest.raises(TableInvalid, match=r"no score: .*; it has prompt, score"):
        table_of(tmp_path / "t.jsonl", [{"prompt": "p", "score": {"x": 1}}])


def test_tables_without_ids_are_merged(tmp_path: Path) -> None:
    one = table_of(tmp_path / "a.jsonl", [{"prompt": "p", "scores": {"x": 1}}, {"prompt": "r", "scores": {"x": 1}}])
    two = table_of(tmp_path / "b.jsonl", [{"prompt": "q", "scores": {"x": 0}}, {"prompt": "p", "scores": {"y": 0}}])
    merged = merge_tables([one, two])
    assert [(row.id, row.text) for row in merged.rows] == [("1", "p"), ("2", "r"), ("2.1", "q")]


def test_a_merged_row_keeps_what_only_the_later_one_says(tmp_path: Path) -> None:
    one = table_of(tmp_path / "a.jsonl", [{"prompt": "p", "scores": {"x": 1}}])
    two = table_of(tmp_path / "b.jsonl", [{"prompt": "p", "scores": {"y": 1}, "category": "k", "split": "val"}])
    row = merge_tables([one, two]).rows[0]
    assert (row.category, row.split) == ("k", "val")


def test_an_id_stands_once(tmp_path: Path) -> None:
    row = {"id": "a", "prompt": "p", "scores": {"x": 1}}
    with pytest.raises(TableInvalid, match="line 2: id 'a' stands on line 1"):
        table_of(tmp_path / "t.jsonl", [row, row])


def test_a_table_that_is_written_reads_the_same(tmp_path: Path) -> None:
    table = table_of(tmp_path / "a.jsonl", records(30)).with_splits(split_by_text)
    for name in ("b.jsonl", "b.jsonl.gz"):
        write_table(tmp_path / name, (row.to_dict() for row in table.rows))
        assert read_table(tmp_path / name).rows == table.rows


def test_equal_prompts_never_straddle_and_shares_are_about_right(tmp_path: Path) -> None:
    rows = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(2) for row in records(500)]
    table = table_of(tmp_path / "t.jsonl", rows).with_splits(split_by_text)
    assert straddling(table) == []
    shares = {name: np.mean([row.split == name for row in table.rows]) for name in ("train", "val", "test")}
    assert abs(shares["train"] - 0.6) < 0.06
    assert abs(shares["test"] - 0.2) < 0.06


@given(st.lists(st.integers(1, 30), min_size=3, max_size=12), st.randoms(use_true_random=False))
def test_each_category_is_in_one_split_and_none_of_these_is_empty(sizes: list[int], draw: random.Random) -> None:
    kinds = [f"kind {kind}" for kind, size in enumerate(sizes) for _ in range(size)]
    rows = [Row(str(line), Transcript.of(f"q{line}"), {"x": 1.0}, category=kind) for line, kind in enumerate(kinds)]
    table = Table(tuple(rows), "")
    split = split_by_category(table)
    by_kind = {row.category: split(row) for row in rows}
    assert set(by_kind.values()) == {"train", "val", "test"}
    draw.shuffle(rows)
    again = split_by_category(Table(tuple(rows), ""))
    assert {row.category: again(row) for row in rows} == by_kind
    for name, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):  # no further off than one category can be
        assert sum(split(row) == name for row in rows) <= share * len(rows) + max(sizes)


def test_categories_of_one_size_fill_the_wanted_shares() -> None:
    rows = tuple(Row(f"{line}", Transcript.of("q"), {"x": 1.0}, category=f"{line % 10}") for line in range(100))
    counts = Counter(map(split_by_category(Table(rows, "")), rows))
    assert counts == {"train": 60, "val": 20, "test": 20}


def test_rows_without_a_category_are_one_together() -> None:
    kinds = ("a", None, "b", None)
    rows = tuple(Row(f"{kind}{line}", Transcript.of("q"), {"x": 1.0}, category=kind) for line, kind in enumerate(kinds))
    assert split_by_category(Table(rows, ""))(rows[1]) == split_by_category(Table(rows, ""))(rows[3])
    with pytest.raises(TableInvalid, match="all rows are of none, 'a'"):
        split_by_category(Table(rows[:2], ""))


def test_a_prompt_in_two_splits_is_refused(tmp_path: Path) -> None:
    rows = records(30)
    for index, row in enumerate(rows):
        row["split"] = ("train", "val", "test")[index % 3]
    rows[1]["prompt"] = rows[0]["prompt"]
    with pytest.raises(TableInvalid, match="what is tested was then trained on"):
        answers_of(tmp_path / "t.jsonl", rows)


def test_some_rows_without_a_split_are_refused(tmp_path: Path) -> None:
    rows = records(30)
    rows[0]["split"] = "train"
    with pytest.raises(TableInvalid, match="has no split"):
        answers_of(tmp_path / "t.jsonl", rows)


def test_agents_are_known_and_named_once(tmp_path: Path) -> None:
    table = table_of(tmp_path / "t.jsonl", records(60))
    with pytest.raises(TableInvalid, match="no agent 'delta'; it has alpha, beta, gamma"):
        Answers.of(table, ["alpha", "delta"])
    with pytest.raises(TableInvalid, match="each once"):
        Answers.of(table, ["alpha", "alpha"])
    assert Answers.of(table, ["gamma", "alpha"]).scores.shape == (60, 2)


def test_what_is_missing_counts_as_the_mean_of_train(tmp_path: Path) -> None:
    rows = records(200)
    for row in rows[::3]:
        del row["scores"]["beta"]
    answers = answers_of(tmp_path / "t.jsonl", rows)
    known = answers.scores[answers.where("train"), 1]
    filled = answers.filled()[np.isnan(answers.scores[:, 1]), 1]
    assert np.allclose(filled, np.nanmean(known))


def test_merging_adds_agents_to_equal_prompts(tmp_path: Path) -> None:
    one = table_of(tmp_path / "a.jsonl", [{"id": "a", "prompt": "p", "scores": {"x": 1}}])
    two = table_of(tmp_path / "b.jsonl", [{"id": "b", "prompt": "p", "scores": {"y": 0}, "costs": {"y": 2}}])
    other = table_of(tmp_path / "c.jsonl", [{"id": "c", "prompt": "p", "scores": {"x": 0}}])
    assert merge_tables([one, two]).rows[0].scores == {"x": 1.0, "y": 0.0}
    with pytest.raises(TableInvalid, match="gives x"):
        merge_tables([one, other])
    clash = table_of(tmp_path / "d.jsonl", [{"id": "a", "prompt": "q", "scores": {"x": 0}}])
    with pytest.raises(TableInvalid, match="two different prompts"):
        merge_tables([one, clash])


@pytest.mark.skipif(not POOL.is_file(), reason="the reference pools are not there")
def test_the_reference_pool_is_read_whole_and_split_by_the_same_rule() -> None:
    table = read_table(POOL)
    assert len(table.rows) == 8277
    assert all(split_by_text(row) == row.split for row in table.rows)
    assert set(AGENTS).isdisjoint(table.agents)

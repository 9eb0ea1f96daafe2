"""Small tables whose best routing is known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from trinity_mlx.training.answers import Answers
from trinity_mlx.training.table import Table, read_table

PHRASES = {
    "sums": ("What is {} plus {}?", "Add {} and {}.", "Compute {} times {}."),
    "code": ("Write a function that sorts {} words and {} numbers.", "Fix this program: line {} calls line {}."),
    "verse": ("Write a poem about {} birds and {} trees.", "A short verse on {} rivers and {} hills."),
}
GOOD_AT = {"sums": "alpha", "code": "beta", "verse": "gamma"}
AGENTS = ("alpha", "beta", "gamma")


def records(count: int = 240, *, right: float = 0.9, wrong: float = 0.2, seed: int = 1) -> list[dict[str, Any]]:
    """Rows of three kinds; each kind has one agent that is right with probability ``right``, others with ``wrong``."""
    draw = Random(seed)
    return [_record(draw, index, right, wrong) for index in range(count)]


def _record(draw: Random, index: int, right: float, wrong: float) -> dict[str, Any]:
    kind = draw.choice(tuple(PHRASES))
    prompt = draw.choice(PHRASES[kind]).format(draw.randint(1, 999), draw.randint(1, 999))
    scores = {agent: float(draw.random() < (right if GOOD_AT[kind] == agent else wrong)) for agent in AGENTS}
    return {"id": f"row-{index}", "prompt": prompt, "scores": scores, "category": kind}


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table_of(path: Path, rows: Iterable[Mapping[str, Any]]) -> Table:
    return read_table(write_jsonl(path, rows))


def answers_of(path: Path, rows: Iterable[Mapping[str, Any]] | None = None) -> Answers:
    return Answers.of(table_of(path, records() if rows is None else rows), AGENTS)

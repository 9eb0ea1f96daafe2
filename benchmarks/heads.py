"""Kinds of heads and the token that they read, on one table: the head alone, without offsets.

    python benchmarks/heads.py TABLE --agents A,B,... [--heads linear,low-rank] [--positions second-to-last,last]
        [--algorithms ridge,soft-targets,staged] [--seeds 3] [--ranks 20]

Settings are chosen on train and val; with --test, test is measured once for each seed. Nothing is written but to the
cache.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from trinity_mlx.artifacts.base import open_base
from trinity_mlx.artifacts.catalog import find_bundle
from trinity_mlx.contracts.artifact import ReadPosition
from trinity_mlx.contracts.routing import Window
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.training.answers import Answers
from trinity_mlx.training.heads import HEADS, LOW_RANK
from trinity_mlx.training.objective import Objective
from trinity_mlx.training.reading import Engine, Reading, base_hidden
from trinity_mlx.training.refit import refitted
from trinity_mlx.training.settings import Settings, stages_for
from trinity_mlx.training.stages import Problem, typical_length, worth
from trinity_mlx.training.table import read_table
from trinity_mlx.training.trainer import Limits, Trainer
from trinity_mlx.training.vector_layout import Layout


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each head, rank, position and algorithm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--agents", required=True)
    parser.add_argument("--base", type=Path, help="nano's base by default")
    parser.add_argument("--window", default="256,256")
    parser.add_argument("--heads", default=",".join(HEADS))
    parser.add_argument("--ranks", default="20")
    parser.add_argument("--positions", default="second-to-last")
    parser.add_argument("--algorithms", default="staged")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test", action="store_true", help="measure test too, once for each seed")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "trinity-mlx-benchmark")
    options = parser.parse_args(arguments)
    answers = Answers.of(read_table(options.table), options.agents.split(","))
    for position in options.positions.split(","):
        hidden = _hidden(options, answers, ReadPosition(position))
        for algorithm, settings in _settings(options):
            started = time.perf_counter()
            scores = [_score(answers, hidden, replace(settings, seed=seed)) for seed in range(options.seeds)]
            _tell(position, algorithm, settings, np.array(scores), time.perf_counter() - started, options.test)


def _hidden(options: argparse.Namespace, answers: Answers, position: ReadPosition) -> np.ndarray:
    """Hidden vectors of all rows, float64 [rows, hidden]."""
    base = open_base(options.base or find_bundle("nano").base_folder or "")
    reading = Reading(base, window=Window.parse(options.window), position=position)
    engine, layout = Engine(load_backend("torch"), cache=options.cache), Layout.of(base)
    features = engine.features(base, layout, reading.segments([row.transcript for row in answers.rows]))
    return base_hidden(features, layout, engine, base).astype(np.float64)


def _settings(options: argparse.Namespace) -> Iterator[tuple[str, Settings]]:
    for algorithm, head in product(options.algorithms.split(","), options.heads.split(",")):
        for rank in map(int, options.ranks.split(",") if head == LOW_RANK else ["20"]):
            yield algorithm, Settings(algorithm, head=head, rank=rank, offsets=False)


def _score(answers: Answers, hidden: np.ndarray, settings: Settings) -> tuple[float, float]:
    """Val and test scores of one training."""
    train, val, test = (_problem(answers, hidden, settings, split) for split in ("train", "val", "test"))
    stages = stages_for(settings, train)
    trained = Trainer(train, val, stages, limits=Limits(patience=settings.patience)).run()
    best = refitted(trained, stages, train, val) if settings.refits else trained.best
    return trained.best_val, worth(test, test.hidden, best.head)


def _problem(answers: Answers, hidden: np.ndarray, settings: Settings, split: str) -> Problem:
    rows = answers.where(split)
    return Problem(
        features=None,  # type: ignore[arg-type]
        train=rows,
        utility=answers.filled()[rows],
        hidden=hidden[rows],
        layout=Layout({}, {}),
        kind=settings.head_kind(typical_length(hidden[answers.where("train")])),
        objective=Objective(),
        seed=settings.seed,
    )


def _tell(
    position: str, algorithm: str, settings: Settings, scores: np.ndarray, seconds: float, with_test: bool
) -> None:
    val, test = scores.T
    told = f"  test {test.mean():.4f}, {test.min():.4f} to {test.max():.4f}" if with_test else ""
    name = f"{position} {algorithm} {settings.head_name}"
    print(f"{name:48} val {val.mean():.4f}{told}  ({seconds / len(scores):.0f} s each)", flush=True)


if __name__ == "__main__":
    main()

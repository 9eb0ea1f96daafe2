"""Kinds of heads and the token that they read, on one table: the head alone, without offsets.

    python benchmarks/heads.py TABLE --agents A,B,... [--heads linear,low-rank] [--positions second-to-last,last]
        [--algorithms ridge,soft-targets,staged] [--seeds 3] [--ranks 20]
    python benchmarks/heads.py starts [--seeds 5]

Settings are chosen on train and val; with --test, test is measured once for each seed. Nothing is written but to the
cache. ``starts`` holds three beginnings of a low-rank head's descent against each other on generated pools.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import cast

import numpy as np

from trinity_mlx.artifacts.base import open_base
from trinity_mlx.artifacts.catalog import find_bundle
from trinity_mlx.contracts.artifact import ReadPosition
from trinity_mlx.contracts.routing import Window
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.training.answers import Answers
from trinity_mlx.training.closed_form import ridge_head
from trinity_mlx.training.features import Features
from trinity_mlx.training.head import Head, HeadKind
from trinity_mlx.training.heads import HEADS, LOW_RANK, head_kind
from trinity_mlx.training.low_rank import LowRank
from trinity_mlx.training.objective import Objective
from trinity_mlx.training.problem import Problem, typical_length, worth
from trinity_mlx.training.reading import Engine, Reading, base_hidden
from trinity_mlx.training.refit import refitted
from trinity_mlx.training.settings import Settings, stages_for
from trinity_mlx.training.table import read_table
from trinity_mlx.training.trainer import Limits, Trainer, best_single
from trinity_mlx.training.vector_layout import Layout


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each head, rank, position and algorithm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="a table, or starts")
    parser.add_argument("--agents", default="")
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
    if str(options.table) == "starts":
        _starts(options.seeds)
        return
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
        features=cast(Features, None),
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


@dataclass(frozen=True)
class Drawn(LowRank):
    """Every unit of a head of zeros begins in a direction drawn at random."""

    def fitted(self, head: Head) -> np.ndarray:
        """See ``LowRank``."""
        if head.inner is not None or head.matrix.any():
            return super().fitted(head)
        rows, hidden = head.matrix.shape
        drawn = np.random.default_rng([self.seed, 4]).normal(size=self.rank * hidden)
        return np.concatenate([drawn, np.zeros(self.rank * rows)])


@dataclass(frozen=True)
class FromHead(LowRank):
    """A head of zeros stands for a given one."""

    start: Head | None = None

    def fitted(self, head: Head) -> np.ndarray:
        """See ``LowRank``."""
        return super().fitted(self.start if self.start and head.inner is None and not head.matrix.any() else head)


def _starts(seeds: int) -> None:
    """Where the best agent is the largest of linear functions, and where it is not: soft targets, the head alone."""
    for is_bent in (False, True):
        gaps: dict[str, list[float]] = {}
        for seed in range(seeds):
            pools = [_pool(seed, part, is_bent) for part in ("train", "val", "test")]
            for name, kind in _beginnings(pools[0], seed):
                gaps.setdefault(name, []).append(_gap_closed([replace(pool, kind=kind) for pool in pools]))
        print("a best routing that no linear head has:" if is_bent else "a best routing that a linear head has:")
        for name, found in gaps.items():
            error = np.std(found, ddof=1) / np.sqrt(len(found)) if len(found) > 1 else 0.0
            print(f"  {name:36} closes {np.mean(found):.3f} ± {error:.3f} of the gap to it", flush=True)


def _beginnings(train: Problem, seed: int) -> Iterator[tuple[str, HeadKind]]:
    length = typical_length(train.hidden)
    yield "linear head", head_kind("linear")
    yield "low-rank, from pairs at zero", LowRank(20, length, seed)
    yield "low-rank, from directions at random", Drawn(20, length, seed)
    ridge = Head(ridge_head(train.hidden, train.utility, 1.0))
    yield "low-rank, from ridge", FromHead(20, length, seed, ridge)


def _pool(seed: int, part: str, is_bent: bool, side: int = 32, agents: int = 5) -> Problem:
    """Rows of a generated pool, each agent's worth a function of the hidden vector that is known."""
    fixed = np.random.default_rng([seed, 7])
    rows = {"train": 1800, "val": 600, "test": 2000}[part]
    hidden = np.random.default_rng([seed, len(part), 8]).normal(size=(rows, side))
    hidden[:, 0] = 3.0
    inner = np.tanh(hidden @ fixed.normal(size=(side, 16)) / 4.0) if is_bent else hidden
    raw = inner @ fixed.normal(size=(inner.shape[1], agents))
    utility = 1.0 / (1.0 + np.exp(-0.6 * raw / raw.std()))
    kind = head_kind("linear")
    layout, features = Layout({}, {}), cast(Features, None)
    return Problem(features, np.arange(rows), utility, hidden, layout, kind, Objective(), seed)


def _gap_closed(pools: Sequence[Problem]) -> float:
    """On rows never seen, by the generation of a descent to soft targets that is best on val."""
    train, val, test = pools
    trained = Trainer(train, val, stages_for(Settings("soft-targets", offsets=False), train)).run()
    single, best = (worth(test, test.hidden, best_single(train).head), float(test.utility.max(1).mean()))
    return (worth(test, test.hidden, trained.best.head) - single) / (best - single)


if __name__ == "__main__":
    main()

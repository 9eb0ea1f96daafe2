"""Training, measured: recipes over seeds, population evaluation against one by one, a pool with a known answer.

    python benchmarks/train.py table TABLE --agents A,B,... [--seeds 10] [--algorithms staged,ridge,...]
    python benchmarks/train.py known [--seeds 5]
    python benchmarks/train.py speed [--full]

Settings are chosen on train and val; test is measured once for each seed. Nothing is written but to the cache.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from qwen3_0_6b import FULL_SIZE
from safetensors.numpy import save_file

from trinity_mlx.artifacts.base import open_base
from trinity_mlx.artifacts.catalog import find_bundle
from trinity_mlx.contracts.artifact import Base
from trinity_mlx.contracts.artifact import Head as RoutingHead
from trinity_mlx.contracts.backend import LoadedBase, PopulatedBase, Segment
from trinity_mlx.contracts.routing import Window
from trinity_mlx.factorization.adapted import LAYER_MATRICES
from trinity_mlx.files.safetensors import read_header
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.routing.reader import in_batches
from trinity_mlx.training.answers import Answers
from trinity_mlx.training.features import Features
from trinity_mlx.training.guard import learn_guard
from trinity_mlx.training.head import Head
from trinity_mlx.training.headroom import headroom
from trinity_mlx.training.heads import head_kind
from trinity_mlx.training.objective import Objective
from trinity_mlx.training.problem import Problem, typical_length
from trinity_mlx.training.reading import Engine, Reading, base_hidden
from trinity_mlx.training.refit import chosen_fit, refitted
from trinity_mlx.training.settings import Settings, stages_for
from trinity_mlx.training.statistics import paired_difference
from trinity_mlx.training.table import read_table
from trinity_mlx.training.trainer import Limits, Trainer, best_single
from trinity_mlx.training.vector_layout import Layout


@dataclass(frozen=True)
class Scored:
    """Scores of one training, on test with and without the guard that it learned, and the stages that it kept."""

    val: float
    test: float
    guarded: float
    kept: tuple[str, ...]
    rows: np.ndarray = field(repr=False)


STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26, 20: 2.09, 30: 2.05}
"""By the number of values: how many standard errors of their mean make its 95 % interval."""
METHODS = ("ridge", "soft-targets", "hard-labels", "knn", "sep-cma-es", "random-search", "reinforce", "staged")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="recipes on a table")
    table.add_argument("table", type=Path)
    table.add_argument("--agents", required=True)
    table.add_argument("--base", type=Path, help="nano's base by default")
    table.add_argument("--window", default="256,256")
    table.add_argument("--seeds", type=int, default=10)
    table.add_argument("--algorithms", default="staged")
    table.add_argument("--complete", action="store_true", help="leave out rows that lack an agent")
    table.add_argument("--ood", action="store_true", help="test on the rows marked ood, trained without their tasks")
    table.add_argument("--no-baselines", action="store_true", help="leave out headroom, which takes a minute")
    table.add_argument("--offsets", action="store_true")
    table.add_argument("--no-guard", action="store_true", help="leave out the guard: ten fits for each seed")
    table.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "trinity-mlx-benchmark")
    known = commands.add_parser("known", help="a generated pool whose best routing is known")
    known.add_argument("--seeds", type=int, default=10)
    speed = commands.add_parser("speed", help="population evaluation against one by one")
    speed.add_argument("--full", action="store_true", help="at full size, with random weights: takes minutes and 3 GB")
    speed.add_argument("--repeats", type=int, default=3)
    speed.add_argument("--transcripts", type=int, default=32)
    speed.add_argument("--backends", default="torch,mlx")
    options = parser.parse_args(arguments)
    {"table": _table, "known": _known, "speed": _speed}[options.command](options)


def _table(options: argparse.Namespace) -> None:
    base = open_base(options.base or find_bundle("nano").base_folder or "")
    head, tail = map(int, options.window.split(","))
    rows = read_table(options.table)
    if options.complete:
        named = set(options.agents.split(","))
        rows = replace(rows, rows=tuple(row for row in rows.rows if named <= row.scores.keys()))
    answers = Answers.of(rows, options.agents.split(","))
    reading = Reading(base, window=Window(head, tail, min(256, tail)))
    engine = Engine(load_backend("torch"), cache=options.cache)
    layout = Layout.of(base)
    features = engine.features(base, layout, reading.segments([row.transcript for row in answers.rows]))
    hidden = base_hidden(features, layout, engine, base).astype(np.float64)
    if options.ood:
        answers, hidden = _unseen(options.table, answers, hidden)
    print(f"{len(answers.rows)} rows, test {len(answers.where('test'))}")
    methods = () if options.no_baselines else headroom(answers, hidden).methods
    for method in methods:
        print(f"  {method.name:32} {method.setting:16} {method.estimate.mean:.4f}")
    first: np.ndarray | None = None
    single = answers.filled()[answers.where("train")].mean(0).argmax()
    print(f"best single, chosen on train: {answers.filled()[answers.where('test'), single].mean():.4f}")
    for algorithm in options.algorithms.split(","):
        settings = [Settings(algorithm, offsets=options.offsets, seed=seed) for seed in range(options.seeds)]
        scores = []
        for each in settings:
            scores.append(_score(answers, features, layout, hidden, each, not options.no_guard))
            print(f"  {algorithm}, seed {each.seed}: {scores[-1]}", flush=True)
        _tell(algorithm, scores)
        mean = np.mean([each.rows for each in scores], axis=0)
        if first is not None:
            apart = paired_difference(mean, first).estimate
            told = f"{apart.mean:+.4f}, {apart.low:+.4f} to {apart.high:+.4f} (95 %, over rows)"
            print(f"{'':16} less {options.algorithms.split(',')[0]}: {told}", flush=True)
        first = mean if first is None else first


def _unseen(path: Path, answers: Answers, hidden: np.ndarray) -> tuple[Answers, np.ndarray]:
    """The table of the question whether anything is learned beyond the tasks seen: test is what is marked ``ood``."""
    import gzip

    with gzip.open(path, "rt", encoding="utf-8") as file:
        ood = {record["id"]: record["ood"] for record in map(json.loads, file)}
    marked = np.array([ood[row.id] for row in answers.rows])
    splits = np.where(marked, "test", answers.splits)
    keep = marked | (answers.splits != "test")
    rows = tuple(row for row, kept in zip(answers.rows, keep, strict=True) if kept)
    chosen = replace(
        answers,
        rows=rows,
        scores=answers.scores[keep],
        costs=answers.costs[keep],
        seconds=answers.seconds[keep],
        turns=answers.turns[keep],
        splits=splits[keep],
    )
    return chosen, hidden[keep]


def _score(
    answers: Answers,
    features: Features | None,
    layout: Layout,
    hidden: np.ndarray,
    settings: Settings,
    with_guard: bool,
) -> Scored:
    """One training, measured on test."""
    problems = {
        split: _problem(answers, features, layout, hidden, settings, split) for split in ("train", "val", "test")
    }
    stages = stages_for(settings, problems["train"])
    trained = Trainer(problems["train"], problems["val"], stages, limits=Limits(patience=settings.patience)).run()
    if settings.refits:
        trained = replace(trained, best=refitted(trained, stages, problems["train"], problems["val"]))
    test, offsets = problems["test"], trained.best.offsets
    routed, rows = test.hidden_at(offsets), np.arange(len(test.train))
    logits = trained.best.head.logits(routed)
    scores = test.utility[rows, logits.argmax(1)]
    bare = guarded = float(scores.mean())
    chosen = chosen_fit(trained, stages)
    if chosen and with_guard:
        train, val = (replace(problems[split], hidden=problems[split].hidden_at(offsets)) for split in ("train", "val"))
        categories = answers.categories[np.concatenate([train.train, val.train])]
        guard = learn_guard(train, val, lambda some: chosen[0].again(some, chosen[1]), [categories])
        if guard:
            print(f"  guard: distance {guard.limit:.3f}, {guard.chosen}", flush=True)
            guarded = float(test.utility[rows, guard.choose(logits, routed)].mean())
    return Scored(trained.best_val, bare, guarded, trained.kept, scores)


def _problem(
    answers: Answers,
    features: Features | None,
    layout: Layout,
    hidden: np.ndarray,
    settings: Settings,
    split: str,
) -> Problem:
    rows = answers.where(split)
    return Problem(
        features=features,  # type: ignore[arg-type]
        train=rows,
        utility=answers.filled()[rows],
        hidden=hidden[rows],
        layout=layout if settings.offsets else Layout(layout.shapes, {}),
        kind=settings.head_kind(typical_length(hidden)),
        objective=Objective(),
        seed=settings.seed,
    )


def _tell(name: str, scores: list[Scored]) -> None:
    kept = sorted({", ".join(each.kept) or "none" for each in scores})
    print(f"{name:16} val {np.mean([each.val for each in scores]):.4f}; {len(scores)} seeds; kept: {' | '.join(kept)}")
    print(f"{'':16} test {_spread([each.test for each in scores])}")
    print(f"{'':16} test, guarded {_spread([each.guarded for each in scores])}", flush=True)


def _spread(values: list[float]) -> str:
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{np.mean(values):.4f} ± {error:.4f}, {min(values):.4f} to {max(values):.4f}"


def _known(options: argparse.Namespace) -> None:
    """Vectors in which the best agent is the largest of some linear functions: the best routing scores 1."""
    print(
        "share of the gap between the best single agent and the best routing, which is known; less sep-cma-es, paired"
    )
    gaps = {}
    for method in ("sep-cma-es", *(name for name in METHODS if name != "sep-cma-es")):
        gaps[method] = np.array([_known_gap(method, seed) for seed in range(options.seeds)])
        apart = _interval(gaps[method] - gaps["sep-cma-es"])
        print(f"  {method:16} {_interval(gaps[method])}, least {gaps[method].min():.3f}; {apart}", flush=True)


def _interval(values: np.ndarray) -> str:
    """The mean of what several seeds gave, with the 95 % interval of Student's t."""
    if len(values) < 2:
        return f"{values.mean():+.3f}"
    reach = float(STUDENT.get(len(values), 1.96) * values.std(ddof=1) / np.sqrt(len(values)))
    return f"{values.mean():+.3f} ± {reach:.3f}"


def _known_gap(method: str, seed: int, rows: int = 3000, side: int = 32, agents: int = 5) -> float:
    draw = np.random.default_rng([seed, 7])
    hidden = draw.normal(size=(rows, side))
    hidden[:, 0] = 3.0
    utility = 0.6 * hidden @ draw.normal(size=(side, agents)) / np.sqrt(side)
    utility = 1.0 / (1.0 + np.exp(-utility))
    splits = np.array(["train", "val", "test"])[np.minimum(np.arange(rows) * 5 // rows, 4).clip(2) - 2]
    layout = Layout({}, {})
    parts = {}
    for split in ("train", "val", "test"):
        of = splits == split
        parts[split] = Problem(
            features=None,  # type: ignore[arg-type]
            train=np.flatnonzero(of),
            utility=utility[of],
            hidden=hidden[of],
            layout=layout,
            kind=head_kind("linear"),
            objective=Objective(),
            seed=seed,
        )
    settings = Settings(
        method, offsets=False, seed=seed, iterations=600 if method == "sep-cma-es" else None, patience=600
    )
    trained = Trainer(
        parts["train"], parts["val"], stages_for(settings, parts["train"]), limits=Limits(patience=600)
    ).run()
    test = parts["test"]

    def score(head: Head) -> float:
        return float(test.utility[np.arange(len(test.utility)), head.logits(test.hidden).argmax(1)].mean())

    single, best = score(best_single(parts["train"]).head), float(test.utility.max(1).mean())
    return (score(trained.best.head) - single) / (best - single)


def _speed(options: argparse.Namespace) -> None:
    """32 candidates on 32 transcripts of 100 tokens, against one model for each; and heads alone on 5,000 rows."""
    with tempfile.TemporaryDirectory() as folder:
        base = _random_base(Path(folder)) if options.full else open_base(find_bundle("nano").base_folder or "")
        for name in options.backends.split(","):
            _speed_of(name, base, options.repeats, transcripts=options.transcripts)
    draw = np.random.default_rng(0)
    hidden, heads = draw.normal(size=(5000, 1024)), draw.normal(size=(32, 7, 1024))
    hidden, heads = hidden.astype(np.float32), heads.astype(np.float32)
    began = time.perf_counter()
    (hidden @ heads.reshape(-1, 1024).T).reshape(5000, 32, 7).argmax(-1)
    print(f"32 heads of 7 x 1024 on 5,000 rows: {time.perf_counter() - began:.3f} s")


def _speed_of(
    name: str, base: Base, repeats: int, candidates: int = 32, transcripts: int = 32, tokens: int = 100
) -> None:
    """All candidates together, and one routed alone: another one alone would take the same time, so it is not timed."""
    loaded = load_backend(name).load_base(base, device="cpu", dtype="float32")
    if not isinstance(loaded, PopulatedBase):
        sys.exit(f"backend {name} offers no population")
    names = [f"model.layers.{base.config.num_layers - 2}.{matrix}" for matrix in LAYER_MATRICES.values()]
    shapes, draw = base.config.backbone_shapes(), np.random.default_rng(0)
    sides = {each: min(shapes[each]) for each in names}
    vectors = {each: np.linalg.qr(draw.normal(size=(side, side)))[0] for each, side in sides.items()}
    population, alone = loaded.population(vectors), _routing(loaded, base)
    ids = draw.integers(0, base.config.vocab_size, (transcripts, tokens))
    segments = [Segment(tuple(row)) for row in ids.tolist()]
    gains = {each: 1.0 + 0.03 * draw.normal(size=(candidates, side)) for each, side in sides.items()}
    population.hidden(segments[:1], population.trunk(segments[:1]), {each: rows[:1] for each, rows in gains.items()})
    alone(segments[:1])
    whole, shared = [], []
    for _ in range(repeats):
        whole.append(_seconds(lambda: alone(segments)))
        shared.append(_seconds(lambda: population.hidden(segments, population.trunk(segments), gains)))
    each, together = float(np.median(whole)), float(np.median(shared))
    print(
        f"{name}: {candidates} candidates on {transcripts} transcripts of {tokens} tokens: {together:.2f} s together "
        f"(trunk included); one routed alone {each:.2f} s, so {candidates} one by one {candidates * each:.0f} s: "
        f"{candidates * each / together:.1f} times as fast",
        flush=True,
    )


def _routing(loaded: LoadedBase, base: Base) -> Callable[[list[Segment]], None]:
    """Routes segments as a router does that has nothing to change in its base, in passes of the usual size."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.safetensors"
        save_file({"head": np.ones((10, base.config.hidden_size), dtype=np.float32)}, path)
        model = loaded.attach(None, RoutingHead(read_header(path)["head"], tuple("abcdefg"), "head"))

    def route(segments: list[Segment]) -> None:
        for batch in in_batches([segment.tokens for segment in segments], model.batch_tokens):
            model.logits([Segment(tokens) for tokens in batch])

    return route


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _random_base(folder: Path) -> Base:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(**FULL_SIZE | {"vocab_size": 8192})
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer = (find_bundle("nano").base_folder or Path()) / "tokenizer.json"
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return open_base(folder)


if __name__ == "__main__":
    main()

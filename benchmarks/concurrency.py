"""What reading together gains when several conversations ask at once.

Eight conversations of four turns each, every turn as soon as the one before has been read, in two ways: through the
reader that routers share, and through a lock around one read at a time with the same two memories, which is what it
replaced. Once all conversations share a beginning of 500 tokens, once they share nothing. And 64 similar prompts at
once beside the same prompts in one ``read_many``, with and without the reader's way with common beginnings.

Nano, and the architecture of Qwen3-0.6B at full size with seeded random weights. Both sides run in one process on the
same model, in alternating order; what is compared is the median of the ratios of neighbouring runs, by the clock and by
the CPU seconds of the process, which other programs disturb less.

    python benchmarks/concurrency.py [--json FILE] [--repeats N] [--threads N] [--backend torch|mlx] [--dtype TYPE]
        [--models nano,full] [--only TEXT] [--base DIR] [--turn-tokens N]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Any

import torch
from qwen3_0_6b import FULL_SIZE
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from route import base_folder, write_head

from trinity_mlx.artifacts.base import open_base
from trinity_mlx.contracts.backend import RoutingModel, Segment
from trinity_mlx.contracts.routing import RouteLogits
from trinity_mlx.evaluation.provenance import describe_machine, describe_software
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.routing.loading import open_artifact
from trinity_mlx.routing.prefix_cache import PrefixCache, Tokens
from trinity_mlx.routing.reader import Reader, in_batches, needed_tokens

CONVERSATIONS = 8
TURNS = 4
SHARED = 500
PROMPTS = 64
CACHE_BYTES = 1 << 30

Read = Callable[[Tokens], object]
progress = Console(stderr=True)


class LockedReader:
    """One read at a time behind a lock: the reader as it was before reads were batched."""

    def __init__(self, model: RoutingModel) -> None:
        self._model = model
        self._prefixes = PrefixCache(CACHE_BYTES)
        self._lock = Lock()

    def read(self, tokens: Tokens) -> RouteLogits:
        """The logits of one sequence, whose keys and values are kept."""
        needed = needed_tokens(tokens)
        with self._lock:
            segment = Segment(needed, *self._prefixes.match(needed), keep=True)
            (row,), (past,) = self._model.logits([segment])
            assert past is not None
            self._prefixes.store(needed, past)
        return RouteLogits.split(row)

    def read_many(self, sequences: Sequence[Tokens]) -> list[RouteLogits]:
        """The logits of many, in consecutive batches that share nothing."""
        needed = [needed_tokens(tokens) for tokens in sequences]
        with self._lock:
            batches = in_batches(needed, self._model.batch_tokens)
            rows = [row for batch in batches for row in self._model.logits([Segment(each) for each in batch])[0]]
        return [RouteLogits.split(row) for row in rows]


def conversations(vocabulary: int, shared: int, turn_tokens: int, seed: int) -> list[list[Tokens]]:
    """Each conversation's transcript after each of its turns; lengths of turns vary by half."""
    draw = random.Random(seed)
    beginning = _tokens(draw, vocabulary, shared)
    talks = []
    for _ in range(CONVERSATIONS):
        talk = beginning if shared else _tokens(draw, vocabulary, SHARED)
        turns = []
        for _ in range(TURNS):
            talk = (*talk, *_tokens(draw, vocabulary, draw.randint(turn_tokens // 2, turn_tokens * 3 // 2)))
            turns.append(talk)
        talks.append(turns)
    return talks


def similar_prompts(vocabulary: int, seed: int) -> list[Tokens]:
    """Prompts of 30 tokens that share their first 12."""
    draw = random.Random(seed)
    beginning = _tokens(draw, vocabulary, 12)
    return [(*beginning, *_tokens(draw, vocabulary, 18)) for _ in range(PROMPTS)]


def _tokens(draw: random.Random, vocabulary: int, count: int) -> Tokens:
    return tuple(draw.choices(range(vocabulary), k=count))


def at_once(jobs: Sequence[Callable[[], object]]) -> float:
    """Seconds until all jobs, each on a thread of its own, are done."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        started = time.perf_counter()
        for done in [pool.submit(job) for job in jobs]:
            done.result()
        return time.perf_counter() - started


def talk_all(read: Read, talks: Sequence[Sequence[Tokens]]) -> float:
    """Seconds for all conversations at once, each turn after the one before."""
    return at_once([partial(_talk, read, turns) for turns in talks])


def _talk(read: Read, turns: Sequence[Tokens]) -> None:
    for tokens in turns:
        read(tokens)


def with_reader(model: RoutingModel, work: Callable[[Reader], float]) -> float:
    """``work`` with a reader that has read nothing yet."""
    reader = Reader(model, CACHE_BYTES)
    try:
        return work(reader)
    finally:
        reader.close()


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@dataclass(frozen=True)
class Comparison:
    """Two ways to do the same, each giving seconds by the number of the repeat, and the ratio that is aimed at."""

    name: str
    target: float
    ours: Callable[[int], float]
    other: Callable[[int], float]

    def measure(self, repeats: int) -> dict[str, Any]:
        """Pairs of runs, each side first in turn, after one of each to warm up."""
        self.ours(0), self.other(0)
        ours, other, cpu = [], [], []
        for repeat in range(1, repeats + 1):
            spent = {}
            for side, times in ((self.ours, ours), (self.other, other))[:: 1 if repeat % 2 else -1]:
                begun = time.process_time()
                times.append(side(repeat))
                spent[side] = time.process_time() - begun
            cpu.append(spent[self.other] / spent[self.ours])
        ratios = [b / a for a, b in zip(ours, other, strict=True)]
        return {
            "name": self.name,
            "target": self.target,
            "ours": ours,
            "other": other,
            "ratios": ratios,
            "median_ours": median(ours),
            "median_other": median(other),
            "median_ratio": median(ratios),
            "cpu_ratios": cpu,
            "median_cpu_ratio": median(cpu),
        }


def comparisons(model: RoutingModel, vocabulary: int, turn_tokens: int) -> Iterator[Comparison]:
    """Everything that is compared on one model."""
    for name, shared, target in (("share 500 tokens", SHARED, 1.5), ("share nothing", 0, 1.0)):
        talks = partial(conversations, vocabulary, shared, turn_tokens)
        yield Comparison(
            f"8 conversations that {name}, against a lock",
            target,
            lambda seed, talks=talks: with_reader(model, lambda reader: talk_all(reader.read, talks(seed))),  # type: ignore[misc]
            lambda seed, talks=talks: talk_all(LockedReader(model).read, talks(seed)),  # type: ignore[misc]
        )
    prompts = partial(similar_prompts, vocabulary)

    def submitted(seed: int) -> float:
        sequences = prompts(seed)
        return with_reader(
            model, lambda reader: timed(lambda: [each.result() for each in [*map(reader.submit, sequences)]])
        )

    def together(seed: int) -> float:
        sequences = prompts(seed)
        return with_reader(model, lambda reader: timed(lambda: reader.read_many(sequences)))

    def apart(seed: int) -> float:
        sequences = prompts(seed)
        return timed(lambda: LockedReader(model).read_many(sequences))

    yield Comparison("64 similar prompts at once, against one read_many", 1.0, submitted, together)
    yield Comparison("64 similar prompts in one read_many, against batches that share nothing", 1.0, together, apart)


@contextmanager
def full_model(backend: str, dtype: str, folder: Path | None) -> Iterator[tuple[RoutingModel, int]]:
    """The full size with random weights, and the size of its vocabulary."""
    with base_folder(folder) as found:
        base = load_backend(backend).load_base(open_base(found), device="cpu", dtype=dtype)
        yield base.attach(None, write_head(found / "benchmark_head.safetensors")), FULL_SIZE["vocab_size"]


@contextmanager
def nano_model(backend: str, dtype: str) -> Iterator[tuple[RoutingModel, int]]:
    """The embedded artifact, and the size of its vocabulary."""
    bundle, source = open_artifact("nano")
    base = load_backend(backend).load_base(source, device="cpu", dtype=dtype)
    yield base.attach(bundle.adapter, bundle.head), source.config.vocab_size


def main() -> None:
    """Measure, print, and write the JSON where asked to."""
    options = _options()
    torch.set_num_threads(options.threads)
    results = []
    for name in options.models.split(","):
        loading = (
            nano_model(options.backend, "float32")
            if name == "nano"
            else full_model(options.backend, options.dtype, options.base)
        )
        with loading as (model, vocabulary):
            for comparison in comparisons(model, vocabulary, options.turn_tokens):
                if options.only not in comparison.name:
                    continue
                progress.print(f"{name}: {comparison.name}")
                results.append({"model": name} | comparison.measure(options.repeats))
    _print(results)
    if options.json:
        about = {"date": datetime.now(UTC).isoformat(), "machine": describe_machine(), "software": describe_software()}
        options.json.write_text(json.dumps(about | {"options": _plain(options), "results": results}, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backend", choices=["torch", "mlx"], default="torch")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="of the full size")
    parser.add_argument("--models", default="nano,full")
    parser.add_argument("--only", default="", metavar="TEXT", help="comparisons with this in their name")
    parser.add_argument("--base", type=Path, help="folder of the full size's weights; made where it is empty")
    parser.add_argument("--turn-tokens", type=int, default=20, help="tokens that a turn adds, on average")
    return parser.parse_args()


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def _print(results: Sequence[dict[str, Any]]) -> None:
    table = Table(box=None, header_style="dim")
    for heading in ("model", "what", "ours", "other", "times as fast", "from - to", "by CPU seconds", "aim"):
        table.add_column(heading)
    for each in results:
        table.add_row(
            each["model"],
            each["name"],
            f"{each['median_ours'] * 1000:.0f} ms",
            f"{each['median_other'] * 1000:.0f} ms",
            f"{each['median_ratio']:.2f}",
            f"{min(each['ratios']):.2f} - {max(each['ratios']):.2f}",
            f"{each['median_cpu_ratio']:.2f}",
            f"{each['target']:g}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()

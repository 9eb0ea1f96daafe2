"""How fast routing is, side by side with the plain recipe on transformers.

The recipe is ``Qwen3ForCausalLM(...)(ids, output_hidden_states=True).hidden_states[-1][:, -2]``, then the head. Both
sides run the architecture of Qwen3-0.6B at full size with the same seeded random weights, in bfloat16, in torch on
the CPU, with the same number of threads, in one process, in alternating order. What is compared is the median of the
ratios of neighbouring runs, which a slow moment of the machine disturbs least.

    python benchmarks/route.py [--json FILE] [--repeats N] [--threads N] [--base DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from qwen3_0_6b import FULL_SIZE
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models
from transformers import Qwen3Config, Qwen3ForCausalLM

from trinity_mlx.artifacts.base import open_base
from trinity_mlx.contracts.artifact import Head
from trinity_mlx.evaluation.provenance import describe_machine, describe_software
from trinity_mlx.files.safetensors import read_header
from trinity_mlx.files.shipped import data_path
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.routing.reader import Reader

SEED = 0
SLOTS = 7
PROMPT_TOKENS = 30
TURN_LENGTHS = (200, 400, 600, 800, 1000)
BATCH_SIZE = 32
BATCH_LENGTHS = (8, 64)
CACHE_BYTES = 512 * 1024 * 1024
COLD_PROMPT = "What is 17 + 25? Answer briefly."

Tokens = tuple[int, ...]
Run = Callable[[], float]
progress = Console(stderr=True)


@dataclass(frozen=True)
class Measurement:
    """Times of one comparison in seconds; ``ours[i]`` and ``other[i]`` were taken right after each other."""

    name: str
    compared_with: str
    tokens: int
    target: float
    ours: list[float] = field(default_factory=list)
    other: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """How many times as fast ours was, pair by pair."""
        return [other / ours for ours, other in zip(self.ours, self.other, strict=True)]

    def summary(self) -> dict[str, Any]:
        """Everything measured, and its medians."""
        return {
            **asdict(self),
            "median_ours": median(self.ours),
            "median_other": median(self.other),
            "ratios": self.ratios,
            "median_ratio": median(self.ratios),
        }


class Contenders:
    """Our router's reading path and the plain recipe, on the same weights and the same head."""

    def __init__(self, folder: Path) -> None:
        head = write_head(folder / "benchmark_head.safetensors")
        base = load_backend("torch").load_base(open_base(folder), device="cpu", dtype="bfloat16")
        self._routing = base.attach(None, head)
        self._plain = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self._head = torch.from_numpy(head_values())

    def reader(self, cache_bytes: int) -> Reader:
        """A reader with no memory of its own yet."""
        return Reader(self._routing, cache_bytes)

    @torch.inference_mode()
    def recipe(self, tokens: Tokens) -> list[float]:
        """Logits by the plain recipe."""
        states = self._plain(torch.tensor([tokens]), output_hidden_states=True).hidden_states
        logits: list[float] = (states[-1][:, -2].float() @ self._head.T)[0].tolist()
        return logits

    def largest_difference(self, tokens: Tokens) -> float:
        """Between both sides' logits, relative to the largest one: they must be doing the same work."""
        ours = self.reader(0).read(tokens).logits
        found, expected = np.array(ours.agent + ours.role), np.array(self.recipe(tokens))
        return float(np.abs(found - expected).max() / np.abs(expected).max())


def make_base(folder: Path) -> None:
    """A full-size Qwen3 with seeded random weights in bfloat16, in Hugging Face layout."""
    progress.print(f"making a full-size base with random weights in {folder}")
    torch.manual_seed(SEED)
    Qwen3ForCausalLM(Qwen3Config(**FULL_SIZE)).to(torch.bfloat16).save_pretrained(folder)
    Tokenizer(models.BPE()).save(str(folder / "tokenizer.json"))


@contextmanager
def base_folder(chosen: Path | None) -> Iterator[Path]:
    """The folder that holds the base: the user's, filled where it is empty, or a temporary one."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen or Path(temporary)
        if not (folder / "tokenizer.json").is_file():
            make_base(folder)
        yield folder


def head_values() -> np.ndarray:
    """A random routing head, float32 [slots + 3, hidden]."""
    draw = np.random.default_rng(SEED)
    return draw.normal(0.0, 0.05, (SLOTS + 3, FULL_SIZE["hidden_size"])).astype(np.float32)


def write_head(path: Path) -> Head:
    """The head as a file, as a bundle would hold it."""
    save_file({"head": head_values()}, path)
    return Head(read_header(path)["head"], tuple(f"slot-{index}" for index in range(SLOTS)), "random")


def random_tokens(length: int, seed: int) -> Tokens:
    """Token ids that depend on ``length`` and ``seed`` alone."""
    return tuple(random.Random(f"{seed}-{length}").choices(range(FULL_SIZE["vocab_size"]), k=length))


def timed(work: Callable[[], object]) -> float:
    """Wall time of ``work`` in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(measurement: Measurement, ours: Run, other: Run, repeats: int) -> Measurement:
    """Fill ``measurement`` with pairs of runs, each side first in turn, after one run of each to warm up."""
    ours()
    other()
    sides = [(ours, measurement.ours), (other, measurement.other)]
    for pair in range(repeats):
        for run, times in sides if pair % 2 == 0 else reversed(sides):
            times.append(run())
        pace = f"ours {measurement.ours[-1]:.3f} s, {measurement.compared_with} {measurement.other[-1]:.3f} s"
        progress.print(f"{measurement.name}: pair {pair + 1} of {repeats}, {pace}")
    return measurement


def one_prompt(contenders: Contenders, repeats: int) -> Measurement:
    """One short prompt, nothing remembered."""
    prompt, reader = random_tokens(PROMPT_TOKENS, SEED), contenders.reader(0)
    return compare(
        Measurement(f"one prompt of {PROMPT_TOKENS} tokens", "transformers", PROMPT_TOKENS, target=1.4),
        lambda: timed(lambda: reader.read(prompt)),
        lambda: timed(lambda: contenders.recipe(prompt)),
        repeats,
    )


def growing_conversation(contenders: Contenders, repeats: int) -> Measurement:
    """A conversation that grows; its first turn is read beforehand, the later ones are timed together."""
    whole = random_tokens(TURN_LENGTHS[-1], SEED)
    first, *later = [whole[:length] for length in TURN_LENGTHS]
    reader = contenders.reader(CACHE_BYTES)

    def ours() -> float:
        reader.forget()
        reader.read(first)
        return timed(lambda: [reader.read(turn) for turn in later])

    return compare(
        Measurement(
            f"conversation growing to {len(whole)} tokens, turns 2 to {len(TURN_LENGTHS)} together",
            "transformers",
            sum(map(len, later)),
            target=5.0,
        ),
        ours,
        lambda: timed(lambda: [contenders.recipe(turn) for turn in later]),
        repeats,
    )


def many_at_once(contenders: Contenders, repeats: int) -> Measurement:
    """Transcripts of mixed length in one call against one call for each, nothing remembered."""
    lengths = [random.Random(SEED + index).randint(*BATCH_LENGTHS) for index in range(BATCH_SIZE)]
    batch = [random_tokens(length, index) for index, length in enumerate(lengths)]
    reader = contenders.reader(0)
    shortest, longest = BATCH_LENGTHS
    return compare(
        Measurement(
            f"{BATCH_SIZE} transcripts of {shortest} to {longest} tokens at once",
            "our own router, one by one",
            sum(lengths),
            target=1.5,
        ),
        lambda: timed(lambda: reader.read_many(batch)),
        lambda: timed(lambda: [reader.read(tokens) for tokens in batch]),
        repeats,
    )


def cold_starts(repeats: int) -> dict[str, list[float]]:
    """Wall times of whole processes of the command line; the embedded artifact's route only where it is there."""
    commands = {"trinity-mlx --help": ["--help"]}
    if data_path("fixtures", "artifacts", "nano", "manifest.json").is_file():
        commands |= {f"trinity-mlx route --profile {name}": route_arguments(name) for name in ("mlx", "cpu")}
    return {name: [run_command(arguments) for _ in range(repeats)] for name, arguments in commands.items()}


def route_arguments(profile: str) -> list[str]:
    """What asks the embedded router for one decision."""
    return ["route", COLD_PROMPT, "--profile", profile, "--json"]


def run_command(arguments: Sequence[str]) -> float:
    """Wall time of this environment's ``trinity-mlx`` in a process of its own; a failure ends the benchmark."""
    command = [str(Path(sys.executable).with_name("trinity-mlx")), *arguments]
    return timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def machine() -> dict[str, Any]:
    """What the figures come from."""
    return describe_machine() | {"load_average": os.getloadavg()}


def figures_table(measurements: Sequence[Measurement]) -> Table:
    """The comparisons, readable."""
    table = Table(title="Routing at the size of Qwen3-0.6B, bfloat16, torch on the CPU")
    for heading in ("what", "compared with", "ours", "other", "times as fast", "at least"):
        table.add_column(heading, justify="left" if heading in ("what", "compared with") else "right")
    for item in measurements:
        ratio = median(item.ratios)
        style = "green" if ratio >= item.target else "red"
        table.add_row(
            item.name,
            item.compared_with,
            milliseconds(item.ours),
            milliseconds(item.other),
            f"[{style}]{ratio:.2f}[/]",
            f"{item.target:.1f}",
        )
    return table


def cold_table(starts: dict[str, list[float]]) -> Table:
    """Whole processes, readable."""
    table = Table(title="Whole processes, from start to exit")
    table.add_column("command")
    table.add_column("median", justify="right")
    table.add_column("slowest", justify="right")
    for command, times in starts.items():
        table.add_row(command, milliseconds(times), f"{max(times) * 1000:.0f} ms")
    return table


def milliseconds(times: Sequence[float]) -> str:
    """The median of ``times``."""
    return f"{median(times) * 1000:.0f} ms"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time routing side by side with the plain recipe on transformers.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--repeats", type=at_least_one, default=5, metavar="N", help="pairs of runs (default 5)")
    parser.add_argument("--threads", type=at_least_one, default=None, metavar="N", help="threads of torch, both sides")
    parser.add_argument("--base", type=Path, metavar="DIR", help="keep the base there, and reuse it if it is there")
    return parser.parse_args(arguments)


def at_least_one(text: str) -> int:
    """A count from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def measure(folder: Path, repeats: int) -> tuple[list[Measurement], float]:
    """All comparisons on the base in ``folder``, and how far apart the two sides' logits are."""
    contenders = Contenders(folder)
    difference = contenders.largest_difference(random_tokens(PROMPT_TOKENS, SEED))
    comparisons = (one_prompt, growing_conversation, many_at_once)
    return [comparison(contenders, repeats) for comparison in comparisons], difference


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    described = machine()
    starts = cold_starts(options.repeats)
    with base_folder(options.base) as folder:
        measurements, difference = measure(folder, options.repeats)
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": described,
        "versions": describe_software() | {"transformers": version("transformers")},
        "settings": {"threads": torch.get_num_threads(), "repeats": options.repeats, "dtype": "bfloat16", "seed": SEED},
        "relative_logit_difference": difference,
        "comparisons_seconds": [item.summary() for item in measurements],
        "whole_processes_seconds": starts,
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(figures_table(measurements))
    console.print(cold_table(starts))
    console.print(f"{described['processor']}, {described['cores']} cores, {report['settings']['threads']} threads")
    console.print(f"logits of both sides differ by {difference:.1e} of the largest (bfloat16)")


if __name__ == "__main__":
    main()

"""How fast routing is, side by side with the plain recipe on transformers.

The recipe is ``Qwen3ForCausalLM(...)(ids, output_hidden_states=True).hidden_states[-1][:, -2]``, then the head. Both
sides run the architecture of Qwen3-0.6B at full size with the same seeded random weights, with the same number of
threads, in one process, in alternating order. What is compared is the median of the ratios of neighbouring runs, which
a slow moment of the machine disturbs least. Beside it stands the machine's own limit for our side: the products of all
matrices at the speed measured for their number type, or reading them once a pass, whichever takes longer; attention
and what lies between products are left out of it.

    python benchmarks/route.py [--json FILE] [--repeats N] [--threads N] [--base DIR] [--profile NAME] [--only A,B]
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
from functools import partial
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
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from trinity_mlx.artifacts.base import open_base
from trinity_mlx.contracts.artifact import Head
from trinity_mlx.contracts.backend import Segment, Variant
from trinity_mlx.evaluation.provenance import describe_machine, describe_software
from trinity_mlx.files.safetensors import read_header
from trinity_mlx.files.shipped import data_path
from trinity_mlx.profiles.backends import load_backend
from trinity_mlx.profiles.registry import ProfileRegistry
from trinity_mlx.routing.reader import in_batches, needed_tokens

SEED = 0
SLOTS = 7
TURN_LENGTHS = (200, 400, 600, 800, 1000)
BATCH_SIZE = 32
BATCH_LENGTHS = (8, 64)
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
chosen_clock = "wall"
SQUARE = 2048
MATRIX_ENTRIES = (
    FULL_SIZE["num_hidden_layers"]
    * FULL_SIZE["hidden_size"]
    * (
        2 * (FULL_SIZE["num_attention_heads"] + FULL_SIZE["num_key_value_heads"]) * FULL_SIZE["head_dim"]
        + 3 * FULL_SIZE["intermediate_size"]
    )
)
"""Of all matrices that every token is multiplied by."""
COLD_PROMPT = "What is 17 + 25? Answer briefly."

Tokens = tuple[int, ...]
Run = Callable[[], float]
progress = Console(stderr=True)


@dataclass(frozen=True)
class Lane:
    """How one side runs: number type, and how many bits its matrices are kept in."""

    dtype: str
    quantize: int | None = None

    @property
    def label(self) -> str:
        """For people."""
        return f"int{self.quantize}" if self.quantize else self.dtype

    @property
    def entry_bytes(self) -> float:
        """Of one entry of a matrix."""
        return self.quantize / 8 if self.quantize else getattr(torch, self.dtype).itemsize


@dataclass(frozen=True)
class Measurement:
    """Times of one comparison in seconds; ``ours[i]`` and ``other[i]`` were taken right after each other."""

    name: str
    compared_with: str
    tokens: int
    target: float
    lane: Lane
    passes: int = 1
    """Passes of ours over the weights, ``tokens`` in all of them together."""
    logit_difference: float | None = None
    """The largest of a logit between both sides, relative to the largest logit."""
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


@dataclass(frozen=True)
class Place:
    """Where both sides run: our backend with its device, and torch's device for the plain recipe."""

    backend: str
    device: str

    @classmethod
    def of(cls, profile: str) -> Place:
        """The place of a runtime profile on this machine."""
        chosen, device = ProfileRegistry().resolve(profile)
        return cls(chosen.backend, device)

    @property
    def plain(self) -> torch.device:
        """Torch's own device beside ours."""
        return torch.device({"gpu": "mps"}.get(self.device, self.device))


class Ours:
    """Our model in one lane, and what it does for a route."""

    def __init__(self, folder: Path, place: Place, lane: Lane) -> None:
        variant = Variant(quantize=lane.quantize)
        base = load_backend(place.backend).load_base(
            open_base(folder), device=place.device, dtype=lane.dtype, variant=variant
        )
        self.model = base.attach(None, write_head(folder / "benchmark_head.safetensors"))

    def read(self, tokens: Tokens) -> list[float]:
        """Logits of one sequence, nothing remembered."""
        rows, _ = self.model.logits([Segment(needed_tokens(tokens))])
        return list(rows[0])

    def read_turns(self, first: Tokens, later: Sequence[Tokens]) -> float:
        """Seconds for the later turns of a conversation, the first of which was read beforehand."""
        _, pasts = self.model.logits([Segment(needed_tokens(first), keep=True)])
        past = pasts[0]
        started = clock()
        for turn in later:
            needed = needed_tokens(turn)
            _, pasts = self.model.logits([Segment(needed, past, past.length if past else 0, keep=True)])
            past = pasts[0]
        return clock() - started

    def read_many(self, sequences: Sequence[Tokens]) -> None:
        """Many sequences in as few passes as the device wants."""
        for batch in self._batches(sequences):
            self.model.logits([Segment(tokens) for tokens in batch])

    def passes(self, sequences: Sequence[Tokens]) -> int:
        """How many passes ``read_many`` takes."""
        return len(list(self._batches(sequences)))

    def _batches(self, sequences: Sequence[Tokens]) -> Iterator[list[Tokens]]:
        return in_batches([needed_tokens(tokens) for tokens in sequences], self.model.batch_tokens)


class Plain:
    """The plain recipe on transformers."""

    def __init__(self, folder: Path, place: Place, lane: Lane) -> None:
        self._device = place.plain
        model = Qwen3ForCausalLM.from_pretrained(folder, dtype=getattr(torch, lane.dtype))
        self._model = model.eval().to(self._device)
        self._head = torch.from_numpy(head_values()).to(self._device)

    @torch.inference_mode()
    def read(self, tokens: Tokens) -> list[float]:
        """Logits of one sequence."""
        states = self._model(torch.tensor([tokens], device=self._device), output_hidden_states=True).hidden_states
        logits: list[float] = (states[-1][:, -2].float() @ self._head.T)[0].tolist()
        return logits


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


def clock() -> float:
    """Seconds of the clock that was chosen: the wall's, or of processor time in this process."""
    return CLOCKS[chosen_clock]()


def timed(work: Callable[[], object]) -> float:
    """Seconds of ``work``; on a GPU the last of it has come back, since logits are plain floats."""
    started = clock()
    work()
    return clock() - started


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


def prompt(folder: Path, place: Place, lane: Lane, tokens: int, target: float, repeats: int) -> Measurement:
    """One prompt against the plain recipe; the recipe runs in bfloat16 where ours is quantised."""
    ours, plain = Ours(folder, place, lane), Plain(folder, place, Lane(lane.dtype))
    sequence = random_tokens(tokens, SEED)
    name = f"one prompt of {tokens} tokens, {lane.label}"
    difference = relative_difference(ours.read(sequence), plain.read(sequence))
    measurement = Measurement(name, f"transformers, {lane.dtype}", tokens, target, lane, logit_difference=difference)
    return compare(
        measurement, lambda: timed(lambda: ours.read(sequence)), lambda: timed(lambda: plain.read(sequence)), repeats
    )


def quantised(folder: Path, place: Place, tokens: int, target: float, repeats: int) -> Measurement:
    """8-bit products against our own in bfloat16."""
    ours, other = (Ours(folder, place, Lane("bfloat16", bits)) for bits in (8, None))
    sequence = random_tokens(tokens, SEED)
    difference = relative_difference(ours.read(sequence), other.read(sequence))
    measurement = Measurement(
        f"one prompt of {tokens} tokens, int8", "our own, bfloat16", tokens, target, INT8, logit_difference=difference
    )
    return compare(
        measurement, lambda: timed(lambda: ours.read(sequence)), lambda: timed(lambda: other.read(sequence)), repeats
    )


def conversation(folder: Path, place: Place, lane: Lane, target: float, repeats: int) -> Measurement:
    """A conversation that grows; its first turn is read beforehand, the later ones are timed together."""
    ours, plain = Ours(folder, place, lane), Plain(folder, place, Lane(lane.dtype))
    whole = random_tokens(TURN_LENGTHS[-1], SEED)
    first, *later = [whole[:length] for length in TURN_LENGTHS]
    name = f"conversation growing to {len(whole)} tokens, turns 2 to {len(TURN_LENGTHS)} together, {lane.label}"
    return compare(
        Measurement(name, f"transformers, {lane.dtype}", len(whole) - len(first), target, lane, passes=len(later)),
        lambda: ours.read_turns(first, later),
        lambda: timed(lambda: [plain.read(turn) for turn in later]),
        repeats,
    )


def many_at_once(folder: Path, place: Place, repeats: int) -> Measurement:
    """Transcripts of mixed length in one call against one call for each, nothing remembered."""
    ours = Ours(folder, place, Lane("bfloat16"))
    lengths = [random.Random(SEED + index).randint(*BATCH_LENGTHS) for index in range(BATCH_SIZE)]
    batch = [random_tokens(length, index) for index, length in enumerate(lengths)]
    shortest, longest = BATCH_LENGTHS
    name = f"{BATCH_SIZE} transcripts of {shortest} to {longest} tokens at once, bfloat16"
    return compare(
        Measurement(name, "our own, one by one", sum(lengths), 1.6, BFLOAT16, passes=ours.passes(batch)),
        lambda: timed(lambda: ours.read_many(batch)),
        lambda: timed(lambda: [ours.read(tokens) for tokens in batch]),
        repeats,
    )


FLOAT32, BFLOAT16, INT8 = Lane("float32"), Lane("bfloat16"), Lane("bfloat16", 8)
COMPARISONS: dict[str, Callable[[Path, Place, int], Measurement]] = {
    "prompt-float32": lambda folder, place, repeats: prompt(folder, place, FLOAT32, 30, 2.2, repeats),
    "prompt-bfloat16": lambda folder, place, repeats: prompt(folder, place, BFLOAT16, 30, 1.8, repeats),
    "long-bfloat16": lambda folder, place, repeats: prompt(folder, place, BFLOAT16, 1000, 1.6, repeats),
    "prompt-int8": lambda folder, place, repeats: prompt(folder, place, INT8, 30, 2.8, repeats),
    "int8-128": lambda folder, place, repeats: quantised(folder, place, 128, 1.6, repeats),
    "conversation-bfloat16": lambda folder, place, repeats: conversation(folder, place, BFLOAT16, 5.5, repeats),
    "conversation-int8": lambda folder, place, repeats: conversation(folder, place, INT8, 7.0, repeats),
    "batch": many_at_once,
}


def limits(place: Place) -> dict[str, float]:
    """What the machine itself can do: products in GFLOP/s, and reading memory in GB/s; the best of a few tries."""
    words = 1 << 26
    found = {f"{name} GFLOP/s": product_speed(square) for name, square in products(place).items()}
    memory = torch.ones(words, device=place.plain)
    found["memory GB/s"] = 4 * words / min(timed(lambda: memory.sum().item()) for _ in range(5)) / 1e9
    return {name: round(value, 1) for name, value in found.items()}


def products(place: Place) -> dict[str, Callable[[], Tensor]]:
    """A product of two squares in each number type that torch multiplies there, 8 bits with a packed one."""
    squares = {name: square(getattr(torch, name), place.plain) for name in ("float32", "bfloat16")}
    found: dict[str, Callable[[], Tensor]] = {name: partial(torch.matmul, own, own) for name, own in squares.items()}
    try:
        found["int8"] = packed_int8_product(square(torch.int8, place.plain))
    except (AttributeError, RuntimeError):
        progress.print("no products of packed 8-bit matrices here")
    return found


def square(dtype: torch.dtype, device: torch.device) -> Tensor:
    """A square of ones."""
    return torch.ones(SQUARE, SQUARE, dtype=dtype, device=device)


def packed_int8_product(ones: Tensor) -> Callable[[], Tensor]:
    """The product of int8 ``ones`` with themselves by oneDNN, the second packed beforehand; tried once."""
    packed = torch.ops.onednn.qlinear_prepack(ones, None)
    scales, zeros = torch.ones(SQUARE), torch.zeros(SQUARE, dtype=torch.int32)
    operands = (ones, 1.0, 0, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "")
    product: Callable[[], Tensor] = partial(torch.ops.onednn.qlinear_pointwise, *operands)
    product()
    return product


def product_speed(product: Callable[[], Tensor]) -> float:
    """GFLOP/s of a product of two squares."""
    return 2 * SQUARE**3 / min(timed(lambda: product()[0, 0].item()) for _ in range(5)) / 1e9


def limit_seconds(item: Measurement, machine: dict[str, float]) -> dict[str, float]:
    """The least time of our side: of its products, of reading the matrices, and the longer, since both may overlap."""
    speed = machine.get(f"{item.lane.label} GFLOP/s", machine["bfloat16 GFLOP/s"])
    multiplying = 2 * MATRIX_ENTRIES * item.tokens / speed / 1e9
    reading = MATRIX_ENTRIES * item.lane.entry_bytes * item.passes / machine["memory GB/s"] / 1e9
    return {"multiplying": multiplying, "reading": reading, "limit": max(multiplying, reading)}


def relative_difference(found: Sequence[float], expected: Sequence[float]) -> float:
    """Between two rows of logits, relative to the largest one: both sides must be doing the same work."""
    ours, other = np.array(found), np.array(expected)
    return float(np.abs(ours - other).max() / np.abs(other).max())


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


def figures_table(measurements: Sequence[Measurement], machine: dict[str, float]) -> Table:
    """The comparisons, readable."""
    table = Table(title="Routing at the size of Qwen3-0.6B")
    texts, numbers = ("what", "compared with"), ("ours", "other", "times as fast", "at least")
    for heading in (*texts, *numbers, "multiplying", "reading", "limit", "share of it", "logits differ by"):
        table.add_column(heading, justify="left" if heading in texts else "right")
    for item in measurements:
        ratio, least = median(item.ratios), limit_seconds(item, machine)
        style = "green" if ratio >= item.target else "red"
        table.add_row(
            item.name,
            item.compared_with,
            milliseconds(item.ours),
            milliseconds(item.other),
            f"[{style}]{ratio:.2f}[/]",
            f"{item.target:.1f}",
            *(f"{seconds * 1000:.0f} ms" for seconds in least.values()),
            f"{least['limit'] / median(item.ours):.0%}",
            "" if item.logit_difference is None else f"{item.logit_difference:.2g}",
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
    clocks = "wall time, or processor time of this process, which other programs disturb less (default wall)"
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help=clocks)
    parser.add_argument("--profile", default="cpu", metavar="NAME", help="where both sides run (default cpu)")
    every = ", ".join([*COMPARISONS, "cold"])
    parser.add_argument("--only", metavar="A,B", type=measurement_names, help=f"some of: {every}")
    parser.add_argument("--base", type=Path, metavar="DIR", help="keep the base there, and reuse it if it is there")
    return parser.parse_args(arguments)


def measurement_names(text: str) -> list[str]:
    """Names of measurements from the command line."""
    names = text.split(",")
    unknown = [name for name in names if name not in (*COMPARISONS, "cold")]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join([*COMPARISONS, 'cold'])}")
    return names


def at_least_one(text: str) -> int:
    """A count from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    global chosen_clock
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    chosen_clock = options.clock
    described, place = machine(), Place.of(options.profile)
    names = options.only or [*COMPARISONS, "cold"]
    starts = cold_starts(options.repeats) if "cold" in names else {}
    with base_folder(options.base) as folder:
        chosen = [COMPARISONS[name] for name in names if name != "cold"]
        found = [comparison(folder, place, options.repeats) for comparison in chosen]
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": described,
        "limits": (able := limits(place)),
        "versions": describe_software() | {"transformers": version("transformers")},
        "settings": {
            "profile": options.profile,
            "device": place.device,
            "clock": options.clock,
            "threads": torch.get_num_threads(),
            "repeats": options.repeats,
            "seed": SEED,
        },
        "comparisons_seconds": [item.summary() | limit_seconds(item, able) for item in found],
        "whole_processes_seconds": starts,
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(figures_table(found, able))
    if starts:
        console.print(cold_table(starts))
    console.print(f"{described['processor']}, {described['cores']} cores; {report['settings']}; {report['limits']}")


if __name__ == "__main__":
    main()

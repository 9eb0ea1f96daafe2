"""``trinity-mlx parity``: proof that two systems compute the same, stage by stage or on one transcript."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...contracts.errors import OutputExists, UsageError
from .. import settings
from ..artifact_choice import choose_artifact
from ..inputs import read_messages, read_prompt
from ..options import (
    PLACE,
    TEXT,
    artifact_option,
    base_option,
    json_option,
    messages_option,
    profile_option,
    required_base_option,
)
from ..output import print_json
from ..progress import bars

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...parity.progress import Progress
    from ...parity.record import Task


@click.group()
def parity() -> None:
    """Prove that two systems compute the same.

    `reference` decomposes the base's tensors and writes every stage of the adaptation; `run` writes the same stages as
    a profile of this system computes them; `compare` compares the two; `trace` follows one transcript through two
    profiles.

    \b
    Example:
      trinity-mlx parity reference --base Qwen/Qwen3-0.6B --vector vector.npy --all --out reference
      trinity-mlx parity run --base Qwen/Qwen3-0.6B --vector vector.npy --all --components reference --out here
      trinity-mlx parity compare reference here
    """


def _subject_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what ``reference`` and ``run`` have in common; they take it as ``SubjectOptions``."""
    for option in (
        json_option,
        click.option("--force", is_flag=True, help="Replace the stage bundle at --out."),
        click.option("--out", required=True, type=PLACE, metavar="DIR", help="Folder of the stage bundle."),
        click.option("--all", "whole", is_flag=True, help="Every tensor that the vector adapts."),
        click.option(
            "--source", type=TEXT, metavar="REGEX", help="The tensors that the vector adapts whose names match."
        ),
        click.option(
            "--source-stage",
            type=PLACE,
            metavar="FILE",
            help="Take sources from the stages in a file, or in a report.",
        ),
        click.option(
            "--tensor", type=TEXT, metavar="NAME", help="One tensor, as model.layers.26.mlp.gate_proj.weight."
        ),
        click.option("--vector", required=True, type=PLACE, metavar="FILE", help="Trained vector: .safetensors, .npy."),
        required_base_option,
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class SubjectOptions:
    """What the user said: which tensors of which base, adapted by which vector, and where their stages go."""

    base: str
    vector: Path
    tensor: str | None
    source: str | None
    source_stage: Path | None
    whole: bool
    out: Path
    force: bool
    as_json: bool


@parity.command()
@_subject_options
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--svd-weights", type=PLACE, metavar="FILE", help="Take U, S and V from an svd_weights.pt.")
@click.option("--decompose-all", is_flag=True, help="Decompose several whole tensors, however long that takes.")
def reference(dtype: str, svd_weights: Path | None, decompose_all: bool, **options: Any) -> None:
    """Decompose tensors as the published pipeline does, and write components and stages.

    torch.linalg.svd on the CPU, or numpy's if torch is not installed; a whole tensor and several arrays of its size
    are held meanwhile, so more than one tensor needs --decompose-all. With --svd-weights nothing is decomposed. The
    folder's components are what `parity run --components` starts from. Compare a run without --components with a
    reference in float64: two decompositions in float32 differ by more than the stages' limits.

    \b
    Example:
      trinity-mlx parity reference --base base --vector vector.npy --tensor lm_head.weight --out reference
    """
    from ...parity.components import SavedComponents
    from ...parity.record import record_reference

    asked = SubjectOptions(**options)
    _refuse_occupied(asked.out, asked.force)
    with _progress() as progress:
        task = _task(asked, progress)
        if svd_weights is None and len(task.subjects) > 1 and not decompose_all:
            _refuse_long_work(task)
        saved = SavedComponents(svd_weights) if svd_weights else None
        report = record_reference(task, asked.out, dtype, saved, progress)
    _print_report(report, asked.out, asked.as_json)


@parity.command()
@_subject_options
@click.option("--components", type=PLACE, metavar="DIR", help="A reference's folder: start from its U, S and V.")
@profile_option
def run(components: Path | None, profile: str, **options: Any) -> None:
    """Write every stage as this system computes it on a profile.

    From a reference's components, or without --components from Gram matrices, as an export does. All products run on
    the profile's device in float32, whatever the profile's number type.

    \b
    Example:
      trinity-mlx parity run --base base --vector vector.npy --all --components reference --profile mlx --out here
    """
    from ...parity.record import record_run
    from ...profiles.backends import load_backend
    from ...profiles.registry import ProfileRegistry

    asked = SubjectOptions(**options)
    _refuse_occupied(asked.out, asked.force)
    chosen, device = ProfileRegistry(settings.config_dir()).resolve(profile)
    with _progress() as progress:
        task = _task(asked, progress)
        backend = load_backend(chosen.backend)
        report = record_run(task, asked.out, backend, device, chosen.name, components, progress)
    _print_report(report, asked.out, asked.as_json)


@parity.command()
@click.argument("reference", type=PLACE)
@click.argument("candidate", type=PLACE)
@click.option("--source", type=TEXT, metavar="REGEX", help="Compare only the tensors whose names match.")
@click.option("--strict-bytes", is_flag=True, help="Also fail if the stored bfloat16 bytes differ.")
@json_option
@click.pass_context
def compare(
    ctx: click.Context, reference: Path, candidate: Path, source: str | None, strict_bytes: bool, as_json: bool
) -> None:
    """Compare the stages of CANDIDATE with those of REFERENCE.

    Each is the folder of a stage bundle, or what another system wrote: a safetensors file of stages, or the JSON report
    that names it. Exits with 1 if a required stage is beyond its limits, and with 2 if one is missing.

    \b
    Example:
      trinity-mlx parity compare reference here --json > comparison.json
    """
    from ...parity.compare import compare as compare_stages
    from ...parity.compare import matching, open_stages, volume

    sides = open_stages(reference), open_stages(candidate)
    if source is not None:
        sides = matching(sides[0], source), matching(sides[1], source)
    with _progress() as progress:
        progress.begin("comparing", volume(*sides))
        comparison = compare_stages(*sides, strict_bytes=strict_bytes, advance=progress.advance)
    if as_json:
        print_json(comparison.to_dict())
    else:
        from ..views.parity_tables import print_comparison

        print_comparison(comparison)
    if not comparison.passed:
        ctx.exit(1)


@parity.command()
@click.argument("prompt", required=False)
@messages_option
@click.option("--a", "first", required=True, metavar="PROFILE", help="One profile.")
@click.option("--b", "second", required=True, metavar="PROFILE", help="The other.")
@artifact_option
@base_option
@json_option
@click.pass_context
def trace(
    ctx: click.Context,
    prompt: str | None,
    messages: str | None,
    first: str,
    second: str,
    artifact: str,
    base: str | None,
    as_json: bool,
) -> None:
    """Follow one transcript through two profiles.

    Exits with 1 if tokens, head or choice differ, or if hidden vectors or logits are further apart than different
    kernels and number types explain.

    \b
    Example:
      trinity-mlx parity trace "What is 17 + 25?" --a mlx --b cpu
    """
    from ...parity.routes import Tracer

    if (prompt is None) == (messages is None):
        raise UsageError("give a prompt or --messages FILE, one of the two")
    transcript = read_messages(messages) if messages else read_prompt(prompt or "")
    choice = choose_artifact(artifact, base, first)
    with _progress() as progress:
        progress.begin(f"tracing on {first} and {second}", None)
        tracer = Tracer.open(
            choice.artifact,
            choice.base,
            config_dir=settings.config_dir(),
            hash_memory=settings.hash_memory(),
            hub=settings.hub,
        )
        comparison = tracer.compare(transcript, first, second)
    if as_json:
        print_json(comparison.to_dict())
    else:
        from ..views.parity_tables import print_routes

        print_routes(comparison)
    if not comparison.passed:
        ctx.exit(1)


def _refuse_occupied(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: give a folder")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise OutputExists(f"{out} is not empty")


def _refuse_long_work(task: Task) -> None:
    from ...parity.record import decomposition_cost

    flops, nbytes = decomposition_cost(task)
    raise UsageError(
        f"{len(task.subjects)} whole tensors would be decomposed: {flops / 1e9:,.1f} GFLOP and {nbytes / 1e9:.1f} GB; "
        "give --svd-weights FILE if they were saved, or say --decompose-all"
    )


def _task(asked: SubjectOptions, progress: Progress) -> Task:
    from ...artifacts.base import open_base
    from ...artifacts.vector import read_vector
    from ...files.hashing import FileHashes
    from ...parity.record import plan

    if sum((asked.tensor is not None, asked.source is not None, asked.whole)) != 1:
        raise UsageError("give --tensor NAME, --source REGEX or --all, one of the three")
    progress.begin("checking the base", None)
    vector = read_vector(asked.vector)
    base = open_base(asked.base, hashes=FileHashes(settings.hash_memory()), hub=settings.hub)
    return plan(base, vector.values, vector.sha256, asked.tensor, asked.source, asked.source_stage)


def _print_report(report: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    from ..views.parity_tables import print_report

    print_report(report, out)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar for each piece of work on the error stream, where that is a terminal."""
    from ...parity.progress import SILENCE

    if not sys.stderr.isatty():
        yield SILENCE
        return
    with bars() as shown:
        yield _Bar(shown)


class _Bar:
    """One bar at a time; work of unknown length moves to and fro."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._task: Any = None

    def begin(self, what: str, total: int | None) -> None:
        """Take the last bar away and show a new one."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(what, total=total)

    def advance(self, numbers: int) -> None:
        """Move it on."""
        self._bars.advance(self._task, numbers)

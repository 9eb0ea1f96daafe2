"""``trinity-mlx train``: from a table of recorded answers to a sealed bundle."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...contracts.artifact import ReadPosition
from ...contracts.errors import UsageError
from ...contracts.text_format import TextFormat
from ..options import NAME, PLACE, TEXT, FiniteRange, json_option, profile_option, whole_numbers
from ..output import note, print_json
from ..training_base import agents_of, choose_base

if TYPE_CHECKING:
    from ...training.pipeline import Trained, TrainingRequest, Watch
    from ...training.trainer import Generation


@click.command()
@click.argument("table", type=PLACE)
@click.option("--agents", type=TEXT, metavar="A,B,...", help="The agents, in the order of their slots.  [default: all]")
@click.option("--base", type=NAME, default="nano", show_default=True, help="nano, a folder, or OWNER/NAME[@REVISION].")
@click.option("--out", required=True, type=PLACE, help="Folder of the new bundle.")
@click.option("--algorithm", default="staged", show_default=True, help="The algorithm; an unknown name lists them.")
@click.option("--head", default="linear", show_default=True, help="Kind of head; an unknown name lists them.")
@click.option("--rank", type=int, default=20, show_default=True, help="Rank of a low-rank head.")
@click.option("--roles", type=click.Choice(["table", "pattern", "keep", "neutral"]), help="Where role rows come from.")
@click.option(
    "--keep-roles-of", type=TEXT, metavar="ARTIFACT", help="With --roles keep: the router whose role rows are kept."
)
@click.option("--no-offsets", is_flag=True, help="Train the head alone.")
@click.option(
    "--embedding-offsets",
    is_flag=True,
    help="Train the embedding's offsets too: slow, since candidates then share nothing.",
)
@click.option("--layers", type=TEXT, metavar="I,J,...", help="Adapted decoder layers.  [default: the second-to-last]")
@click.option("--iterations", type=int, help="Generations of a search.")
@click.option("--population", type=int, help="Candidates of a generation.")
@click.option("--step", type=FiniteRange(0), help="First step size of a search.")
@click.option("--rows", type=int, help="Train rows that each generation of a search sees.  [default: all]")
@click.option("--cost-weight", type=FiniteRange(0), default=0.0, help="Score that one unit of cost is worth.")
@click.option("--seconds-weight", type=FiniteRange(0), default=0.0, help="Score that one second is worth.")
@click.option("--turns-weight", type=FiniteRange(0), default=0.0, help="Score that one turn is worth.")
@click.option("--entropy-floor", type=FiniteRange(0), default=0.0, help="Least entropy of the agents' shares, in nats.")
@click.option(
    "--keep-agents",
    type=click.IntRange(min=1),
    metavar="K",
    help="Let each generation choose among K agents at random.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of everything that is drawn at random.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    help="Generations without a gain after which a stage ends.",
)
@click.option(
    "--max-seconds", type=FiniteRange(0), help="Stop training after this many seconds, and seal the best so far."
)
@click.option(
    "--window",
    type=TEXT,
    metavar="HEAD,TAIL",
    help="Tokens read of a long transcript, or none.  [default: all that fit]",
)
@click.option(
    "--read-position",
    type=click.Choice(["second-to-last", "last"]),
    default="second-to-last",
    show_default=True,
    help="The token whose hidden vector is used.",
)
@click.option(
    "--text-format",
    type=click.Choice([str(each) for each in TextFormat]),
    default=str(TextFormat.ROLE_LINES),
    show_default=True,
    help="The text that the router reads.",
)
@profile_option
@click.option("--resume", is_flag=True, help="Go on with a training that was interrupted.")
@click.option("--force", is_flag=True, help="Replace what is at --out.")
@click.option("--tensorboard", type=PLACE, metavar="FOLDER", help="Write the curves for TensorBoard.")
@json_option
def train(table: Path, **options: Any) -> None:
    """Train a router for your own agents on TABLE, and seal it with its report.

    Each stage is kept only where the validation split says that it helps; the result is measured once on test, against
    the best single agent and all baselines. `route`, `certify`, `run` and `publish` take the bundle at once.

    \b
    Examples:
      trinity-mlx train answers.jsonl --agents gpt-5,claude-sonnet,local --out router
      trinity-mlx train answers.jsonl --base Qwen/Qwen3-0.6B --out router --resume
    """
    from ...training.pipeline import train as run_training

    request = _request(table, options)
    with _watching(options["tensorboard"]) as watch:
        trained = run_training(request, watch)
    _print(trained, request, options["as_json"])


def _request(table: Path, options: dict[str, Any]) -> TrainingRequest:
    from ...artifacts.catalog import find_bundle
    from ...training.answers import Answers
    from ...training.pipeline import TrainingRequest
    from ...training.roles import RoleSource
    from ...training.table import read_table

    rows = read_table(table)
    choice = choose_base(options["base"], options["profile"], options["window"], options["text_format"])
    kept = options["keep_roles_of"]
    if (options["roles"] == "keep") != (kept is not None):
        raise UsageError("--roles keep and --keep-roles-of go together")
    return TrainingRequest(
        answers=Answers.of(rows, agents_of(rows, options["agents"])),
        reading=replace(choice.reading, position=ReadPosition(options["read_position"])),
        identity=choice.identity,
        engine=choice.engine,
        settings=_settings(options),
        out=options["out"],
        roles=RoleSource(options["roles"]) if options["roles"] else None,
        keep_roles_of=find_bundle(kept) if kept else None,
        max_seconds=options["max_seconds"],
        resume=options["resume"],
        force=options["force"],
    )


def _settings(options: dict[str, Any]) -> Any:
    from ...training.objective import Objective
    from ...training.settings import Settings

    objective = Objective(
        cost=options["cost_weight"],
        seconds=options["seconds_weight"],
        turns=options["turns_weight"],
        entropy_floor=options["entropy_floor"],
        keep=options["keep_agents"],
    )
    same = ("algorithm", "head", "rank", "iterations", "population", "step", "rows", "seed", "patience")
    return Settings(
        **{name: options[name] for name in same},
        offsets=not options["no_offsets"],
        embedding=options["embedding_offsets"],
        layers=whole_numbers(options["layers"], "--layers", "layer numbers", "25,26"),
        objective=objective,
    )


@contextmanager
def _watching(folder: Path | None) -> Iterator[Watch]:
    """Generations as lines on the error stream (one in place where that is a terminal), and for TensorBoard."""
    from ...training.pipeline import Watch

    writer = _tensorboard(folder) if folder else None
    count = 0

    def show(generation: Generation) -> None:
        nonlocal count
        count += 1
        left = generation.seconds * (generation.of - generation.number)
        text = (
            f"{generation.stage} {generation.number}/{generation.of}: val {generation.val:.4f}, "
            f"best {generation.best:.4f}, {generation.seconds:.2f} s each, {left:.0f} s left in this stage"
        )
        click.echo(f"\r\x1b[K{text}" if sys.stderr.isatty() else text, err=True, nl=not sys.stderr.isatty())
        if writer:
            for name in ("train", "val", "best"):
                writer.add_scalar(f"{generation.stage}/{name}", getattr(generation, name), count)

    yield Watch(generation=show)
    if sys.stderr.isatty():
        click.echo("", err=True)
    if writer:
        writer.close()


def _tensorboard(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter  # type: ignore[import-untyped]
    except ImportError:
        raise UsageError("--tensorboard takes the extra: pip install 'trinity-mlx[tensorboard]'") from None
    return SummaryWriter(str(folder))


def _print(trained: Trained, request: TrainingRequest, as_json: bool) -> None:
    bundle, summary = trained.bundle, trained.summary
    if as_json:
        print_json({"folder": str(bundle.folder), "adapter_ref": bundle.adapter.ref, **summary.to_dict()})
        return
    click.echo(summary.verdict())
    click.echo(f"stages kept: {', '.join(summary.kept) or 'none; the router always chooses the best single agent'}")
    click.echo(f"{bundle.name}: {bundle.folder}, with report.html and its card")
    base = [] if request.identity.carried else ["--base", str(request.reading.base.folder)]
    command = shlex.join(["trinity-mlx", "route", "--artifact", str(bundle.folder), *base, "..."])
    note(f"use it: {command}")

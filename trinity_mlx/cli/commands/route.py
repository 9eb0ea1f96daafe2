"""``trinity-mlx route``: one transcript, or a file of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...contracts.errors import UsageError
from ...contracts.routing import RouteDecision, Selection, SelectionMode, Window
from .. import settings
from ..artifact_choice import recipe_for
from ..inputs import read_messages, read_prompt
from ..options import (
    NAME,
    PLACE,
    TEXT,
    artifact_option,
    base_option,
    dtype_option,
    messages_option,
    profile_option,
    whole_numbers,
    window_option,
)
from ..output import print_json
from ..progress import spinner

if TYPE_CHECKING:
    from ...evaluation.results import Floors
    from ...routing.router import Router


@click.command()
@click.argument("prompt", required=False)
@messages_option
@click.option(
    "--batch", type=NAME, metavar="FILE.jsonl", help="Many transcripts, one a line; one result a line, in order."
)
@click.option("--out", type=PLACE, metavar="FILE.jsonl", help="With --batch: write JSON records into this file.")
@click.option("--resume", is_flag=True, help="Go on with what is in --out already.")
@click.option("--force", is_flag=True, help="Replace what is in --out.")
@click.option(
    "--devices", type=TEXT, metavar="NAME,NAME,...", help="With --batch: share it among devices, as cuda:0,cuda:1."
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="With --batch: this machine, or a Ray cluster.",
)
@click.option(
    "--ray-address",
    type=NAME,
    metavar="HOST:PORT",
    default="auto",
    show_default=True,
    envvar="RAY_ADDRESS",
    help="Address of the cluster; auto is the one that runs here.",
)
@profile_option
@artifact_option
@base_option
@dtype_option
@window_option
@click.option(
    "--selection",
    type=TEXT,
    default="argmax",
    show_default=True,
    help=f"{', '.join(SelectionMode)}; for one split alone: agent=sample,role=argmax.",
)
@click.option("--temperature", default=1.0, show_default=True, help="Divides the logits before the softmax.")
@click.option("--seed", type=int, help="Seed for `sample`; without it a fresh seed is drawn and reported.")
@click.option("--allow-slots", type=TEXT, metavar="N,N,...", help="Choose among these agent slots only.")
@click.option("--show-logits", is_flag=True, help="Add the logits of both splits.")
@click.option("--explain", is_flag=True, help="Draw the logits, margins and floors.")
@click.option("--json", "as_json", is_flag=True, help="JSON for programs; with --batch one object a line.")
def route(
    prompt: str | None,
    messages: str | None,
    batch: str | None,
    out: Path | None,
    resume: bool,
    force: bool,
    devices: str | None,
    engine: str,
    ray_address: str,
    profile: str,
    artifact: str,
    base: str | None,
    dtype: Any,
    window: str | None,
    selection: str,
    temperature: float,
    seed: int | None,
    allow_slots: str | None,
    show_logits: bool,
    explain: bool,
    as_json: bool,
) -> None:
    """Say which agent slot speaks next, and in which role.

    The input is PROMPT (`-` reads it from standard input), --messages or --batch. In a batch, a line that cannot be
    routed gives an error record in its place, and the rest goes on. What --out holds depends on the input alone: a
    batch that was broken off goes on with --resume, and ends with the same file.

    \b
    Examples:
      trinity-mlx route "What is 17 + 25? Answer briefly."
      trinity-mlx route --messages conversation.json --explain
      trinity-mlx route --batch prompts.jsonl --json > routes.jsonl
      trinity-mlx route --batch prompts.jsonl --out routes.jsonl --resume
    """
    _check_one_input(prompt, messages, batch)
    _check_batch_options({"--out": out, "--devices": devices, "--engine": engine == "ray"}, batch, resume, force)
    how = Selection.parse(selection, temperature, seed)
    slots = whole_numbers(allow_slots, "--allow-slots", "slot numbers", "0,2,5")
    part = None if window is None else Window.parse(window)
    recipe = partial(recipe_for, artifact, base, profile, dtype=dtype, window=part)
    if batch:
        from ...batches.records import Question
        from ..batch import Destination, Staff, route_batch

        staff = Staff.of(devices, ray_address if engine == "ray" else None)
        to = Destination(out, resume, force, as_json)
        route_batch(batch, recipe, staff, Question(how, slots, timings=not out), to)
        return
    transcript = read_messages(messages) if messages else read_prompt(prompt or "")
    chosen = recipe()
    with spinner(f"loading {artifact}"):
        router = chosen.load()
    with router:
        _show(router.route(transcript, selection=how, allow_slots=slots), router, as_json, show_logits, explain)


def _check_one_input(prompt: str | None, messages: str | None, batch: str | None) -> None:
    given = [name for name, value in (("PROMPT", prompt), ("--messages", messages), ("--batch", batch)) if value]
    if prompt == "" and not given:
        return
    if len(given) != 1:
        what = f"{' and '.join(given)} exclude each other" if given else "nothing to route"
        raise UsageError(f'{what}: give a prompt, --messages FILE or --batch FILE, as in: trinity-mlx route "..."')


def _check_batch_options(given: Mapping[str, object], batch: str | None, resume: bool, force: bool) -> None:
    if not batch and (names := [name for name, value in given.items() if value]):
        raise UsageError(f"{names[0]} is about many transcripts: give --batch FILE as well")
    if (resume or force) and not given["--out"]:
        raise UsageError(f"{'--resume' if resume else '--force'} is about the file of a batch: give --out FILE as well")
    if resume and force:
        raise UsageError("--resume and --force exclude each other: go on with what is there, or replace it")


def _show(decision: RouteDecision, router: Router, as_json: bool, show_logits: bool, explain: bool) -> None:
    if as_json:
        receipt = router.identity.receipt if explain else None
        print_json(decision.to_dict() | ({"receipt": receipt.recorded} if receipt else {}))
        return
    from ..views.explain import print_decision, print_logits, print_picture

    print_decision(decision, router.identity)
    if explain:
        print_picture(decision, router.identity, _floors(router))
    elif show_logits:
        print_logits(decision, router.identity)


def _floors(router: Router) -> Floors:
    """The margins that the router's lane asks for."""
    from ...evaluation.standards import floors_for, lane_for

    lane, _ = lane_for(router, settings.config_dir())
    return floors_for(router, lane, settings.config_dir())

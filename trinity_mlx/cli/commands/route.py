"""``trinity-mlx route``: one transcript, or a file of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from ...contracts.errors import TrinityError, UsageError
from ...contracts.routing import RouteDecision, Selection, SelectionMode, Window
from .. import settings
from ..artifact_choice import choose_artifact
from ..batch import BatchLine, read_batch
from ..inputs import open_input, read_messages, read_prompt
from ..options import (
    NAME,
    TEXT,
    artifact_option,
    base_option,
    dtype_option,
    messages_option,
    parse_window,
    profile_option,
    window_option,
)
from ..output import note, print_json, print_json_line
from ..process import one_line
from ..progress import counter, spinner

if TYPE_CHECKING:
    from ...evaluation.results import Floors
    from ...routing.router import Router

_WINDOW = 256
"""Lines of a batch that are routed together at most."""


@click.command()
@click.argument("prompt", required=False)
@messages_option
@click.option(
    "--batch", type=NAME, metavar="FILE.jsonl", help="Many transcripts, one a line; one result a line, in order."
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
@click.option("--seed", type=int, help="Fixes what `sample` draws; without it a fresh seed is drawn and reported.")
@click.option("--allow-slots", type=TEXT, metavar="N,N,...", help="Choose among these agent slots only.")
@click.option("--show-logits", is_flag=True, help="Add the logits of both splits.")
@click.option("--explain", is_flag=True, help="Draw the logits, margins and floors.")
@click.option("--json", "as_json", is_flag=True, help="JSON for programs; with --batch one object a line.")
def route(
    prompt: str | None,
    messages: str | None,
    batch: str | None,
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
    routed gives an error record in its place, and the rest goes on.

    \b
    Examples:
      trinity-mlx route "What is 17 + 25? Answer briefly."
      trinity-mlx route --messages conversation.json --explain
      trinity-mlx route --batch prompts.jsonl --json > routes.jsonl
    """
    _check_one_input(prompt, messages, batch)
    how = Selection.parse(selection, temperature, seed)
    slots = _parse_slots(allow_slots)
    if batch:
        _route_batch(batch, partial(_load, artifact, base, profile, dtype, parse_window(window)), how, slots, as_json)
        return
    transcript = read_messages(messages) if messages else read_prompt(prompt or "")
    with _load(artifact, base, profile, dtype, parse_window(window)) as router:
        _show(router.route(transcript, selection=how, allow_slots=slots), router, as_json, show_logits, explain)


def _check_one_input(prompt: str | None, messages: str | None, batch: str | None) -> None:
    given = [name for name, value in (("PROMPT", prompt), ("--messages", messages), ("--batch", batch)) if value]
    if prompt == "" and not given:
        return
    if len(given) != 1:
        what = f"{' and '.join(given)} exclude each other" if given else "nothing to route"
        raise UsageError(f'{what}: give a prompt, --messages FILE or --batch FILE, as in: trinity-mlx route "..."')


def _parse_slots(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--allow-slots is {text!r}: give slot numbers with commas, as in --allow-slots 0,2,5"
        ) from None


def _load(artifact: str, base: str | None, profile: str, dtype: Any, window: Window | None) -> Router:
    from ...routing.loading import load_router

    choice = choose_artifact(artifact, base, profile)
    with spinner(f"loading {artifact}"):
        return load_router(
            choice.artifact,
            choice.base,
            profile,
            dtype,
            window=window,
            config_dir=settings.config_dir(),
            hash_memory=settings.hash_memory(),
        )


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


def _size_of(file: BinaryIO) -> int | None:
    """The length of a file, None for what is none."""
    try:
        return os.fstat(file.fileno()).st_size or None
    except (OSError, ValueError):
        return None


def _route_batch(
    name: str, load: Callable[[], Router], selection: Selection, slots: list[int] | None, as_json: bool
) -> None:
    failed = total = 0
    with open_input(name) as file, load() as router, counter("routing", _size_of(file)) as advance:
        for window in read_batch(file, name, _WINDOW):
            for line, result in _route_window(router, window, selection, slots):
                _print_line(line, result, as_json)
                failed += isinstance(result, TrinityError)
            total += len(window)
            advance(sum(line.nbytes for line in window))
    if failed:
        note(f"{failed} of {total} lines could not be routed; each has an error record in its place")


def _route_window(
    router: Router, window: list[BatchLine], selection: Selection, slots: list[int] | None
) -> Iterator[tuple[BatchLine, RouteDecision | TrinityError]]:
    good = [line.transcript for line in window if not isinstance(line.transcript, UsageError)]
    routed = iter(router.route_many(good, selection=selection, allow_slots=slots, errors="return"))
    for line in window:
        yield line, line.transcript if isinstance(line.transcript, UsageError) else next(routed)


def _print_line(line: BatchLine, result: RouteDecision | TrinityError, as_json: bool) -> None:
    if as_json:
        print_json_line({"line": line.number} | line.echo | _record(result))
    elif isinstance(result, TrinityError):
        click.echo(f"{one_line(line.name)}\terror\t{one_line(str(result))}")
    else:
        click.echo(
            f"{one_line(line.name)}\t{result.slot}\t{result.label}\t{result.role.label}\t{_number(result.margins.agent)}"
        )


def _record(result: RouteDecision | TrinityError) -> dict[str, Any]:
    if isinstance(result, TrinityError):
        return {"error": {"type": type(result).__name__, "message": str(result)}}
    return result.to_dict()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

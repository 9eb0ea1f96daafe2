"""``trinity-mlx export``: from a base and a trained vector to a bundle."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ...contracts.text_format import TextFormat
from .. import settings
from ..base_names import name_of_base
from ..options import PLACE, TEXT, json_option, profile_option, required_base_option, whole_numbers
from ..output import console, note, print_json
from ..progress import bars
from ..sizes import readable

if TYPE_CHECKING:
    from ...contracts.artifact import Bundle
    from ...export.plan import ExportPlan, TensorPlan
    from ...export.request import ExportEvent, ExportRequest, Progress


@click.command()
@required_base_option
@click.option("--vector", required=True, type=PLACE, help="Trained vector: .safetensors or .npy.")
@click.option("--out", required=True, type=PLACE, help="Folder of the new bundle.")
@click.option(
    "--base-id", type=TEXT, metavar="ID[@REVISION]", help="The bundle's name for a base that is given as a folder."
)
@profile_option
@click.option(
    "--method",
    type=click.Choice(["gram", "svd"]),
    default="gram",
    show_default=True,
    help="gram: eigenpairs of tiled sums; svd: the backend's own decomposition of whole tensors.",
)
@click.option("--strict", is_flag=True, help="Keep to --method svd even if the device has only the full decomposition.")
@click.option(
    "--write",
    type=click.Choice(["factored", "merged"]),
    default="factored",
    show_default=True,
    help="factored: one small factor for each tensor, applied when routing; merged: adapted tensors.",
)
@click.option(
    "--tied-embedding",
    type=click.Choice(["embed_tokens", "lm_head", "compound"]),
    default="embed_tokens",
    show_default=True,
    help="Whose offsets change an embedding that lm_head shares; compound: its own, then lm_head's.",
)
@click.option("--layers", type=TEXT, metavar="I,J,...", help="Adapted decoder layers.  [default: the second-to-last]")
@click.option("--only", type=TEXT, metavar="NAME", multiple=True, help="Adapt only this tensor; may be repeated.")
@click.option("--agents", type=TEXT, metavar="LABEL,...", help="Labels of the slots.  [default: the published seven]")
@click.option(
    "--text-format",
    type=click.Choice([str(each) for each in TextFormat]),
    default=str(TextFormat.ROLE_LINES),
    show_default=True,
    help="The text that the router was trained to read.",
)
@click.option(
    "--name", type=TEXT, help="The router's name.  [default: sakana for the published vector, else the folder's]"
)
@click.option("--resume", is_flag=True, help="Go on with an export that was interrupted.")
@click.option("--force", is_flag=True, help="Replace what is at --out.")
@click.option("--plan", "plan_only", is_flag=True, help="Say what it would cost, and do nothing.")
@json_option
def export(base: str, base_id: str | None, profile: str, plan_only: bool, as_json: bool, **options: Any) -> None:
    """Make a bundle from a base model and a trained vector.

    The vector holds one offset for each singular value of the adapted tensors (the embedding, seven matrices of each
    chosen layer, lm_head), then the head. Tensors are worked on tile by tile, so little memory is needed.
    --resume completes an export that was interrupted, in whatever way, with the same result.

    \b
    Examples:
      trinity-mlx export --base Qwen/Qwen3-0.6B --vector vector.safetensors --out router
      trinity-mlx export --base Qwen/Qwen3-0.6B --vector vector.npy --out router --plan
    """
    from ...export.pipeline import export as run_export
    from ...export.plan import plan_export, settled

    request = _request(base, base_id, profile, options)
    if settled(request) != request:
        note(
            f"{request.backend.info().backend_id} on {request.device} has only the full decomposition, which holds the "
            "square of the larger side: the method gram runs instead; --strict keeps to svd"
        )
    if plan_only:
        plan = plan_export(request)
        print_json(plan.to_dict()) if as_json else _print_plan(plan)
        return
    with _progress() as progress:
        bundle = run_export(request, progress)
    _print_bundle(bundle, request, as_json)


def _request(base: str, base_id: str | None, profile: str, options: dict[str, Any]) -> ExportRequest:
    from ...artifacts.base import open_base
    from ...export.request import ExportRequest, Method, TiedEmbedding, Write
    from ...files.hashing import FileHashes
    from ...profiles.backends import load_backend
    from ...profiles.registry import ProfileRegistry

    chosen, device = ProfileRegistry(settings.config_dir()).resolve(profile)
    model = open_base(base, hashes=FileHashes(settings.hash_memory()), hub=settings.hub)
    name, revision = name_of_base(model)
    if base_id:
        name, _, given = base_id.partition("@")
        revision = given or None
    return ExportRequest(
        base=model,
        base_id=name,
        base_revision=revision,
        backend=load_backend(chosen.backend),
        device=device,
        vector=options["vector"],
        out=options["out"],
        method=Method(options["method"]),
        write=Write(options["write"]),
        tied_embedding=TiedEmbedding(options["tied_embedding"]),
        layers=whole_numbers(options["layers"], "--layers", "layer numbers", "25,26"),
        only=options["only"] or None,
        agents=_labels(options["agents"]),
        text_format=TextFormat(options["text_format"]),
        name=options["name"],
        resume=options["resume"],
        force=options["force"],
        strict=options["strict"],
    )


def _labels(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(label.strip() for label in text.split(","))


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """A bar on the error stream that moves with the arithmetic done, where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with bars() as bar:
        task, finished = bar.add_task("exporting", total=None), 0

        def show(event: ExportEvent) -> None:
            nonlocal finished
            flops = event.fields.get("flops", 0)
            match event.kind:
                case "export_started":
                    bar.update(task, total=flops)
                case "tensor_started":
                    bar.update(task, description=str(event.fields["tensor"]))
                case "tile":
                    bar.advance(task, flops)
                case "tensor_finished" | "tensor_reused":
                    finished += flops
                    bar.update(task, completed=finished)

        yield show


def _print_bundle(bundle: Bundle, request: ExportRequest, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "name": bundle.name,
                "folder": str(bundle.folder),
                "adapter_ref": bundle.adapter.ref,
                "base": {"id": bundle.base_id, "revision": bundle.base_revision, "ref": bundle.base_ref},
                "tensors": len(bundle.adapter.entries),
                "agents": list(bundle.head.labels),
            }
        )
        return
    click.echo(f"{bundle.name}: {bundle.folder}, adapter {bundle.adapter.ref[:12]}")
    note(f'use it: trinity-mlx route --artifact {bundle.folder} --base {request.base.folder} "..."')


def _print_plan(plan: ExportPlan) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("tensor", no_wrap=True)
    for heading in ("shape", "GFLOP", "gram", "thin svd", "full svd"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("fits")
    for tensor in plan.tensors:
        table.add_row(*_plan_row(tensor))
    click.echo(f"method {plan.tensors[0].method}; memory that each way to decompose takes beyond the mapped source:\n")
    console().print(table)
    click.echo(
        f"\n{plan.flops / 1e9:,.0f} GFLOP, {readable(plan.available_bytes)} of memory available, "
        f"output {readable(plan.output_bytes)} of {readable(plan.free_disk_bytes)} free"
    )


def _plan_row(tensor: TensorPlan) -> list[str]:
    sizes = (tensor.peak.gram, tensor.peak.thin, tensor.peak.full)
    return [
        _short(tensor.name) + (f" (= {_short(tensor.shares)})" if tensor.shares else ""),
        "x".join(map(str, tensor.shape)),
        f"{tensor.flops.total / 1e9:,.0f}",
        *map(readable, sizes),
        "[green]yes[/]" if tensor.fits else "[red]no[/]",
    ]


def _short(name: str) -> str:
    return name.removeprefix("model.").removesuffix(".weight")

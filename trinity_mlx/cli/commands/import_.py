"""``trinity-mlx import``: what other programs made, as a bundle of our own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import settings
from ..options import PLACE, json_option, required_base_option
from ..output import console, print_json
from ..progress import spinner

if TYPE_CHECKING:
    from ...importing.importer import ImportReport


@click.command("import")
@click.argument("source", type=PLACE)
@required_base_option
@click.option("--out", required=True, type=PLACE, help="Folder of the new bundle.")
@click.option("--vector", type=PLACE, help="Trained vector (.safetensors, .npy) for a .pt SOURCE.")
@click.option("--force", is_flag=True, help="Replace the bundle at --out.")
@json_option
def import_(source: Path, base: str, out: Path, vector: Path | None, force: bool, as_json: bool) -> None:
    """Make a bundle of our own from what other programs made.

    SOURCE is a folder with the component export of the Python tools, svd_weights.pt (with --vector), or the folder of a
    published bundle. Components are applied exactly as they are given, once they have been checked against the base;
    finished tensors are copied. --out appears only when the bundle is complete.

    \b
    Examples:
      trinity-mlx import exported/ --base Qwen/Qwen3-0.6B --out router
      trinity-mlx import svd_weights.pt --vector vector.npy --base Qwen/Qwen3-0.6B --out router
    """
    from ...importing.importer import import_bundle
    from ...importing.request import ImportRequest

    request = ImportRequest(source, base, out, vector, force)
    with spinner("reading") as progress:
        report = import_bundle(request, progress, settings.hash_memory(), settings.hub)
    if as_json:
        print_json(_entry(report))
    else:
        _print(report, base)


def _entry(report: ImportReport) -> dict[str, Any]:
    return {
        "folder": str(report.folder),
        "name": report.name,
        "source": str(report.kind),
        "base_ref": report.base_ref,
        "adapter_ref": report.adapter_ref,
        "tensors": [
            {
                "source": tensor.source,
                "execution": str(tensor.execution),
                "zero_offset_error": tensor.fidelity.zero if tensor.fidelity else None,
                "adapted_error": tensor.fidelity.adapted if tensor.fidelity else None,
            }
            for tensor in report.tensors
        ],
    }


def _print(report: ImportReport, base: str) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("tensor", no_wrap=True)
    table.add_column("applied")
    for heading in ("off the base", "off the source"):
        table.add_column(heading, justify="right")
    for tensor in report.tensors:
        seen = tensor.fidelity
        errors = (f"{seen.zero:.1e}", f"{seen.adapted:.1e}") if seen else ("copied", "")
        table.add_row(tensor.source, str(tensor.execution), *errors)
    out = console()
    out.print(table)
    out.print(f"{report.folder}: {report.name}, adapter {report.adapter_ref[:12]}", markup=False)
    out.print(f'to use it: trinity-mlx route --artifact {report.folder} --base {base} "..."', style="dim", markup=False)

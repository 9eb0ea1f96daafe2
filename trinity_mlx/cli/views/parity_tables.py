"""Parity reports for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from ...contracts.routing import Role
from ...parity.routes import HIDDEN_BOUNDS, LOGITS_BOUNDS
from ..output import console, note

if TYPE_CHECKING:
    from ...parity.checks import Check, Comparison
    from ...parity.routes import Bounds, RouteComparison
    from ...rules.distance import Distance

_FEW = 12
_WIDE = 1000
_HINT = (
    "two decompositions are compared here, and the reference's is in float32, which is coarser than the limits: "
    "make it with --dtype float64, or start the run from its components (--components)"
)


def print_report(report: dict[str, Any], out: Path) -> None:
    """What a stage bundle holds, and what it was made from."""
    table = _table("tensor", "shape", "smallest gap", "final bf16", "seconds")
    for tensor in report["tensors"]:
        shape = " x ".join(map(str, tensor["shape"]))
        gap, digest = f"{tensor['smallest_gap']:.1e}", tensor["final_bf16_sha256"][:12]
        table.add_row(tensor["name"], shape, gap, digest, f"{tensor['seconds']:.1f}")
    components, arithmetic = report["components"], report["arithmetic"]
    show = _show(table)
    show.print(
        f"{out}: {report['kind']}, components {components['method']} ({components['dtype']}, "
        f"{components['sha256'][:12]}), stages by {arithmetic['engine']} on {arithmetic['device']} "
        f"in {arithmetic['dtype']}; {sum(filter(None, report['read_back'].values()))} blocks read back as they were",
        style="dim",
        markup=False,
    )


def print_comparison(found: Comparison) -> None:
    """Every stage of a few tensors, or of many the worst of each stage; then what failed and the verdict."""
    tensors = {check.tensor for check in found.checks}
    shown = found.checks if len(found.checks) <= _FEW else _worst(found)
    table = _table("", "stage", "tensor", "max", "limit", "mean", "limit", "bytes")
    for check in [*shown, *(check for check in found.failed if check not in shown)]:
        table.add_row(*_row(found, check))
    show = _show(table)
    if len(shown) < len(found.checks):
        show.print(f"the worst of {len(tensors)} tensors for each stage; --json lists all", style="dim")
    show.print(_verdict(found))
    if found.failed and found.components == "different" and found.reference_dtype == "float32":
        note(_HINT)


def print_routes(found: RouteComparison) -> None:
    """Both sides, their differences, and the verdict."""
    a, b = found.a, found.b
    table = _table("", "", *(f"{side.profile} ({side.device}, {side.dtype})" for side in (a, b)), "apart")
    _add_sameness(table, found, "token_ids", "tokens", *(str(len(side.token_ids)) for side in (a, b)))
    _add_sameness(table, found, "head", "head", *(side.head_sha256[:12] for side in (a, b)))
    _add_closeness(table, found, "hidden", found.hidden, HIDDEN_BOUNDS)
    _add_closeness(table, found, "logits", found.logits, LOGITS_BOUNDS)
    names = [f"slot {index}" for index in range(len(a.logits.agent))] + [role.label for role in Role]
    for name, *pair in zip(names, a.logits.agent + a.logits.role, b.logits.agent + b.logits.role, strict=True):
        table.add_row("", name, *(f"{value:+.6f}" for value in pair), f"{pair[1] - pair[0]:+.1e}")
    slots = (_chosen(side.choice.slot, side.choice.margins.agent) for side in (a, b))
    roles = (_chosen(side.choice.role.label, side.choice.margins.role) for side in (a, b))
    _add_sameness(table, found, "slot", "slot chosen", *slots)
    _add_sameness(table, found, "role", "role chosen", *roles)
    show = _show(table)
    failed = [name for name, holds in found.checks.items() if not holds]
    show.print(f"[bold red]FAILED[/]: {', '.join(failed)}" if failed else "[bold green]passed[/]")


def _add_sameness(table: Table, found: RouteComparison, check: str, name: str, a: str, b: str) -> None:
    holds = found.checks[check]
    table.add_row(_mark(holds), name, a, b, "equal" if holds else "DIFFERENT")


def _add_closeness(table: Table, found: RouteComparison, name: str, apart: Distance, bounds: Bounds) -> None:
    cosine = f"cosine {apart.cosine:.8f} (at least {bounds.min_cosine})"
    relative = f"relative difference {apart.relative_l2:.2e} (at most {bounds.max_relative})"
    table.add_row(_mark(found.checks[name]), name, "", "", f"{cosine}\n{relative}")


def _chosen(what: object, margin: float | None) -> str:
    return f"{what}" if margin is None else f"{what}, margin {margin:.3f}"


def _worst(found: Comparison) -> list[Check]:
    """For each stage the check that comes closest to its limits, or goes furthest beyond them."""
    worst: dict[str, Check] = {}
    for check in found.checks:
        so_far = worst.get(check.stage)
        if so_far is None or check.strain > so_far.strain:
            worst[check.stage] = check
    return list(worst.values())


def _row(found: Comparison, check: Check) -> list[str]:
    far, limits = check.difference, check.limits
    mark = "[red]FAIL[/]" if check in found.failed else "[green]ok[/]" if check.within_limits else "[yellow]--[/]"
    tensor = escape(check.tensor or "")
    if far is None:
        return [mark, escape(check.stage), tensor, check.obstacle, "", "", "", ""]
    turned = f" ({far.turned} columns turned)" if far.turned else ""
    bytes_ = "equal" if check.bytes_match else f"{far.differing} differ"
    stage = escape(check.stage) + ("" if limits.required else " (reported only)") + turned
    numbers = [f"{far.max_abs:.2e}", f"{limits.max_abs:.0e}", f"{far.mean_abs:.2e}", f"{limits.mean_abs:.0e}"]
    return [mark, stage, tensor, *numbers, bytes_]


def _verdict(found: Comparison) -> str:
    report = found.to_dict()
    counts = (
        f"{report['required'] - report['required_failed']} of {report['required']} required checks hold, "
        f"{report['components']} components; "
        f"final_bf16 equal byte for byte in {report['final_bf16_bytes_match']} of {report['final_bf16']}"
    )
    if found.published_met is not None:
        reference, candidate = (" and ".join(names) or "none" for names in found.published_met)
        counts += f"; published hashes met: reference {reference}, candidate {candidate}"
    return f"[bold green]passed[/]: {counts}" if found.passed else f"[bold red]FAILED[/]: {counts}"


def _mark(holds: bool) -> str:
    return "[green]ok[/]" if holds else "[red]FAIL[/]"


def _show(table: Table) -> Console:
    """Print ``table``: fitted to a terminal, and at its full width into a file or a pipe."""
    show = console()
    if not show.is_terminal:
        table.width = Measurement.get(show, show.options.update(max_width=_WIDE), table).maximum
    show.print(table)
    return show


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading)
    return table

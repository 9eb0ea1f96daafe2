"""``trinity-mlx certify``: measure a lane on this machine and write its file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import settings
from ..lane_options import LaneOptions, command_line, lane_options
from ..options import PLACE, FiniteRange, json_option, signed_off_option
from ..output import console, note, print_json
from ..progress import counter

if TYPE_CHECKING:
    from rich.table import Table

    from ...contracts.backend import Variant
    from ...evaluation.certify import Certificate
    from ...evaluation.lane import Lane


@click.command()
@lane_options
@click.option("--runs", type=click.IntRange(2), default=3, show_default=True, help="Determinism runs in this process.")
@click.option(
    "--processes",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Fresh processes that route the suite as well.",
)
@click.option(
    "--floor-ratio",
    type=FiniteRange(0, 1, min_open=True),
    default=0.8,
    show_default=True,
    help="The floors as a share of the worst margins.",
)
@click.option("--allow-lower", is_flag=True, help="Let a floor fall below the one that the lane has.")
@click.option("--out", type=PLACE, help="The lane's file; by default in your configuration folder.")
@signed_off_option
@json_option
@click.pass_context
def certify(ctx: click.Context, /, **options: Any) -> None:
    """Measure a lane: decisions, margins, determinism; then write its snapshot and its floors.

    Nothing is written when a case is not as the suite expects, when any run differs from the first bit for bit, or
    when a floor would fall without --allow-lower. Exits with 1 when the lane does not hold.

    \b
    Examples:
      trinity-mlx certify --artifact nano --profile cpu
      trinity-mlx certify --artifact sakana --profile mlx --suite my_suite.json
    """
    names = LaneOptions.take_from(options)
    certificate, path, old = _measure(names, options)
    if certificate.lane is None:
        _show_faults(certificate, options["as_json"])
        ctx.exit(1)
    from ...evaluation.lane import write_lane
    from ...evaluation.lane_changes import changes, check_floors

    lane = _signed(certificate.lane, options["signed_off_by"])
    check_floors(lane, old, options["allow_lower"])
    write_lane(path, lane)
    _show_lane(certificate, lane, changes(lane, old), path, options["as_json"])


def _signed(lane: Lane, name: str | None) -> Lane:
    """The lane with who stands for it; what was measured anew carries no earlier signature."""
    from ...evaluation.lane import SignOff

    if name is None:
        return lane
    return lane.model_copy(update={"signed_off": SignOff(by=name, date=lane.provenance["date"])})


def _measure(names: LaneOptions, asked: dict[str, Any]) -> tuple[Certificate, Path, Lane | None]:
    """What was found, the lane's file, and the lane that it replaces."""
    from ...evaluation.certify import certify as run
    from ...evaluation.lane import lane_file, user_lanes
    from ...evaluation.standards import default_suite, lane_for

    suite, recipe = names.given_suite(), names.recipe()
    with recipe.load(remember=False) as router:
        identity = router.identity
        known, _ = lane_for(router, settings.config_dir())
        suite = suite or default_suite(identity.artifact.name, known)
        lanes = user_lanes(settings.config_dir())
        path = asked["out"] or lane_file(lanes, identity.profile, identity.artifact.name, names.variant)
        old = _lane_before(path, known, names.variant)
        with counter(f"certifying {suite.name}", len(suite.cases) * asked["runs"] + asked["processes"]) as tick:
            certificate = run(
                recipe,
                suite,
                runs=asked["runs"],
                processes=asked["processes"],
                floor_ratio=asked["floor_ratio"],
                provenance={"date": datetime.now(UTC).date().isoformat(), "command": command_line()},
                tick=lambda: tick(1),
            )
    return certificate, path, old


def _lane_before(path: Path, known: Lane | None, variant: Variant) -> Lane | None:
    """The lane in the file itself, else the one that was in use so far; another variant's does not count."""
    from ...evaluation.lane import read_lane

    if path.exists():
        return read_lane(path)
    return known if known and known.variant == variant.label else None


def _show_faults(certificate: Certificate, as_json: bool) -> None:
    if as_json:
        print_json({"ok": False, "faults": list(certificate.faults)})
        return
    for fault in certificate.faults:
        note(fault)
    note(f"no lane was written; faults: {len(certificate.faults)}")


def _show_lane(certificate: Certificate, lane: Lane, changes: list[str], path: Path, as_json: bool) -> None:
    from ...files.models import plain

    if as_json:
        print_json({"ok": True, "file": plain(str(path)), "changes": changes, "lane": lane.model_dump(mode="json")})
        return
    out = console()
    out.print(_lane_table(lane, certificate.kernels))
    out.print("\nagainst the lane before:")
    for line in changes:
        out.print(f"  {plain(line)}", markup=False)
    out.print(f"\nwritten to {plain(str(path))}", markup=False, soft_wrap=True)


def _lane_table(lane: Lane, kernels: dict[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from ...files.models import plain

    table = Table.grid(padding=(0, 2))
    runs, processes = lane.provenance["runs"], lane.provenance["fresh_processes"]
    fresh = f"{processes} fresh process{'es' if processes != 1 else ''}"
    rows = [
        ("lane", lane.name),
        ("cases", f"{len(lane.cases)}, alike bit for bit in {runs} runs and {fresh}"),
        (f"{kernels['name']} kernels", _describe_kernels(kernels)),
    ]
    if lane.worst and lane.floors:
        for split in ("agent", "role"):
            worst, floor = getattr(lane.worst, split), getattr(lane.floors, split)
            rows.append((f"{split} margin", f"worst {worst.value:.3f} in {worst.case}, floor {floor:g}"))
    if lane.signed_off:
        rows.append(("signed off", f"by {lane.signed_off.by} on {lane.signed_off.date}"))
    for name, value in rows:
        table.add_row(f"[dim]{name}[/]", Text(plain(value)))
    return table


def _describe_kernels(kernels: dict[str, Any]) -> str:
    if "cannot_run" in kernels:
        return f"not compared: {kernels['cannot_run']}"
    changed = ", ".join(kernels["decisions_changed"]) or "none"
    return f"decisions changed: {changed}; logits differ by up to {kernels['distance'].get('largest', 0):.2g}"

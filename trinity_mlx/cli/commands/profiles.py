"""``trinity-mlx profiles``: what there is, what runs here, and what the rest would need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ...contracts.errors import ProfileInvalid, ProfileUnavailable
from .. import settings
from ..options import json_option
from ..output import console, print_json
from ..tables import plain_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...contracts.backend import Capabilities
    from ...profiles.registry import Availability, Profile, ProfileRegistry


@click.command()
@json_option
@click.pass_context
def profiles(ctx: click.Context, as_json: bool) -> None:
    """List the runtime profiles, and whether each can run here.

    A TOML file in the `profiles` folder of your configuration adds a profile, or takes the place of a built-in one.
    Exits with 3 when a file is broken; `auto` means nothing until it is mended.

    \b
    Example:
      trinity-mlx profiles --json
    """
    from ...profiles.registry import AUTO, ProfileRegistry, availability

    registry = ProfileRegistry(settings.config_dir())
    found = [(registry.get(name), availability(registry.get(name))) for name in registry.names]
    chosen = _chosen(registry)
    if as_json:
        print_json({AUTO: chosen, "profiles": [_entry(*pair) for pair in found], "broken": registry.broken})
    else:
        _print_table(found, chosen, registry.broken)
    if registry.broken:
        ctx.exit(ProfileInvalid.exit_code)


def _chosen(registry: ProfileRegistry) -> str | None:
    try:
        return registry.resolve("auto")[0].name
    except (ProfileUnavailable, ProfileInvalid):
        return None


def _told(profile: Profile, found: Availability) -> Capabilities | None:
    """What its backend can do on its device; None where it cannot run here, or the backend does not tell."""
    from ...profiles.backends import capabilities_of

    return capabilities_of(profile.backend, found.device) if found.device else None


def _entry(profile: Profile, found: Availability) -> dict[str, Any]:
    from ..views.capabilities import record

    return {
        "name": profile.name,
        "summary": profile.summary,
        "backend": profile.backend,
        "device": found.device or profile.device,
        "dtype": profile.dtype,
        "capabilities": record(told) if (told := _told(profile, found)) else None,
        "requires": list(profile.requires.modules),
        "available": found.ok,
        "reason": found.reason or None,
        "remedy": found.remedy or None,
        "floors": {artifact: floors.model_dump() for artifact, floors in profile.floors.items()},
        "origin": str(profile.origin),
    }


def _print_table(found: list[tuple[Profile, Availability]], chosen: str | None, broken: Mapping[str, str]) -> None:
    from ..views.capabilities import line

    table = plain_table("profile", "here", "backend", "device", "dtype", "margin floors (agent / role)")
    for profile, state in found:
        name = f"[bold]{profile.name}[/]" + (" (auto)" if profile.name == chosen else "")
        here = "[green]yes[/]" if state.ok else "[red]no[/]"
        floors = [f"{name}: {f.agent} / {f.role}, {f.source}" for name, f in profile.floors.items()]
        device = state.device or profile.device
        table.add_row(name, here, profile.backend, device, profile.dtype, "\n".join(floors) or "none known")
    out = console()
    out.print(table)
    for profile, state in found:
        if told := _told(profile, state):
            out.print(f"\n{profile.name}: {line(told)}", markup=False)
        if not state.ok:
            out.print(f"\n{profile.name} cannot run here: {state.reason}\n  to fix: {state.remedy}", markup=False)
    for name, reason in broken.items():
        out.print(f"\n{name} is broken: {reason}", markup=False, soft_wrap=True)
    out.print(f"\nYour own profiles go into {settings.config_dir() / 'profiles'}", style="dim", markup=False)

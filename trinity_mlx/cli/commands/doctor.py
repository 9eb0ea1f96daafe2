"""``trinity-mlx doctor``: what is installed, what would run, what to fix."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...contracts.errors import TrinityError
from .. import settings
from ..artifact_choice import AUTO, recipe_for, user_library
from ..options import NAME, PLACE, json_option
from ..output import console, print_json

if TYPE_CHECKING:
    from ...profiles.registry import Profile
    from ...routing.selfcheck import SelfCheck

_PACKAGES = ("trinity-mlx", "mlx", "mlx-lm", "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub")

_EXTRAS = {"mlx-lm": "local", "torch": "torch", "transformers": "local"}
"""The extra that brings a package; the others come with every installation."""


@dataclass(frozen=True)
class Check:
    """One thing looked at: ``ok``, what was found, what to do where it is not ok, and the same for programs."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    detail: Mapping[str, Any] | None = None


@click.command()
@click.option(
    "--deep",
    type=PLACE,
    metavar="FILE.json",
    help="Measure every profile that runs here with every artifact, and write one file to send to the developers.",
)
@click.option("--recheck", is_flag=True, help="Check again what each device computes, even if a result is remembered.")
@click.option("--profile", type=NAME, help="The profile that --deep and --recheck examine, instead of all.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, deep: Path | None, recheck: bool, profile: str | None, as_json: bool) -> None:
    """Look at the installation and route one prompt for real.

    Exits with 3 when nothing can route here.

    \b
    Examples:
      trinity-mlx doctor
      trinity-mlx doctor --deep doctor.json
      trinity-mlx doctor --recheck --profile mlx
    """
    if profile:
        _check_profile(profile)
    if deep:
        _check_place(deep)
    checks = [
        _machine(),
        *map(_package, _PACKAGES),
        *_profiles(),
        *_capabilities(),
        *_devices(profile, recheck=recheck),
        *_artifacts(),
        _folders(),
        _route(),
    ]
    if deep:
        checks.append(_deep(deep, profile))
    healthy = next(check.ok for check in checks if check.name == "route")
    if as_json:
        print_json({"ok": healthy, "checks": [asdict(check) for check in checks]})
    else:
        _print(checks)
    if not healthy:
        ctx.exit(3)


def _machine() -> Check:
    return Check("machine", True, f"{platform.platform()}, {platform.machine()}, Python {platform.python_version()}")


def _package(name: str) -> Check:
    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        extra = _EXTRAS.get(name)
        remedy = f"pip install 'trinity-mlx[{extra}]'" if extra else "pip install --force-reinstall trinity-mlx"
        return Check(name, False, "not installed", remedy)


def _profiles() -> list[Check]:
    from ...profiles.registry import ProfileRegistry, availability

    registry = ProfileRegistry(settings.config_dir())
    broken = [Check(f"profile {name}", False, why, "mend or remove that file") for name, why in registry.broken.items()]
    states = [(name, availability(registry.get(name))) for name in registry.names]
    whole = [Check(f"profile {name}", a.ok, f"device {a.device}" if a.ok else a.reason, a.remedy) for name, a in states]
    return [*whole, *broken]


def _check_profile(name: str) -> None:
    """Refuse a profile that there is not, or that cannot run here.

    Raises:
        UnknownProfile, ProfileUnavailable: it is so.
    """
    from ...profiles.registry import ProfileRegistry

    ProfileRegistry(settings.config_dir()).resolve(name)


def _check_place(file: Path) -> None:
    """Make sure that a file can be written, before minutes are spent on what goes into it; one that is there stays.

    Raises:
        FolderUnavailable: it cannot.
    """
    from ...files.atomic import write_json

    if not file.exists():
        write_json(file, {"unfinished": True})


def _available(only: str | None = None) -> list[tuple[Profile, str]]:
    """The profiles that run here, or the one named, with their devices."""
    from ...profiles.registry import ProfileRegistry, availability

    registry = ProfileRegistry(settings.config_dir())
    names = registry.names if only is None else [registry.resolve(only)[0].name]
    devices = [(profile, availability(profile).device) for profile in map(registry.get, names)]
    return [(profile, device) for profile, device in devices if device is not None]


def _capabilities() -> list[Check]:
    """What each profile that runs here could do, as its backend tells it."""
    from ...profiles.backends import capabilities_of
    from ..views.capabilities import line, record

    capable = [(profile.name, capabilities_of(profile.backend, device)) for profile, device in _available()]
    return [Check(f"can do {name}", True, line(each), detail=record(each)) for name, each in capable if each]


def _devices(only: str | None, *, recheck: bool) -> list[Check]:
    """What the self-check of each device found, now if asked or else when it was last held."""
    from ...profiles.backends import load_backend
    from ...routing.device_checks import checked, memory_beside

    memory = memory_beside(settings.hash_memory())
    if recheck:
        try:
            for profile, device in _available(only):
                checked(memory, load_backend(profile.backend), device, profile.dtype, again=True)
        except TrinityError as error:
            return [Check("device check", False, str(error), "see the checks above")]
    return [_device(key, result) for key, result in memory.items()]


def _device(key: str, result: SelfCheck) -> Check:
    if not result.failures:
        return Check("device check", True, f"{key}: kernels compute what they should")
    laws = "; ".join(result.failures)
    return Check("device check", False, f"{key}: not so: {laws}", "composed kernels run instead; update the framework")


def _deep(file: Path, only: str | None) -> Check:
    """Everything that can be measured here, as one JSON file; it names no host and no user."""
    from ...evaluation.deep import examine
    from ...evaluation.provenance import describe_machine, describe_software
    from ...files.atomic import write_json

    names, library, config_dir = _artifact_names(), user_library(), settings.config_dir()
    measured = [
        examine(profile, device, names, library=library, config_dir=config_dir) for profile, device in _available(only)
    ]
    content = {"machine": describe_machine(), "software": describe_software(), "profiles": measured}
    write_json(file, _without_home(content))
    return Check("deep", True, f"{', '.join(each['profile'] for each in measured)} with {', '.join(names)}, in {file}")


def _artifact_names() -> list[str]:
    """Every artifact that is here: embedded or fetched."""
    from ...artifacts.catalog import EMBEDDED

    return [*EMBEDDED, *(each.pin.name for each in settings.store().fetched())]


def _without_home(content: dict[str, Any]) -> dict[str, Any]:
    """``content`` with ``~`` for the user's home in every text: errors and notes name places."""
    home = json.dumps(str(Path.home()))[1:-1]
    shortened: dict[str, Any] = json.loads(json.dumps(content).replace(home, "~"))
    return shortened


def _artifacts() -> list[Check]:
    from ...artifacts.catalog import EMBEDDED, find_bundle
    from ...library import PUBLISHED

    checks = []
    for name in EMBEDDED:
        try:
            bundle = find_bundle(name)
            checks.append(Check(f"artifact {name}", True, f"verified, adapter {bundle.adapter.ref[:12]}"))
        except TrinityError as error:
            checks.append(Check(f"artifact {name}", False, str(error), "pip install --force-reinstall trinity-mlx"))
    return [*checks, *(_fetched(name) for name in PUBLISHED)]


def _fetched(name: str) -> Check:
    from ...files.hashing import FileHashes

    remedy = f"trinity-mlx fetch {name}"
    try:
        fetched = settings.store().find(name)
    except TrinityError as error:
        return Check(f"artifact {name}", False, str(error), remedy)
    if fetched is None:
        return Check(f"artifact {name}", False, "not fetched", remedy)
    faults = fetched.faults(FileHashes(settings.hash_memory()))
    if faults:
        return Check(f"artifact {name}", False, f"{', '.join(faults)} missing or changed in {fetched.folder}", remedy)
    return Check(f"artifact {name}", True, f"verified, in {fetched.folder}")


def _folders() -> Check:
    return Check("folders", True, f"configuration {settings.config_dir()}, cache {settings.cache_dir()}")


def _route() -> Check:
    try:
        with recipe_for(AUTO).load() as router:
            decision = router.route("What is 17 + 25?")
    except TrinityError as error:
        return Check("route", False, str(error), "see the checks above")
    timings = f"loaded in {decision.timings.load:.0f} ms, routed in {decision.timings.route:.1f} ms"
    return Check("route", True, f"{decision.artifact.name} on {decision.profile}: {timings}")


def _print(checks: list[Check]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for check in checks:
        mark = "[green]ok[/]" if check.ok else "[yellow]--[/]"
        remedy = f"\n[dim]to fix: {escape(check.remedy)}[/]" if check.remedy and not check.ok else ""
        table.add_row(mark, check.name, escape(check.found) + remedy)
    console().print(table)

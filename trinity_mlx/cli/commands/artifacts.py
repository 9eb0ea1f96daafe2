"""``trinity-mlx artifacts``: what is on this machine, and how to be rid of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...contracts.errors import ArtifactNotFound, FolderUnavailable, TrinityError, UsageError
from .. import settings
from ..options import TEXT, json_option
from ..output import console, note, print_json
from ..sizes import readable
from ..tables import plain_table

if TYPE_CHECKING:
    from ...downloads.store import FetchedArtifact
    from ...files.hashing import FileHashes


@dataclass(frozen=True)
class ArtifactRow:
    """One artifact; ``size`` in bytes, ``problem`` is None where everything was verified."""

    name: str
    kind: str
    folder: str
    size: int
    verified: bool
    problem: str | None
    adapter_ref: str | None


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def artifacts(ctx: click.Context, as_json: bool) -> None:
    """List the artifacts on this machine: embedded, fetched, and built from what was fetched.

    Every file is checked against its hash; large ones are hashed again only when they have changed.

    \b
    Examples:
      trinity-mlx artifacts --json
      trinity-mlx artifacts rm sakana
    """
    if ctx.invoked_subcommand is not None:
        return
    rows = [*_embedded(), *_fetched()]
    if as_json:
        print_json({"cache": str(settings.cache_dir()), "artifacts": [asdict(row) for row in rows]})
        return
    _print_table(rows)


@artifacts.command()
@click.argument("name", type=TEXT)
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm(name: str, yes: bool) -> None:
    """Delete what was fetched as NAME, and the bundles built from it.

    Only the files that were fetched are deleted; other files in the same folder stay.

    \b
    Example:
      trinity-mlx artifacts rm sakana --yes
    """
    store = settings.store()
    found, built = store.find(name), store.built(name)
    if found is None and not built:
        known = ", ".join(each.pin.name for each in store.fetched()) or "nothing"
        raise ArtifactNotFound(f"no artifact {name!r} to delete: what was fetched is {known}")
    if found is not None:
        note(f"{readable(found.size)} in {found.folder}")
    for folder in built:
        note(f"{readable(_size_of(folder))} in {folder}")
    if not yes and not click.confirm(f"delete {name}?", err=True):
        raise UsageError("nothing was deleted")
    try:
        store.remove(name)
    except OSError as error:
        raise FolderUnavailable(f"{error.filename} cannot be deleted: {error.strerror or error}") from None
    note(f"{name} is gone")


def _embedded() -> Iterator[ArtifactRow]:
    from ...artifacts.catalog import EMBEDDED
    from ...files.shipped import data_path

    for name in EMBEDDED:
        yield _bundle_row(name, "embedded", data_path("fixtures", "artifacts", name))


def _fetched() -> Iterator[ArtifactRow]:
    from ...files.hashing import FileHashes

    store, hashes = settings.store(), FileHashes(settings.hash_memory())
    for found in store.fetched():
        yield _fetched_row(found, hashes)
        for folder in store.built(found.pin.name):
            yield _bundle_row(found.pin.name, "built", folder)


def _bundle_row(name: str, kind: str, folder: Path) -> ArtifactRow:
    adapter_ref, problem = _open(folder)
    return ArtifactRow(name, kind, str(folder), _size_of(folder), problem is None, problem, adapter_ref)


def _fetched_row(found: FetchedArtifact, hashes: FileHashes) -> ArtifactRow:
    faults = found.faults(hashes)
    adapter_ref, problem = None, f"{faults[0]} is missing or has changed: fetch it again" if faults else None
    if found.pin.router.bundle is not None and not faults:
        adapter_ref, problem = _open(found.folder / found.pin.router.bundle)
    name = found.pin.name
    return ArtifactRow(name, "fetched", str(found.folder), found.size, problem is None, problem, adapter_ref)


def _open(folder: Path) -> tuple[str | None, str | None]:
    """The adapter's content address, or what is wrong with the bundle."""
    from ...artifacts.catalog import find_bundle

    try:
        return find_bundle(folder).adapter.ref, None
    except TrinityError as error:
        return None, str(error)


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _print_table(rows: list[ArtifactRow]) -> None:
    from rich.markup import escape

    table = plain_table("artifact", "", "size", "verified", "adapter", "where", right=["size"])
    for row in rows:
        verified = "[green]yes[/]" if row.verified else "[red]no[/]"
        table.add_row(
            row.name, row.kind, readable(row.size), verified, (row.adapter_ref or "-")[:12], escape(row.folder)
        )
    out = console()
    out.print(table)
    for row in rows:
        if row.problem is not None:
            out.print(f"\n{row.name}: {row.problem}", markup=False)
    if not any(row.kind == "fetched" for row in rows):
        out.print("\n`trinity-mlx fetch sakana` gets the published router", style="dim")

"""``trinity-mlx fetch``: a published router, or one's own, brought to this machine and verified."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...contracts.errors import FolderUnavailable, UsageError
from .. import settings
from ..options import PLACE, TEXT, json_option
from ..output import console, note, print_json
from ..progress import bars

if TYPE_CHECKING:
    from ...downloads.fetch import Fetched, Listener
    from ...downloads.pins import Pin


@click.command()
@click.argument("name", type=TEXT, required=False)
@click.option("--dest", type=PLACE, help="Folder for the files, instead of one in the cache.")
@click.option("--offline", is_flag=True, help="Use no network: verify and take what is on this machine.")
@click.option("--pin", "pin_file", type=PLACE, metavar="FILE", help="A pin file of your own.")
@json_option
def fetch(name: str | None, dest: Path | None, offline: bool, pin_file: Path | None, as_json: bool) -> None:
    """Get the router NAME from its public homes: `sakana`, or `sakana-adapted`.

    The size and the hash of every file are verified before it is used. Files that are there and correct are left alone,
    and a partial download goes on where it broke off. From then on `trinity-mlx route` uses the router by itself.
    HF_HUB_OFFLINE=1 means the same as --offline.

    \b
    Examples:
      trinity-mlx fetch sakana
      trinity-mlx fetch --pin my-router.json --dest /data/my-router
    """
    pin, home_folder = _pin(name, pin_file)
    store = settings.store()
    folder = dest or store.folder_for(pin.name)
    files = _fetch(pin, folder, home_folder, offline or settings.hub_is_offline(), as_json)
    try:
        store.record(pin, folder)
    except OSError as error:
        raise FolderUnavailable(
            f"all files are in {folder}, and cannot be recorded in {settings.cache_dir()}: {error.strerror or error}; "
            "set TRINITY_MLX_CACHE to a folder that can be written to"
        ) from None
    _report(pin, folder, files, as_json)


def _pin(name: str | None, pin_file: Path | None) -> tuple[Pin, Path]:
    """The pin, and the folder in which its relative homes start."""
    from ...downloads.pins import read_pin, shipped_pin, shipped_pins

    if pin_file is None:
        if name is None:
            known = " or ".join(shipped_pins())
            raise UsageError(f"nothing to fetch: name {known}, or give --pin FILE, as in: trinity-mlx fetch sakana")
        return shipped_pin(name), Path()
    pin = read_pin(pin_file)
    if name is not None and name != pin.name:
        raise UsageError(f"{pin_file} pins {pin.name!r}, and not {name!r}: leave the name out, or correct it")
    return pin, pin_file.resolve().parent


def _fetch(pin: Pin, folder: Path, home_folder: Path, offline: bool, quiet: bool) -> list[Fetched]:
    from ...downloads.fetch import fetch
    from ...downloads.homes import Homes
    from ...files.hashing import FileHashes

    homes_of_user = Homes(home_folder, offline=offline, hub=settings.hub, s3=settings.s3)
    with homes_of_user as homes, _listening(pin, quiet) as listener:
        return fetch(
            pin,
            folder,
            homes,
            hashes=FileHashes(settings.hash_memory()),
            shelf=settings.store().shelf(),
            listener=listener,
        )


@contextmanager
def _listening(pin: Pin, quiet: bool) -> Iterator[Listener]:
    """A bar for each file on the error stream where that is a terminal; notes always."""
    from ...downloads.fetch import Listener

    if quiet or not sys.stderr.isatty():
        yield Listener(note=note)
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with bars(*columns, TimeRemainingColumn()) as progress:
        tasks = {file.path: progress.add_task(file.path, total=file.size) for file in pin.files}
        yield Listener(
            advance=lambda file, done: progress.update(tasks[file.path], completed=done),
            note=lambda text: progress.console.print(text, highlight=False, markup=False),
        )


def _report(pin: Pin, folder: Path, files: list[Fetched], as_json: bool) -> None:
    if as_json:
        print_json({"name": pin.name, "folder": str(folder.resolve()), "files": [_entry(file) for file in files]})
        return
    from rich.table import Table

    from ..sizes import readable

    table = Table("status", "size", "file", "hash", box=None, show_header=False, padding=(0, 2, 0, 0))
    table.columns[2].overflow = "fold"
    for file in files:
        table.add_row(str(file.status), readable(file.size), file.path, f"[dim]{file.sha256[:12]}[/]")
    out = console()
    out.print(table)
    out.print(f"{pin.name} is in {folder}, every file verified", style="dim", markup=False)


def _entry(file: Fetched) -> dict[str, Any]:
    return {"path": file.path, "size": file.size, "sha256": file.sha256, "status": str(file.status)}

"""Batches on the command line: to standard output as answers come, or into a file that can be resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import click

from ..batches.chunks import chunks
from ..batches.engines import Engine
from ..batches.engines.cluster import OnRay
from ..batches.engines.devices import on_devices
from ..batches.engines.here import Here
from ..batches.job import write_batch
from ..batches.output import Progress
from ..batches.records import Question
from ..contracts.errors import UsageError
from ..routing.recipe import Recipe
from .inputs import STANDARD_INPUT, displayed, open_input
from .output import holds_unicode, note
from .process import one_line
from .progress import meter, spinner
from .settings import environment, prepare_ray


class Destination(NamedTuple):
    """Where records go: into a file, or to standard output, there for programs or for people."""

    out: Path | None
    resume: bool
    force: bool
    as_json: bool


class Staff(NamedTuple):
    """Who routes: this process where neither a device nor a cluster is named."""

    devices: tuple[str, ...] = ()
    cluster: str | None = None

    @classmethod
    def of(cls, devices: str | None, cluster: str | None) -> Staff:
        """From what was given on the command line.

        Raises:
            UsageError: a device has no name, or devices are named beside a cluster.
        """
        if devices and cluster:
            raise UsageError("--devices and --engine ray exclude each other: a cluster knows its own devices")
        names = tuple(name.strip() for name in devices.split(",")) if devices is not None else ()
        if not all(names):
            raise UsageError(f"--devices is {devices!r}: give names with commas, as in --devices cuda:0,cuda:1")
        return cls(names, cluster)

    @contextmanager
    def engine(self, recipe: Recipe, name: str, *, afresh: bool) -> Iterator[Engine]:
        """What routes the file ``name``; in this process it forgets what it has read before a chunk if ``afresh``."""
        if self.cluster:
            if name == STANDARD_INPUT:
                raise UsageError("a cluster reads parts of the input in any order: give --batch a file")
            prepare_ray()
            yield OnRay(recipe.at_hand(), Path(name), self.cluster)
            return
        if self.devices:
            yield on_devices(recipe.at_hand(), self.devices, environment=_environment(self.devices), tell=note)
            return
        with spinner(f"loading {recipe.artifact}"):
            router = recipe.load()
        with router:
            yield Here(router, afresh=afresh)


def route_batch(name: str, recipe: Callable[[], Recipe], staff: Staff, question: Question, to: Destination) -> None:
    """Route the lines of the file ``name``, or of standard input.

    Raises:
        UsageError: the records would go into the input itself.
        TrinityError: as ``write_batch``.
    """
    done = Progress()
    with open_input(name) as file:
        _refuse_input(file, to.out)
        with staff.engine(recipe(), name, afresh=bool(to.out)) as engine, meter("routing", _size_of(file)) as show:
            for done in _steps(file, displayed(name), engine, question, to):
                show(done.end, done.routed)
    if done.failed:
        note(f"{done.failed} of {done.routed} lines could not be routed; each has an error record in its place")


def _steps(file: BinaryIO, name: str, engine: Engine, question: Question, to: Destination) -> Iterator[Progress]:
    """Where the batch stands, at first and after each chunk."""
    if to.out:
        yield from write_batch(file, name, to.out, engine, question, resume=to.resume, force=to.force)
        return
    yield (done := Progress())
    for chunk, routed in engine.route(chunks(file, name, whole=False), question):
        _print_records(routed.records, to.as_json)
        yield (done := done.after(chunk, routed))


def _environment(devices: Sequence[str]) -> Mapping[str, str]:
    """The environment of workers: those on the CPU have its cores between them."""
    sharing = sum(name == "cpu" for name in devices)
    threads = max((os.cpu_count() or 1) // max(sharing, 1), 1)
    return {"OMP_NUM_THREADS": str(threads), **environment()} if sharing > 1 else environment()


def _print_records(records: Sequence[str], as_json: bool) -> None:
    """All records of a chunk in one write."""
    shown = _for_programs if as_json else _for_people
    if records:
        click.echo("\n".join(map(shown, records)))


def _for_programs(text: str) -> str:
    """A record that standard output can hold: ASCII where that is not UTF-8."""
    return text if holds_unicode() else json.dumps(json.loads(text))


def _for_people(text: str) -> str:
    record = json.loads(text)
    identity = record.get("id", record["line"])
    name = one_line(identity if isinstance(identity, str) else json.dumps(identity))
    if "error" in record:
        return f"{name}\terror\t{one_line(record['error']['message'])}"
    agent, margin = record["agent"], record["margins"]["agent"]
    shown = "-" if margin is None else f"{margin:.3f}"
    return f"{name}\t{agent['slot']}\t{agent['label']}\t{record['role']['name']}\t{shown}"


def _size_of(file: BinaryIO) -> int | None:
    """The length of a file, None for what is none."""
    try:
        return os.fstat(file.fileno()).st_size or None
    except (OSError, ValueError):
        return None


def _refuse_input(file: BinaryIO, out: Path | None) -> None:
    try:
        is_same = out is not None and os.path.samestat(os.fstat(file.fileno()), out.stat())
    except (OSError, ValueError):
        return
    if is_same:
        raise UsageError(f"{out} is the input itself: choose another file for the records")

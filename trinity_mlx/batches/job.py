"""A whole batch: from an input to a file of records."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from ..contracts.routing import Selection
from ..routing.router import Router
from .chunks import chunks, open_lines
from .engines import Engine
from .engines.here import Here
from .output import Progress, open_output
from .records import Question


def route_file(
    source: str | Path,
    out: str | Path,
    router: Router,
    *,
    selection: Selection | None = None,
    allow_slots: Collection[int] | None = None,
    resume: bool = False,
    force: bool = False,
) -> Progress:
    """Route every line of the file ``source`` into the file ``out``; how much that was.

    Args:
        source: JSONL: a line is a list of messages, an object with ``messages`` or ``prompt``, or a text.
        out: JSONL, one record a line, without timings; beside it lies a ledger, by which it can be resumed.
        router: what answers; it forgets what it has read before.
        selection: how to choose from the logits; argmax by default.
        allow_slots: the slots that may be chosen; all by default.
        resume: go on with what an earlier call left, if anything is there.
        force: replace what is there.

    Raises:
        InputFileError: ``source`` cannot be read.
        OutputExists, ResumeRefused, FolderUnavailable: as ``open_output`` and ``BatchOutput``.
        TrinityError: the router cannot go on; what is complete is kept.
    """
    question = Question(selection or Selection(), None if allow_slots is None else tuple(allow_slots))
    with open_lines(source) as file:
        *_, last = write_batch(file, str(source), Path(out), Here(router), question, resume=resume, force=force)
    return last


def write_batch(
    file: BinaryIO, name: str, out: Path, engine: Engine, question: Question, *, resume: bool, force: bool
) -> Iterator[Progress]:
    """Route the open input ``file``, called ``name``, into ``out``; where that stands, at first and after each chunk.

    Raises:
        TrinityError: as ``route_file``.
    """
    with open_output(out, question, resume=resume, force=force) as output:
        yield output.progress
        remaining = output.remaining(chunks(file, name, whole=True))
        for chunk, routed in engine.route(remaining, output.question):
            output.write(chunk, routed)
            yield output.progress
        output.finish()

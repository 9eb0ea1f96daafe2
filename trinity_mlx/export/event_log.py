"""The event log of an export: one JSON object a line, with its time; no part of the sealed bundle."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from .request import ExportEvent, Progress

LOG_NAME = "export.log.jsonl"


class EventLog:
    """Appends events to a file and passes them on; ``tile`` events are passed on alone."""

    def __init__(self, folder: Path, progress: Progress | None) -> None:
        self._path = folder / LOG_NAME
        self._progress = progress
        _end_torn_line(self._path)

    def __call__(self, kind: str, **fields: object) -> None:
        """Record that ``kind`` happened."""
        if kind != "tile":
            line = json.dumps({"time": datetime.now(UTC).isoformat(), "event": kind, **fields}, ensure_ascii=False)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        if self._progress:
            self._progress(ExportEvent(kind, fields))


def _end_torn_line(path: Path) -> None:
    """A process that was killed while it wrote may have left half a line."""
    if not path.is_file() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")

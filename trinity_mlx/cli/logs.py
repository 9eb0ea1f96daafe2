"""What commands did, one line of JSON an event, in the file that the user names: never a prompt, a reply or a key.

Of other packages only warnings and errors are logged, and of these the templates of their messages alone: what is put
into those may be anything, whole requests and answers included.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from datetime import UTC, datetime
from errno import ENOSPC
from pathlib import Path
from typing import Any

from ..contracts.errors import EnvironmentUnavailable
from ..contracts.events import Event, Fallback, ProviderFailed, RunFailed
from ..contracts.provider import Usage
from ..contracts.routing import Role
from .process import CANCELLED, MACHINE, PIPE_CLOSED, one_line, say

_OWN = ("trinity_mlx", "trinity_backend_mlx", "trinity_backend_torch")
_TOLD_BY_OTHERS = frozenset({"message", "reason", "comment"})
"""Texts of an event that may repeat what a provider or a person said."""


class RunLog:
    """A sink that logs the events of a run by their names, numbers and hashes, without a text of anybody."""

    def emit(self, event: Event) -> None:
        """Log one event."""
        level = logging.WARNING if isinstance(event, ProviderFailed | Fallback | RunFailed) else logging.INFO
        logging.getLogger(__package__).log(level, event.kind, extra={"fields": _plain_fields(event)})

    def close(self) -> None:
        """Nothing is held."""


def _plain_fields(event: Event) -> dict[str, Any]:
    values = {field.name: getattr(event, field.name) for field in fields(event) if field.name not in _TOLD_BY_OTHERS}
    labels = {name: value.label for name, value in values.items() if isinstance(value, Role)}
    counts = {
        f"{side}_tokens": getattr(value, f"{side}_tokens")
        for value in values.values()
        if isinstance(value, Usage)
        for side in ("input", "output")
    }
    return {name: value for name, value in values.items() if isinstance(value, str | int | float)} | labels | counts


@contextmanager
def log_to(path: Path, level: str, command: str) -> Iterator[None]:
    """Append to ``path`` what the block logs, its beginning and its end.

    Raises:
        EnvironmentUnavailable: the file cannot be written to.
    """
    handler = _handler(path, level)
    root, logger = logging.getLogger(), logging.getLogger(__package__)
    before = root.level
    root.addHandler(handler)
    root.setLevel(min(handler.level, before))
    started, ended = time.monotonic(), _ended(None)
    logger.info("started", extra={"fields": {"command": command}})
    try:
        yield
    except BaseException as error:
        ended = _ended(error)
        raise
    finally:
        fields = {"command": command, "seconds": round(time.monotonic() - started, 3), **ended}
        logger.log(logging.ERROR if "error" in ended else logging.INFO, "ended", extra={"fields": fields})
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()


def _ended(error: BaseException | None) -> dict[str, Any]:
    """How a command ended, by what it raised."""
    if error is None or type(error).__name__ == "Exit":
        return {"exit_code": getattr(error, "exit_code", 0)}
    if isinstance(error, KeyboardInterrupt):
        return {"exit_code": CANCELLED}
    code = PIPE_CLOSED if isinstance(error, BrokenPipeError) else getattr(error, "exit_code", MACHINE)
    return {"exit_code": code, "error": {"type": type(error).__name__, "message": one_line(str(error))}}


def _handler(path: Path, level: str) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _Lines(path, level)
    except OSError as error:
        raise EnvironmentUnavailable(f"the log file {path} cannot be written to: {error.strerror or error}") from None


class _Lines(logging.Handler):
    """Writes each record as one line; a disk that is full ends no command, and is told of once."""

    def __init__(self, path: Path, level: str) -> None:
        super().__init__(level.upper())
        self.addFilter(lambda record: _is_own(record) or record.levelno >= logging.WARNING)
        self._path, self._file = path, path.open("ab", buffering=0)
        self._told = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": one_line(record.getMessage() if _is_own(record) else str(record.msg)),
            **getattr(record, "fields", {}),
        }
        with suppress(ValueError):  # the file is closed: a thread outlived the command
            self._append(f"{json.dumps(fields, default=str)}\n".encode())

    def _append(self, line: bytes) -> None:
        try:
            loss = "" if self._file.write(line) == len(line) else os.strerror(ENOSPC)
        except OSError as error:
            loss = error.strerror or str(error)
        if loss and not self._told:
            self._told = True
            say(f"the log file {self._path} lacks events: {loss}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def _is_own(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] in _OWN

"""The report of a stage bundle: written last, so that a folder without one was never finished (docs/parity.md)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contracts.errors import FolderUnavailable, ParitySetupError
from ..files.atomic import write_json
from ..files.regular import read_regular

REPORT_FILE = "report.json"
SCHEMA = "trinity-mlx.parity.stages"
VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StageReport:
    """What a comparison needs to know of a report: the components' hash and number type, and the tensors' names."""

    components: str
    components_dtype: str
    tensors: tuple[str, ...]


def begin_report(folder: Path, *manifests: str) -> None:
    """Make ``folder`` an unfinished bundle: there is none, or its report goes, and so do ``manifests``.

    Raises:
        FolderUnavailable: that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (REPORT_FILE, *manifests):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise FolderUnavailable(f"{folder} cannot be written to: {error.strerror or error}") from None


def write_report(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Finish the bundle in ``folder``; gives the whole report.

    Raises:
        FolderUnavailable: it cannot be written.
    """
    report = {"schema": SCHEMA, "version": VERSION, **content}
    write_json(folder / REPORT_FILE, report)
    return report


def read_report(folder: Path) -> StageReport:
    """The report of the finished bundle in ``folder``.

    Raises:
        ParitySetupError: there is none, or it is not one of this version.
    """
    path = folder / REPORT_FILE
    try:
        report = json.loads(read_regular(path))
    except OSError:
        raise ParitySetupError(f"{folder} has no {REPORT_FILE}: it is no finished stage bundle") from None
    except (ValueError, RecursionError) as error:
        raise ParitySetupError(f"{path} is not JSON: {error}") from None
    match report:
        case {
            "schema": "trinity-mlx.parity.stages",
            "version": 1,
            "components": {"sha256": str(components), "dtype": str(dtype)},
            "tensors": [*tensors],
        } if _SHA256.fullmatch(components) and all(_is_named(tensor) for tensor in tensors):
            return StageReport(components, dtype, tuple(tensor["name"] for tensor in tensors))
    raise ParitySetupError(f"{path} is no report of schema {SCHEMA}, version {VERSION}")


def _is_named(tensor: Any) -> bool:
    return isinstance(tensor, dict) and isinstance(tensor.get("name"), str)

"""The JSON reports of the Python and Elixir tools: which stage files they name (docs/parity.md, "Files")."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..contracts.errors import ParitySetupError
from ..files.paths import is_file
from ..files.regular import read_regular

SCHEMAS = ("trinity_sakana_python_svd_parity_trace.v2", "trinity_sakana_svd_parity_trace.v2")
_LAYOUT = "torch_v"
_DEEPEST = 16
"""Parts of a path that is looked for by its endings."""
_LAYOUT_KEYS = ("v_layout", "python_v_layout")


def stage_files(report: Path) -> tuple[Path, ...]:
    """The files with stages that ``report`` names: that of all tensors, else that of one, else those of its replays.

    Replays of another layout than ``torch_v`` are known to be wrong, and are left out. Reports tell paths from where
    their tool was started, as in ``tmp/parity/components/FILE``: a file is looked for under that path and each shorter
    ending of it, from the report's folder.

    Raises:
        ParitySetupError: the report cannot be read, has another schema, or names no file, or one that is not there.
    """
    content = _read(report)
    if content.get("schema") not in SCHEMAS:
        raise ParitySetupError(f"{report} is of schema {content.get('schema')!r:.80}, not {' or '.join(SCHEMAS)}")
    names = dict.fromkeys(_names(content))
    if not names:
        raise ParitySetupError(
            f"{report} names no stage file (stage_debug.stage_tensor_file): it was written without stages"
        )
    return tuple(_beside(report, name) for name in names)


def sources_file(path: Path) -> Path:
    """The file that holds sources: ``path`` itself, or the first one that it names where it is a report.

    Raises:
        ParitySetupError: as ``stage_files``.
    """
    return stage_files(path)[0] if path.suffix == ".json" else path


def _read(report: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(report))
    except OSError as error:
        raise ParitySetupError(f"{report} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ParitySetupError(f"{report} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ParitySetupError(f"{report} is no report: a JSON object is needed")
    return content


def _names(content: dict[str, Any]) -> list[str]:
    for key in ("all_selected_stage_tensor_file", "stage_tensor_file"):
        if name := _stage_file(content, key):
            return [name]
    replays = content.get("semantic_python_component_variants")
    replays = replays if isinstance(replays, list) else []
    used = [each for each in replays if isinstance(each, dict) and _LAYOUT in map(each.get, _LAYOUT_KEYS)]
    return [name for each in used if (name := _stage_file(each, "stage_tensor_file"))]


def _stage_file(content: dict[str, Any], key: str) -> str:
    stages = content.get("stage_debug")
    name = stages.get(key) if isinstance(stages, dict) else None
    return name if isinstance(name, str) else ""


def _beside(report: Path, name: str) -> Path:
    parts = Path(name).parts
    endings = [parts, *(parts[start:] for start in range(max(1, len(parts) - _DEEPEST), len(parts)))]
    for ending in endings:
        place = report.parent.joinpath(*ending)
        if is_file(place):
            return place
    raise ParitySetupError(
        f"{report} names the stages {name[:200]!r}: there is no such file in {report.parent}; put it there"
    )

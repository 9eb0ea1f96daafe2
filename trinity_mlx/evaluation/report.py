"""An evaluation as one self-contained HTML page: no script, and no request to anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from ..contracts.routing import Role
from ..files.atomic import write_file
from ..files.pages import render_page
from .results import CaseResult, Evaluation

_FOLDER = Path(__file__).parent
_HEAT_LEVELS = 6
_CONTROL_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"} | {0x7F: 0x2421}


@dataclass(frozen=True, slots=True)
class Scale:
    """The common scale of one split's margin bars, from 0 to ``top``, with its floor."""

    split: str
    top: float
    floor: float | None
    source: str

    def percent(self, value: float) -> float:
        """Where ``value`` lies on the scale, 0 to 100."""
        return round(100 * value / self.top, 3)


@dataclass(frozen=True, slots=True)
class Cell:
    """How many cases chose one slot in one role, and how many were expected to."""

    returned: int
    expected: int


def render_report(evaluation: Evaluation) -> str:
    """The page: summary, failures, margins, logits, decisions, drift, every prompt, environment."""
    values = {
        "evaluation": evaluation,
        "numbers": {result.case.id: number for number, result in enumerate(evaluation.results, start=1)},
        "ordered": [*evaluation.failed, *(result for result in evaluation.results if not result.reasons)],
        "scales": {split: _scale(evaluation, split) for split in ("agent", "role")},
        "heat": partial(_heat, _largest_logit(evaluation)),
        "largest_logit": _largest_logit(evaluation),
        "heat_levels": _HEAT_LEVELS,
        "matrix": _matrix(evaluation),
        "drifts": _drifts(evaluation),
        "rows": list(_flatten(_held_against(evaluation) | dict(evaluation.environment))),
        "Role": Role,
    }
    return render_page(_FOLDER, values, {"signed": signed, "visible": visible, "breakable": breakable})


def write_report(path: Path, evaluation: Evaluation) -> None:
    """Write the page, whole or not at all.

    Raises:
        FolderUnavailable: it cannot be written.
    """
    write_file(path, render_report(evaluation).encode("utf-8", "replace"))  # paths may hold lone surrogates


def signed(value: float, digits: int) -> str:
    """``value`` with a fixed number of decimals and a true minus sign; what rounds to zero has none."""
    text = f"{value:.{digits}f}"
    return text.replace("-", "" if float(text) == 0 else "−")


def visible(text: str) -> str:
    """``text`` with a picture in place of each control character except tabs and line feeds."""
    return text.translate(_CONTROL_PICTURES)


def breakable(name: str) -> Markup:
    """``name``, escaped, with a place to break the line after each underscore."""
    return escape(name).replace("_", Markup("_<wbr>"))


def _scale(evaluation: Evaluation, split: str) -> Scale:
    margins = [getattr(result.decision.margins, split) for result in evaluation.results if result.decision]
    floor = getattr(evaluation.floors, split)
    top = max((value for value in (*margins, floor) if value is not None), default=0.0)
    return Scale(split, top or 1.0, floor, getattr(evaluation.floors, f"{split}_source"))


def _largest_logit(evaluation: Evaluation) -> float:
    """The largest magnitude of any logit."""
    decisions = [result.decision for result in evaluation.results if result.decision]
    return max((abs(value) for each in decisions for value in each.logits.row), default=0.0)


def _heat(largest: float, value: float) -> str:
    """The style class of a logit's colour: ``above-1`` to ``above-6``, ``below-1`` to ``below-6``, or ``zero``."""
    level = round(_HEAT_LEVELS * value / largest) if largest else 0
    if level == 0:
        return "zero"
    return f"above-{level}" if level > 0 else f"below-{-level}"


def _matrix(evaluation: Evaluation) -> list[list[Cell]]:
    """One row for each slot, one cell for each role."""
    decisions = [result.decision for result in evaluation.results if result.decision]
    returned = Counter((decision.slot, decision.role) for decision in decisions)
    expected = Counter((result.case.expected.slot, result.case.expected.role) for result in evaluation.results)
    return [
        [Cell(returned[slot, role], expected[slot, role]) for role in Role] for slot in range(len(evaluation.labels))
    ]


def _drifts(evaluation: Evaluation) -> list[CaseResult]:
    """The cases that the snapshot knows, those that moved most first; those that cannot be compared lead."""
    known = [result for result in evaluation.results if result.recorded]
    return sorted(known, key=lambda result: -result.distance.largest if result.distance else float("-inf"))


def _held_against(evaluation: Evaluation) -> dict[str, str | None]:
    """What the lane was held against."""
    snapshot = evaluation.snapshot
    return {
        "suite": evaluation.suite.name,
        "suite_sha256": evaluation.suite.sha256,
        "snapshot": snapshot.origin if snapshot else None,
    }


def _flatten(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested mappings, a row each."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{before}{name} · ")
        else:
            yield f"{before}{name}".replace("_", " "), "none" if value is None else str(value)

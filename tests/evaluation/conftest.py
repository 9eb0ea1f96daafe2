"""Evaluations that the report is tried with: as a tree of elements, and in a browser."""

from __future__ import annotations

import pytest

from trinity_mlx import load_router
from trinity_mlx.evaluation.results import Evaluation

from .. import report_evaluations as made


@pytest.fixture(scope="session")
def evaluations() -> dict[str, Evaluation]:
    """Every kind of report, by name."""
    with load_router("nano", profile="cpu") as router, load_router("nano", profile="cpu", dtype="bfloat16") as other:
        return {
            "passing": made.passing(router),
            "failing": made.failing(router, other),
            "reported": made.failing(router, router, asserting=False),
            "bare": made.bare(router),
            "hostile": made.hostile(router),
            "many": made.many(router),
        }

"""Seeded searches for inputs that break something: short in CI, as long as you like with ``--cases``."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.fuzz)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    value: int = request.config.getoption("--seed", 0)
    return value


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> int | None:
    """How many cases were asked for; None where the search decides."""
    value: int | None = request.config.getoption("--cases", None)
    return value

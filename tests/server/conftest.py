"""Options of the server's tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bodies", type=int, default=2_000, help="bodies that the slow tests of the server send")
    parser.addoption("--bodies-seed", type=int, default=11, help="what those bodies are drawn from")

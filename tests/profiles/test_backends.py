"""Backends by name, and what is said where one is missing or cannot do what is asked of it."""

from __future__ import annotations

import pytest

from trinity_mlx.contracts.errors import EnvironmentUnavailable, ProfileUnavailable
from trinity_mlx.profiles.backends import svd_weights_reader


def test_without_torch_nothing_reads_what_torch_saved() -> None:
    def missing(name: str) -> None:
        raise ProfileUnavailable(f"backend {name!r} cannot be imported: No module named {name!r}")

    with pytest.raises(EnvironmentUnavailable, match=r"No module named 'torch'.*pip install 'trinity-mlx\[torch\]'"):
        svd_weights_reader(missing)


def test_a_torch_backend_of_somebody_else_may_not_read_it() -> None:
    with pytest.raises(EnvironmentUnavailable, match="does not read"):
        svd_weights_reader(lambda name: object())

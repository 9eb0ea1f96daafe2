"""Backends by name, and what is said where one is missing or cannot do what is asked of it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from trinity_mlx.contracts.errors import EnvironmentUnavailable, ProfileUnavailable
from trinity_mlx.profiles.backends import load_backend, svd_weights_reader


def test_without_torch_nothing_reads_what_torch_saved() -> None:
    def missing(name: str) -> None:
        raise ProfileUnavailable(f"backend {name!r} cannot be imported: No module named {name!r}")

    with pytest.raises(EnvironmentUnavailable, match=r"No module named 'torch'.*pip install 'trinity-mlx\[torch\]'"):
        svd_weights_reader(missing)


def test_a_torch_backend_of_somebody_else_may_not_read_it() -> None:
    with pytest.raises(EnvironmentUnavailable, match="does not read"):
        svd_weights_reader(lambda name: object())


@pytest.fixture
def nothing_frozen() -> Iterator[None]:
    """The run of the tests freezes what it imports; it is as it was afterwards."""
    was_frozen = gc.get_freeze_count() > 0
    gc.unfreeze()
    yield
    gc.unfreeze()
    if was_frozen:
        gc.collect()
        gc.freeze()


@pytest.mark.usefixtures("nothing_frozen")
@pytest.mark.parametrize("program_freezes", [False, True])
def test_loading_leaves_the_garbage_collector_as_the_program_had_it(program_freezes: bool) -> None:
    if program_freezes:
        gc.freeze()
    load_backend.__wrapped__("torch")
    assert gc.isenabled()
    assert (gc.get_freeze_count() > 0) == program_freezes

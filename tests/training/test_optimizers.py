"""The laws of every installed optimiser, and what is known of two of them."""

from __future__ import annotations

import numpy as np
import pytest

from trinity_mlx.contracts.errors import UsageError
from trinity_mlx.training.optimizers import Optimizer, load_optimizer, optimizer_names

SIZE = 12
TARGET = np.linspace(-1.0, 1.0, SIZE)


def score(candidates: np.ndarray) -> np.ndarray:
    return -((candidates - TARGET) ** 2).sum(1)


def advance(optimizer: Optimizer, generations: int) -> None:
    for _ in range(generations):
        candidates = optimizer.ask()
        optimizer.tell(candidates, score(candidates))


def make(name: str, seed: int = 0) -> Optimizer:
    return load_optimizer(name)(np.zeros(SIZE), 0.3, 16, seed)


every = pytest.mark.parametrize("name", optimizer_names())


def test_both_of_ours_are_installed() -> None:
    assert {"sep-cma-es", "random-search"} <= set(optimizer_names())
    with pytest.raises(UsageError, match="no optimiser 'newton': there are"):
        load_optimizer("newton")


@every
def test_the_same_seed_asks_the_same_and_another_does_not(name: str) -> None:
    same, again, other = make(name, 0), make(name, 0), make(name, 1)
    for optimizer in (same, again, other):
        advance(optimizer, 3)
    assert np.array_equal(same.ask(), again.ask())
    assert not np.array_equal(same.best, other.best)


@every
def test_what_is_given_is_neither_kept_nor_changed(name: str) -> None:
    start = np.zeros(SIZE)
    optimizer = load_optimizer(name)(start, 0.3, 16, 0)
    candidates = optimizer.ask()
    scores, copy = score(candidates), candidates.copy()
    optimizer.tell(candidates, scores)
    assert np.array_equal(candidates, copy)
    assert not start.any()
    state = optimizer.best
    candidates[:] = np.nan
    assert np.array_equal(optimizer.best, state)


@every
def test_a_restored_one_goes_on_bit_for_bit(name: str) -> None:
    straight, broken = make(name), make(name)
    advance(straight, 9)
    advance(broken, 4)
    saved = {key: array.copy() for key, array in broken.state().items()}
    advance(broken, 2)
    fresh = make(name, seed=5)
    fresh.restore(saved)
    advance(fresh, 5)
    assert np.array_equal(straight.best, fresh.best)
    assert np.array_equal(straight.ask(), fresh.ask())


@every
def test_a_score_that_is_none_is_refused(name: str) -> None:
    optimizer = make(name)
    candidates = optimizer.ask()
    scores = score(candidates)
    scores[3] = np.nan
    with pytest.raises(ValueError, match="1 of 16 candidates have no finite score"):
        optimizer.tell(candidates, scores)


@every
def test_it_gets_better(name: str) -> None:
    optimizer = make(name)
    advance(optimizer, 60)
    assert score(optimizer.best[None])[0] > score(np.zeros((1, SIZE)))[0]


def test_sep_cma_es_does_as_the_library_does() -> None:
    """Fed with the same candidates, ours and a bare one of the library have the same mean at every generation."""
    from cmaes import SepCMA

    ours = make("sep-cma-es")
    bare = SepCMA(mean=np.zeros(SIZE), sigma=0.3, population_size=16, seed=1)
    for _ in range(20):
        candidates = ours.ask()
        scores = score(candidates)
        ours.tell(candidates, scores)
        bare.tell([(row.copy(), -value) for row, value in zip(candidates, scores, strict=True)])
        assert np.array_equal(ours.best, bare.mean)


def test_sep_cma_es_finds_the_top_of_a_bowl() -> None:
    optimizer = make("sep-cma-es")
    advance(optimizer, 300)
    assert np.abs(optimizer.best - TARGET).max() < 1e-3

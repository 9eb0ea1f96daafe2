"""What a search moves: numbers that stand for the head that they were taken from, and steps that are alike."""

from __future__ import annotations

import numpy as np
import pytest

from trinity_mlx.training.coordinates import Coordinates, scaled, whitened
from trinity_mlx.training.head import Head
from trinity_mlx.training.heads import head_kind

ROWS, SIDE = 4, 12


@pytest.fixture(scope="module")
def hidden() -> np.ndarray:
    """Vectors whose directions vary very unevenly, as those of a language model do."""
    draw = np.random.default_rng(1)
    mixed = draw.normal(size=(500, SIDE)) * np.geomspace(30.0, 0.3, SIDE)
    return mixed @ np.linalg.qr(draw.normal(size=(SIDE, SIDE)))[0] + 2.0


def every(hidden: np.ndarray) -> list[Coordinates]:
    return [scaled(head_kind("linear"), ROWS, hidden), whitened(ROWS, hidden)]


@pytest.mark.parametrize("which", [0, 1])
def test_numbers_stand_for_the_head_that_they_were_taken_from(which: int, hidden: np.ndarray) -> None:
    head = Head(np.random.default_rng(2).normal(size=(ROWS, SIDE)))
    coordinates = every(hidden)[which]
    np.testing.assert_allclose(coordinates.head(coordinates.numbers(head)).matrix, head.matrix, rtol=1e-9)


def test_whitened_coordinates_move_logits_alike(hidden: np.ndarray) -> None:
    def stretches(coordinates: Coordinates) -> np.ndarray:
        moves = np.array([coordinates.head(row).logits(hidden)[:, 0] for row in np.eye(ROWS * SIDE)[:SIDE]])
        return np.linalg.svd(moves, compute_uv=False)

    plain, white = map(stretches, every(hidden))
    assert plain.max() / plain.min() > 50.0
    assert white.max() / white.min() < 5.0


def test_vectors_that_never_vary_are_no_obstacle() -> None:
    head = whitened(ROWS, np.ones((20, SIDE))).head(np.ones(ROWS * SIDE))
    assert np.isfinite(head.matrix).all()

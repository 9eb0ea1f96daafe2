"""Closed forms, losses, heads and statistics, against independent oracles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trinity_mlx.training.closed_form import (
    RidgeScores,
    constant_direction,
    neighbour_scores,
    ridge_head,
    tfidf,
)
from trinity_mlx.training.descent import Adam, cross_entropy, hard_labels, reinforce, soft_targets, softmax
from trinity_mlx.training.heads import HEADS
from trinity_mlx.training.statistics import estimate, paired_difference


def numeric_slope(loss: object, at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """The slope of ``loss`` by central differences."""
    slope = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        for sign in (1.0, -1.0):
            moved = at.copy()
            moved[index] += sign * step
            slope[index] += sign * loss(moved) / (2 * step)  # type: ignore[operator]
    return slope


def test_a_ridge_head_is_ridge_regression_with_a_bias_where_a_direction_is_constant() -> None:
    draw = np.random.default_rng(0)
    hidden = np.column_stack([np.full(200, 4.0), draw.normal(size=(200, 6))])
    scores = draw.random((200, 3))
    head = ridge_head(hidden, scores, 5.0)
    features = (hidden[:, 1:] - hidden[:, 1:].mean(0)) / hidden[:, 1:].std(0)
    inputs = np.column_stack([features, np.ones(200)])
    centred = scores - scores.mean(1, keepdims=True)
    penalty = np.diag([5.0] * 6 + [0.0])
    expected = inputs @ np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ centred)
    assert np.allclose(hidden @ head.T, expected, atol=1e-6)
    assert np.allclose(hidden @ constant_direction(hidden), 1.0, atol=1e-6)


@pytest.mark.parametrize("columns", [5, 80])
def test_ridge_predictions_are_the_same_in_either_space(columns: int) -> None:
    draw = np.random.default_rng(1)
    known, scores, asked = draw.normal(size=(40, columns)), draw.random((40, 2)), draw.normal(size=(7, columns))
    mean, deviation = known.mean(0), known.std(0) + 1e-6
    scaled = (known - mean) / deviation
    weights = np.linalg.solve(scaled.T @ scaled + 3.0 * np.eye(columns), scaled.T @ (scores - scores.mean(0)))
    expected = (asked - mean) / deviation @ weights + scores.mean(0)
    assert np.allclose(RidgeScores(known, scores).predict(asked, 3.0), expected, atol=1e-8)


def test_neighbours_are_those_by_angle_and_missing_scores_do_not_count() -> None:
    known = np.array([[1.0, 0.0], [10.0, 1.0], [0.0, 1.0], [-1.0, 0.0]])
    scores = np.array([[1.0, 0.0], [np.nan, 1.0], [0.0, 0.5], [0.0, 0.0]])
    found = neighbour_scores(known, scores, np.array([[5.0, 0.1]]), 2)
    assert np.allclose(found, [[1.0, 0.5]])


def test_words_are_weighed_by_the_texts_that_they_were_counted_on() -> None:
    texts = ["the red house", "the blue house", "the the the", "quite other words"]
    vectors = tfidf(texts, np.array([0, 1, 2]))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[3]
    assert np.array_equal(vectors[:2], tfidf(texts[:3], np.array([0, 1, 2]))[:2])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_the_slope_of_the_cross_entropy_is_its_slope(seed: int) -> None:
    draw = np.random.default_rng(seed)
    logits, targets = draw.normal(size=(4, 3)), soft_targets(draw.random((4, 3)), 0.3)
    assert np.allclose(
        cross_entropy(logits, targets)[1], numeric_slope(lambda at: cross_entropy(at, targets)[0], logits)
    )


def test_hard_labels_share_a_tie() -> None:
    assert np.allclose(hard_labels(np.array([[1.0, 1.0, 0.0], [0.2, 0.1, 0.0]])), [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert np.allclose(softmax(np.array([[0.0, -np.inf]])), [[1.0, 0.0]])


def test_reinforce_points_on_average_to_where_the_mean_reward_grows() -> None:
    draw = np.random.default_rng(3)
    logits, rewards = draw.normal(size=(64, 3)), draw.random((64, 3))
    mean = np.mean([reinforce(logits, rewards, draw)[1] for _ in range(3000)], axis=0)
    exact = numeric_slope(lambda at: -(softmax(at) * rewards).sum(1).mean(), logits)
    cosine = (mean * exact).sum() / (np.linalg.norm(mean) * np.linalg.norm(exact))
    assert cosine > 0.95


def test_adam_takes_the_steps_of_torch() -> None:
    import torch

    numbers = torch.nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
    theirs = torch.optim.Adam([numbers], lr=0.05)
    ours, at = Adam(5, 0.05), np.linspace(-1, 1, 5)
    for _ in range(20):
        theirs.zero_grad()
        (numbers**4).sum().backward()
        theirs.step()
        at = ours.step(at, 4 * at**3)
    assert np.allclose(at, numbers.detach().numpy(), atol=1e-10)


@pytest.mark.parametrize(
    ("name", "size"), [("linear", 10240), ("sparse", 11264), ("block-diagonal-2", 5120), ("block-diagonal-10", 1024)]
)
def test_heads_take_about_as_many_numbers_as_published(name: str, size: int) -> None:
    assert abs(HEADS[name].size(10, 1024) - size) <= 8


@pytest.mark.parametrize("name", HEADS)
def test_a_head_s_slope_is_that_of_its_matrix(name: str) -> None:
    kind, draw = HEADS[name], np.random.default_rng(2)
    numbers, weights = draw.normal(size=kind.size(4, 12)), draw.normal(size=(4, 12))

    def loss(at: np.ndarray) -> float:
        return float((kind.matrix(at, 4, 12) * weights).sum())

    assert np.allclose(kind.pulled(weights, numbers), numeric_slope(loss, numbers), atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_s_matrix_is_refitted_to_itself(name: str) -> None:
    kind = HEADS[name]
    matrix = kind.matrix(np.random.default_rng(4).normal(size=kind.size(4, 12)), 4, 12)
    assert np.allclose(kind.matrix(kind.fitted(matrix), 4, 12), matrix)


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    holds = []
    for _ in range(120):
        found = estimate(draw.random(80), draws=300)
        holds.append(found.low <= 0.5 <= found.high)
    assert 0.85 <= np.mean(holds) <= 1.0


def test_a_paired_test_sees_a_difference_and_no_difference() -> None:
    draw = np.random.default_rng(0)
    one = draw.random(300)
    assert paired_difference(one + 0.05, one).p < 0.01
    assert paired_difference(one, one).p == 1.0
    assert paired_difference(one, draw.permutation(one)).p > 0.01

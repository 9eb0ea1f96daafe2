"""Closed forms, losses, heads and statistics, against independent oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
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
from trinity_mlx.training.head import ALPHA, Head, all_logits, elu, paired, stacked
from trinity_mlx.training.heads import HEADS, head_kind
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
    ("name", "size"),
    [
        ("linear", 10240),
        ("sparse", 11264),
        ("block-diagonal-2", 5120),
        ("block-diagonal-10", 1024),
        ("low-rank", 20680),
    ],
)
def test_heads_take_about_as_many_numbers_as_published(name: str, size: int) -> None:
    assert abs(head_kind(name).size(10, 1024) - size) <= 8


def test_a_head_of_the_published_rank_takes_fewer_numbers_than_published() -> None:
    assert head_kind("low-rank", rank=14).size(10, 1024) == 14476


@pytest.mark.parametrize("name", HEADS)
def test_a_head_s_slopes_are_those_of_its_logits(name: str) -> None:
    """Against differences: at its numbers, and at the hidden vectors, for a loss that weighs the logits."""
    kind, draw = head_kind(name, rank=5, length=3.0), np.random.default_rng(2)
    numbers, hidden, weights = draw.normal(size=kind.size(4, 12)), draw.normal(size=(6, 12)), draw.normal(size=(6, 4))

    def at_numbers(at: np.ndarray) -> float:
        return float((kind.head(at, 4, 12).logits(hidden) * weights).sum())

    def at_hidden(at: np.ndarray) -> float:
        return float((kind.head(numbers, 4, 12).logits(at) * weights).sum())

    assert np.allclose(kind.pulled(weights, hidden, numbers), numeric_slope(at_numbers, numbers), atol=1e-6)
    assert np.allclose(kind.head(numbers, 4, 12).pulled(weights, hidden), numeric_slope(at_hidden, hidden), atol=1e-6)


def test_an_elu_and_its_slopes_are_those_of_torch() -> None:
    draw = np.random.default_rng(3)
    kind = head_kind("low-rank", rank=6, length=2.0)
    numbers, hidden, weights = draw.normal(size=kind.size(4, 9)), draw.normal(size=(5, 9)), draw.normal(size=(5, 4))
    flat, vectors = (torch.tensor(each, requires_grad=True) for each in (numbers, hidden))
    inner, matrix = flat[:54].reshape(6, 9) / 2.0, flat[54:].reshape(4, 6)
    logits = torch.nn.functional.elu(vectors @ inner.T, ALPHA) @ matrix.T
    (logits * torch.tensor(weights)).sum().backward()
    head = kind.head(numbers, 4, 9)
    assert np.allclose(head.logits(hidden), logits.detach().numpy(), atol=1e-12)
    assert flat.grad is not None
    assert np.allclose(kind.pulled(weights, hidden, numbers), flat.grad.numpy(), atol=1e-12)
    assert vectors.grad is not None
    assert np.allclose(head.pulled(weights, hidden), vectors.grad.numpy(), atol=1e-12)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_refitted_to_itself(name: str) -> None:
    kind = head_kind(name, rank=5, length=3.0)
    numbers = np.random.default_rng(4).normal(size=kind.size(4, 12))
    head = kind.head(numbers, 4, 12)
    again = kind.head(kind.fitted(head), 4, 12)
    assert all(np.allclose(again.arrays()[part], values) for part, values in head.arrays().items())


@pytest.mark.parametrize("name", HEADS)
def test_heads_asked_together_say_what_each_says_alone(name: str) -> None:
    kind, draw = head_kind(name, rank=5), np.random.default_rng(5)
    heads = [kind.head(draw.normal(size=kind.size(4, 12)), 4, 12) for _ in range(3)]
    hidden = draw.normal(size=(7, 12))
    assert np.allclose(all_logits(heads, hidden), [head.logits(hidden) for head in heads])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 10), st.floats(0.01, 30.0), st.integers(0, 1000))
def test_a_linear_head_as_a_low_rank_one_chooses_the_same(rows: int, length: float, seed: int) -> None:
    """Each row is a pair of units of opposite signs: a function that is odd and grows, the same for all rows."""
    draw = np.random.default_rng(seed)
    matrix, hidden = draw.normal(size=(rows, 16)), draw.normal(size=(50, 16)) * length / 4
    kind = head_kind("low-rank", rank=20, length=length)
    head = kind.head(kind.fitted(Head(matrix)), rows, 16)
    assert np.array_equal(head.logits(hidden).argmax(1), (hidden @ matrix.T).argmax(1))


def test_more_agents_than_pairs_keep_the_main_directions() -> None:
    draw = np.random.default_rng(6)
    matrix = draw.normal(size=(12, 3)) @ draw.normal(size=(3, 16))
    hidden = draw.normal(size=(200, 16))
    kind = head_kind("low-rank", rank=6, length=4.0)
    head = kind.head(kind.fitted(Head(matrix)), 12, 16)
    agreed = head.logits(hidden).argmax(1) == (hidden @ matrix.T).argmax(1)
    assert agreed.mean() > 0.9


def test_units_that_reach_little_are_linear() -> None:
    draw = np.random.default_rng(7)
    matrix, hidden = draw.normal(size=(3, 16)), draw.normal(size=(50, 16))
    found = paired(matrix, np.eye(3), 1e-3).logits(hidden)
    assert np.allclose(found, hidden @ matrix.T, atol=1e-3 * np.abs(found).max())
    assert elu(np.array([2.0, -50.0])).tolist() == [2.0, pytest.approx(-ALPHA)]


def test_heads_are_stacked_whatever_their_kinds() -> None:
    draw = np.random.default_rng(8)
    hidden = draw.normal(size=(40, 16))
    linear, low = Head(draw.normal(size=(3, 16))), Head(draw.normal(size=(2, 5)), draw.normal(size=(5, 16)))
    for upper, lower in ((linear, linear), (low, linear), (linear, low), (low, low)):
        both = stacked(upper, lower, 4.0)
        assert (both.inner is None) == (upper.inner is None and lower.inner is None)
        expected = np.hstack([upper.logits(hidden), lower.logits(hidden)])
        assert np.allclose(both.logits(hidden), expected, rtol=0.02, atol=0.02)
    silent = stacked(low, Head(np.zeros((3, 16))), 4.0)
    assert silent.inner is not None
    assert len(silent.inner) == 5
    assert np.array_equal(silent.logits(hidden)[:, -3:], np.zeros((40, 3)))


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

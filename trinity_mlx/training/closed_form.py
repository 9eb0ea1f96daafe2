"""Predictors of each agent's score that need no descent: ridge regression, nearest neighbours, TF-IDF."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
NEIGHBOURS = (5, 10, 20, 40, 80)
BUCKETS = 8192
_WORD = re.compile(r"\w+")
_BLOCK = 512
"""Rows whose similarities to all known ones are held at a time."""


def ridge_head(hidden: np.ndarray, scores: np.ndarray, penalty: float) -> np.ndarray:
    """A head without a bias that predicts how much better than the row's mean each agent is; float64 [agents, hidden].

    Ridge regression on features of mean 0 and deviation 1. A head has no bias, so the means are folded into it along
    the direction in which the hidden vectors are most nearly constant (``constant_direction``).

    Args:
        hidden: [rows, hidden].
        scores: [rows, agents], NaN where missing: each agent is fitted on the rows that it has.
        penalty: added to the diagonal.
    """
    mean, deviation = hidden.mean(0), hidden.std(0) + 1e-12
    features = (hidden - mean) / deviation
    centred = scores - np.nanmean(scores, axis=1, keepdims=True)
    weights = np.stack([_ridge(features, column, penalty) for column in centred.T])
    slopes = weights[:, :-1] / deviation
    bias = weights[:, -1] - slopes @ mean
    head: np.ndarray = slopes + bias[:, None] * constant_direction(hidden)
    return head


def constant_direction(hidden: np.ndarray) -> np.ndarray:
    """The vector [hidden] whose product with each row is as near to 1 as can be."""
    side = hidden.shape[1]
    gram = hidden.T @ hidden
    direction: np.ndarray = np.linalg.solve(gram + 1e-9 * np.trace(gram) / side * np.eye(side), hidden.sum(0))
    return direction


class RidgeScores:
    """Ridge regression with a bias of each agent's score; fitted once, then solved for any penalty.

    Solved in the space of rows where there are fewer of them than features. Many rows are thinned evenly, since the
    solution takes the cube of their number.

    Args:
        known: features [rows, side].
        scores: [rows, agents], NaN where missing: the agent's mean there.
        most: how many rows are used.
    """

    def __init__(self, known: np.ndarray, scores: np.ndarray, most: int = 4000) -> None:
        kept = np.unique(np.linspace(0, len(known) - 1, min(most, len(known))).astype(int))
        self._mean, self._deviation = known[kept].mean(0), known[kept].std(0) + 1e-6
        self._level = mean_by_column(scores)
        self._features = self._scaled(known[kept])
        self._targets = np.where(np.isnan(scores[kept]), 0.0, scores[kept] - self._level)
        self._is_tall = self._features.shape[0] >= self._features.shape[1]
        product = self._features.T @ self._features if self._is_tall else self._features @ self._features.T
        self._gram = product.astype(np.float64)

    def predict(self, asked: np.ndarray, penalty: float) -> np.ndarray:
        """Each agent's score for ``asked`` [asked, side] under ``penalty``: [asked, agents]."""
        system = self._gram + penalty * np.eye(len(self._gram))
        if self._is_tall:
            weights = np.linalg.solve(system, self._features.T @ self._targets)
        else:
            weights = self._features.T @ np.linalg.solve(system, self._targets)
        predicted: np.ndarray = self._scaled(asked) @ weights + self._level
        return predicted

    def _scaled(self, rows: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = (rows - self._mean) / self._deviation
        return scaled


def neighbour_scores(known: np.ndarray, scores: np.ndarray, asked: np.ndarray, count: int) -> np.ndarray:
    """Mean scores of the ``count`` rows of ``known`` that lie nearest by angle: [asked, agents]."""
    nearest = nearest_rows(known, asked, min(count, len(known)))
    level = mean_by_column(scores)
    gathered = scores[nearest]
    missing = np.isnan(gathered)
    total = np.where(missing, 0.0, gathered).sum(1)
    asked_count = (~missing).sum(1)
    mean: np.ndarray = np.where(asked_count > 0, total / np.maximum(asked_count, 1), level)
    return mean


def nearest_rows(known: np.ndarray, asked: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` rows of ``known`` nearest by angle, nearest first: [asked, count]."""
    left, right = _unit(known), _unit(asked)
    nearest = []
    for start in range(0, len(right), _BLOCK):
        similar = right[start : start + _BLOCK] @ left.T
        some = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(similar, some, 1), axis=1, kind="stable")
        nearest.append(np.take_along_axis(some, order, 1))
    return np.concatenate(nearest)


def tfidf(texts: Sequence[str], fitted_on: np.ndarray) -> np.ndarray:
    """Hashed TF-IDF of words and pairs of words, rows of length 1: float32 [texts, BUCKETS].

    Frequencies of documents are counted on the texts ``fitted_on`` alone.
    """
    counts = np.zeros((len(texts), BUCKETS), dtype=np.float32)
    for row, text in enumerate(texts):
        words = _WORD.findall(text.lower())
        for term in (*words, *map(" ".join, pairwise(words))):
            counts[row, zlib.crc32(term.encode("utf-8", "surrogatepass")) % BUCKETS] += 1.0
    documents = (counts[fitted_on] > 0).sum(0)
    weights = np.log((1 + len(fitted_on)) / (1 + documents)) + 1.0
    return _unit(np.log1p(counts) * weights.astype(np.float32))


def mean_by_column(scores: np.ndarray) -> np.ndarray:
    """The mean of each column's known values [agents]; 0 for a column without any."""
    known = ~np.isnan(scores)
    mean: np.ndarray = np.where(known, scores, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    return mean


def _ridge(features: np.ndarray, column: np.ndarray, penalty: float) -> np.ndarray:
    """Weights and bias for one agent, on the rows where it is known: [features + 1]."""
    known = ~np.isnan(column)
    if not known.any():
        return np.zeros(features.shape[1] + 1)
    inputs = np.column_stack([features[known], np.ones(known.sum())])
    diagonal = np.append(np.full(features.shape[1], penalty), 1e-9)
    weights: np.ndarray = np.linalg.solve(inputs.T @ inputs + np.diag(diagonal), inputs.T @ column[known])
    return weights


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit

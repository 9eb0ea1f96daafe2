"""Singular-value fine-tuning through one small factor, against its definition through a full decomposition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trinity_mlx.contracts.artifact import Execution
from trinity_mlx.factorization.gram import gram_matrix
from trinity_mlx.factorization.svf import svf_factor

SIDES = st.integers(1, 24)
SEEDS = st.integers(0, 2**32 - 1)


def by_definition(weight: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """``norm * U diag(S (1 + d)) V^T`` with ``norm = sum(S) / sum(S (1 + d))``."""
    left, singular, right = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    scaled = singular * (1.0 + offsets.astype(np.float64))
    return np.asarray(singular.sum() / scaled.sum() * left @ np.diag(scaled) @ right)


def separated(rows: int, columns: int, seed: int) -> np.ndarray:
    """A matrix whose singular values are a tenth apart at least, so that its singular vectors are unique."""
    draw = np.random.default_rng(seed)
    smaller = min(rows, columns)
    left, _ = np.linalg.qr(draw.normal(size=(rows, smaller)))
    right, _ = np.linalg.qr(draw.normal(size=(columns, smaller)))
    singular = np.arange(smaller, 0, -1) / 10 + draw.uniform(0, 0.001, smaller)
    return np.asarray(left @ np.diag(singular) @ right.T)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@settings(max_examples=150)
@given(SIDES, SIDES, SEEDS, st.floats(0.0, 0.9))
def test_applying_the_factor_is_the_definition(rows: int, columns: int, seed: int, scale: float) -> None:
    weight = separated(rows, columns, seed)
    offsets = np.random.default_rng(seed + 1).uniform(-scale, scale, min(rows, columns))
    adapted = svf_factor(weight, offsets).apply(weight)
    assert relative_error(adapted, by_definition(weight, offsets)) < 1e-9


@pytest.mark.parametrize(
    ("shape", "execution", "side"),
    [((40, 8), Execution.RIGHT, 8), ((8, 40), Execution.LEFT, 8), ((8, 8), Execution.RIGHT, 8)],
)
def test_the_factor_has_the_smaller_side(shape: tuple[int, int], execution: Execution, side: int) -> None:
    factor = svf_factor(separated(*shape, seed=3), np.linspace(-0.2, 0.2, side))
    assert factor.execution is execution
    assert factor.matrix.shape == (side, side)
    assert factor.matrix.dtype == np.float64


@given(SIDES, SIDES, SEEDS, st.sampled_from(["normal", "equal", "rank one", "decaying"]))
def test_zero_offsets_change_nothing_whatever_the_spectrum(rows: int, columns: int, seed: int, kind: str) -> None:
    draw = np.random.default_rng(seed)
    spectra: dict[str, Any] = {
        "normal": lambda: draw.normal(size=(rows, columns)),
        "equal": lambda: np.eye(rows, columns),
        "rank one": lambda: np.outer(draw.normal(size=rows) + 3, draw.normal(size=columns) + 3),
        "decaying": lambda: draw.normal(size=(rows, columns)) * np.logspace(0, -6, columns),
    }
    weight = spectra[kind]()
    factor = svf_factor(weight, np.zeros(min(rows, columns)))
    np.testing.assert_allclose(factor.matrix, np.eye(min(rows, columns)), atol=1e-12)
    assert relative_error(factor.apply(weight), weight) < 1e-12


@given(SIDES, SIDES, SEEDS, st.floats(-0.9, 10.0))
def test_one_offset_for_all_is_normalised_away(rows: int, columns: int, seed: int, offset: float) -> None:
    weight = separated(rows, columns, seed)
    adapted = svf_factor(weight, np.full(min(rows, columns), offset)).apply(weight)
    assert relative_error(adapted, weight) < 1e-9


@given(SIDES, SIDES, SEEDS)
def test_the_sum_of_singular_values_is_kept(rows: int, columns: int, seed: int) -> None:
    weight = separated(rows, columns, seed)
    offsets = np.random.default_rng(seed + 1).uniform(-0.5, 0.5, min(rows, columns))
    sums = [np.linalg.svd(each, compute_uv=False).sum() for each in (weight, svf_factor(weight, offsets).apply(weight))]
    assert sums[1] == pytest.approx(sums[0], rel=1e-9)


@given(SIDES, SIDES, SEEDS)
def test_a_transposed_matrix_adapts_to_the_transposed_result(rows: int, columns: int, seed: int) -> None:
    weight = separated(rows, columns, seed)
    offsets = np.random.default_rng(seed + 1).uniform(-0.5, 0.5, min(rows, columns))
    adapted, turned = svf_factor(weight, offsets).apply(weight), svf_factor(weight.T, offsets).apply(weight.T)
    assert relative_error(turned, adapted.T) < 1e-9


def test_offsets_belong_to_singular_values_in_descending_order() -> None:
    weight = np.diag([1.0, 3.0, 2.0])
    adapted = svf_factor(weight, np.array([1.0, 0.0, 0.0])).apply(weight)
    np.testing.assert_allclose(adapted, np.diag([1.0, 6.0, 2.0]) * 6 / 9, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_smaller_number_types_are_computed_in_float64(dtype: Any) -> None:
    weight = separated(30, 6, seed=5).astype(dtype)
    offsets = np.linspace(-0.3, 0.3, 6, dtype=np.float32)
    adapted = svf_factor(weight, offsets).apply(weight)
    assert adapted.dtype == np.float64
    assert relative_error(adapted, by_definition(weight, offsets)) < 1e-9


def test_a_gram_matrix_of_many_tiles_is_the_plain_product() -> None:
    matrix = np.random.default_rng(0).normal(size=(9001, 3)).astype(np.float32)
    expected = matrix.astype(np.float64).T @ matrix.astype(np.float64)
    np.testing.assert_allclose(gram_matrix(matrix), expected, rtol=1e-12)


@pytest.mark.parametrize("offsets", [np.zeros(4), np.zeros(2), np.zeros(0), np.zeros((3, 1)), np.zeros(())])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (3, 3)])
def test_a_wrong_number_of_offsets_is_refused(shape: tuple[int, int], offsets: np.ndarray) -> None:
    with pytest.raises(ValueError, match=f"{shape[0]} x {shape[1]} matrix takes 3 offsets"):
        svf_factor(np.ones(shape), offsets)


def test_offsets_that_leave_nothing_to_normalise_by_are_refused() -> None:
    with pytest.raises(ValueError, match="zero"):
        svf_factor(separated(5, 3, seed=1), np.full(3, -1.0))

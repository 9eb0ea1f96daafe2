"""The mathematics of the stages, block by block, against the definition in float64 on whole matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trinity_mlx.factorization.gram import gram_matrix, spectrum_of
from trinity_mlx.factorization.stages import (
    Components,
    FromComponents,
    FromTallGram,
    FromWideGram,
    Scaling,
    Stage,
    StageMaker,
    Stages,
    relative_gap,
)
from trinity_mlx.factorization.svf import change_of
from trinity_mlx.factorization.tiles import blocks
from trinity_mlx.files.safetensors import as_floats, to_bfloat16

from ..builders import svf_in_float64

SIDES = st.integers(1, 12)
SEEDS = st.integers(0, 2**32 - 1)


def components_of(weight: np.ndarray) -> Components:
    u, s, vh = np.linalg.svd(weight, full_matrices=False)
    return Components(u, s, vh.T)


def in_float32(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """A product as a device without float64 gives it."""
    product: np.ndarray = left.astype(np.float32) @ right.astype(np.float32)
    return product


def gram_maker(weight: np.ndarray, offsets: np.ndarray) -> StageMaker:
    spectrum = spectrum_of(gram_matrix(weight))
    scaling = Scaling.of(spectrum.singular, offsets)
    change = change_of(spectrum, scaling.gains * scaling.norm)
    kind = FromTallGram if weight.shape[0] >= weight.shape[1] else FromWideGram
    return kind(spectrum.vectors, change, scaling, np.matmul)


def whole(maker: StageMaker, weight: np.ndarray, tile: int | None = None) -> Stages:
    """Every stage of ``weight`` put together from its blocks."""
    rows, columns = weight.shape
    shapes = {Stage.U_SCALED: (rows, min(rows, columns))}
    found = {
        stage: np.full(shapes.get(stage, weight.shape), np.nan)
        for stage in (Stage.U_SCALED, Stage.PRE_NORM, Stage.ZERO, Stage.ADAPTED)
    }
    for block in blocks((rows, columns), tile):
        for stage, values in maker.block(weight[block], block).items():
            found[stage][(block[0], slice(None)) if stage is Stage.U_SCALED else block] = values
    return found


def draw_case(rows: int, columns: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(rows, columns)), draw.uniform(-0.3, 0.3, min(rows, columns))


@given(SIDES, SIDES, SEEDS)
def test_stages_from_components_follow_the_definition(rows: int, columns: int, seed: int) -> None:
    weight, offsets = draw_case(rows, columns, seed)
    parts = components_of(weight)
    scaling = Scaling.of(parts.s, offsets)
    found = whole(FromComponents(parts, scaling, np.matmul), weight, tile=7)
    np.testing.assert_allclose(found[Stage.U_SCALED], parts.u * (parts.s * (1 + offsets)), atol=1e-13)
    np.testing.assert_allclose(found[Stage.ZERO], weight, atol=1e-12)
    np.testing.assert_allclose(found[Stage.ADAPTED], svf_in_float64(weight, offsets), atol=1e-11)
    np.testing.assert_allclose(found[Stage.PRE_NORM] * scaling.norm, found[Stage.ADAPTED], atol=1e-12)


@given(SIDES, SIDES, SEEDS)
def test_stages_from_a_gram_matrix_agree_up_to_the_sign_of_columns(rows: int, columns: int, seed: int) -> None:
    weight, offsets = draw_case(rows, columns, seed)
    parts = components_of(weight)
    expected = whole(FromComponents(parts, Scaling.of(parts.s, offsets), np.matmul), weight)
    found = whole(gram_maker(weight, offsets), weight, tile=7)
    for stage in (Stage.PRE_NORM, Stage.ZERO, Stage.ADAPTED):
        np.testing.assert_allclose(found[stage], expected[stage], atol=1e-5)
    np.testing.assert_allclose(np.abs(found[Stage.U_SCALED]), np.abs(expected[Stage.U_SCALED]), atol=1e-5)


def test_float32_components_give_float32_stages() -> None:
    weight, offsets = draw_case(9, 4, seed=1)
    parts = components_of(weight.astype(np.float32))
    maker = FromComponents(parts, Scaling.of(parts.s, offsets), np.matmul)
    made = maker.block(weight.astype(np.float32), (slice(None), slice(None)))
    assert {values.dtype for values in made.values()} == {np.dtype(np.float32)}
    assert maker.scaling.scaled.dtype == np.float32


def test_a_float32_product_of_float64_components_stays_close() -> None:
    weight, offsets = draw_case(40, 20, seed=2)
    parts = components_of(weight)
    found = whole(FromComponents(parts, Scaling.of(parts.s, offsets), in_float32), weight)
    np.testing.assert_allclose(found[Stage.ADAPTED], svf_in_float64(weight, offsets), atol=1e-5)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20), SEEDS)
def test_normalization_keeps_the_sum_of_singular_values(values: list[float], seed: int) -> None:
    singular = np.sort(np.array(values))[::-1]
    scaling = Scaling.of(singular, np.random.default_rng(seed).uniform(-0.5, 0.5, len(values)))
    assert math.isclose(float(scaling.norm * scaling.scaled.sum()), float(singular.sum()), rel_tol=1e-12)


def test_zero_offsets_change_nothing() -> None:
    singular = np.array([3.0, 2.0], np.float32)
    scaling = Scaling.of(singular, np.zeros(2))
    np.testing.assert_array_equal(scaling.scaled, singular)
    assert scaling.norm == 1


def test_a_wrong_number_of_offsets_is_refused() -> None:
    with pytest.raises(ValueError, match="3 singular values take 3 offsets, not 2"):
        Scaling.of(np.ones(3), np.zeros(2))


def test_offsets_that_cancel_the_sum_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing to normalise by"):
        Scaling.of(np.ones(2), np.array([0.0, -2.0]))


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 200))
def test_blocks_cover_a_matrix_once(rows: int, columns: int, numbers: int) -> None:
    seen = np.zeros((rows, columns), int)
    for block in blocks((rows, columns), numbers):
        seen[block] += 1
        assert seen[block].size <= max(numbers, min(rows, columns))
    assert (seen == 1).all()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1))
def test_bfloat16_rounds_as_torch_does(patterns: list[int]) -> None:
    values = np.array(patterns, np.uint32).view(np.float32)
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16)
    found = as_floats(to_bfloat16(values))
    np.testing.assert_array_equal(found, expected.float().numpy())


@pytest.mark.parametrize("pattern", [0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 1, 0x8000])
def test_bfloat16_ties_overflow_and_special_values(pattern: int) -> None:
    values = np.array([pattern], np.uint32).view(np.float32)
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(as_floats(to_bfloat16(values)), expected)


def test_the_smallest_gap_is_relative_to_the_largest_value() -> None:
    assert relative_gap(np.array([4.0, 3.0, 2.9])) == pytest.approx(0.025)
    assert relative_gap(np.array([4.0, 4.0])) == 0
    assert relative_gap(np.zeros(2)) == 0
    assert relative_gap(np.array([4.0])) == 1

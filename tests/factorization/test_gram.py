"""The Gram path: sums over tiles, eigenpairs, and adapted tensors, against numpy's decompositions in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from trinity_mlx.contracts.artifact import TensorLocation
from trinity_mlx.factorization import tiles
from trinity_mlx.factorization.gram import Spectrum, gram_matrix, spectrum_of
from trinity_mlx.factorization.host import factorizer_of
from trinity_mlx.factorization.svf import change_of, execution_for, gains
from trinity_mlx.files.safetensors import read_header
from trinity_mlx.profiles.backends import load_backend

from ..builders import BACKENDS, svf_in_float64

SIDES = st.integers(1, 40)
SEEDS = st.integers(0, 2**32 - 1)
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SPECTRA = ("decades", "close pairs", "dominant")


def trained_like(rows: int, columns: int, kind: str) -> np.ndarray:
    """A matrix with singular values over three decades: plain, in pairs 1e-4 apart, or with one 30 times the next."""
    draw, side = np.random.default_rng(3), min(rows, columns)
    left, _ = np.linalg.qr(draw.normal(size=(rows, side)))
    right, _ = np.linalg.qr(draw.normal(size=(columns, side)))
    singular = np.logspace(0, -3, side)
    if kind == "close pairs":
        singular[1::2] = singular[::2] * (1 - 1e-4)
    if kind == "dominant":
        singular[0] = 30.0
    return (left * singular) @ right.T


FACTORIZERS = (*BACKENDS, "host")


def factorizer_named(name: str) -> Any:
    """A backend's own on the CPU, or the one that a backend without any has."""
    backend = object() if name == "host" else load_backend(name)
    return factorizer_of(backend, "cpu")  # type: ignore[arg-type]


def stored(folder: Path, matrix: np.ndarray, dtype: str) -> TensorLocation:
    """``matrix`` in a safetensors file that another library wrote."""
    path = folder / f"{dtype}.safetensors"
    save_file({"w": torch.from_numpy(matrix).to(DTYPES[dtype]).contiguous()}, path)
    return read_header(path)["w"]


def values_of(tensor: TensorLocation) -> np.ndarray:
    """What torch reads from the file, in float64."""
    raw = tensor.path.read_bytes()[tensor.start : tensor.start + tensor.nbytes]
    return torch.frombuffer(bytearray(raw), dtype=DTYPES[tensor.dtype]).view(tensor.shape).double().numpy()


def adapted(backend: str, tensor: TensorLocation, offsets: np.ndarray) -> np.ndarray:
    """The tensor as a backend's factorizer adapts it, in float64."""
    factorizer = factorizer_named(backend)
    spectrum = spectrum_of(factorizer.gram(tensor))
    change = change_of(spectrum, gains(spectrum.singular, offsets))
    found = b"".join(factorizer.adapted_tiles(tensor, execution_for(tensor.shape), change))
    return torch.frombuffer(bytearray(found), dtype=DTYPES[tensor.dtype]).view(tensor.shape).double().numpy()


def errors(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Largest and mean difference, relative to the largest entry."""
    difference = np.abs(found - expected) / np.abs(expected).max()
    return float(difference.max()), float(difference.mean())


def by_torch_svd(weight: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The reference pipeline: ``torch.svd`` in float32, then ``U diag(S (1 + d)) V^T``."""
    left, singular, right = torch.svd(torch.from_numpy(weight).float())
    scaled = singular * (1 + torch.from_numpy(offsets).float())
    return ((singular.sum() / scaled.sum()) * (left * scaled) @ right.T).double().numpy()


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 64 entries, so that small matrices have many."""
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 64)


@settings(max_examples=60)
@given(rows=SIDES, columns=SIDES, seed=SEEDS, size=st.integers(1, 200))
def test_a_tiled_sum_is_the_plain_product(rows: int, columns: int, seed: int, size: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    wide = matrix.astype(np.float64)
    expected = wide.T @ wide if rows >= columns else wide @ wide.T
    seen: list[int] = []
    np.testing.assert_allclose(gram_matrix(matrix, seen.append, size), expected, rtol=1e-12, atol=1e-12)
    assert sum(seen) == matrix.size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(90, 12), (12, 90), (12, 12)])
@pytest.mark.parametrize("backend", FACTORIZERS)
@pytest.mark.usefixtures("small_tiles")
def test_a_mapped_tensor_of_any_type_is_summed_exactly(
    tmp_path: Path, backend: str, shape: tuple[int, int], dtype: str
) -> None:
    tensor = stored(tmp_path, np.random.default_rng(1).normal(size=shape), dtype)
    values = values_of(tensor)
    expected = values.T @ values if shape[0] >= shape[1] else values @ values.T
    found = factorizer_named(backend).gram(tensor)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@given(SIDES, SIDES, SEEDS)
def test_eigenpairs_are_the_singular_values_and_vectors(rows: int, columns: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(rows, columns))
    spectrum = spectrum_of(gram_matrix(matrix))
    expected = np.linalg.svd(matrix, compute_uv=False)
    np.testing.assert_allclose(spectrum.singular, expected, rtol=1e-6, atol=1e-6 * expected[0])
    assert (np.diff(spectrum.singular) <= 0).all()
    identity = np.eye(min(rows, columns))
    np.testing.assert_allclose(spectrum.vectors.T @ spectrum.vectors, identity, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_matrix_that_is_not_finite_is_refused(bad: float) -> None:
    matrix = np.ones((5, 3))
    matrix[2, 1] = bad
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="NaN or infinity"):
        spectrum_of(gram_matrix(matrix))


@pytest.mark.parametrize("backend", FACTORIZERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_whole_decomposition_refuses_what_is_not_finite(tmp_path: Path, backend: str, bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        factorizer_named(backend).svd(stored(tmp_path, np.full((4, 3), bad), "F32"))


@pytest.mark.parametrize("backend", FACTORIZERS)
@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (12, 12)])
def test_a_whole_decomposition_gives_the_same_spectrum(tmp_path: Path, backend: str, shape: tuple[int, int]) -> None:
    tensor = stored(tmp_path, np.random.default_rng(2).normal(size=shape), "F32")
    factorizer = factorizer_named(backend)
    exact, whole = spectrum_of(factorizer.gram(tensor)), Spectrum(*factorizer.svd(tensor))
    np.testing.assert_allclose(whole.singular, exact.singular, rtol=1e-5)
    assert whole.vectors.shape == (12, 12)
    np.testing.assert_allclose(np.abs(np.sum(whole.vectors * exact.vectors, axis=0)), 1, atol=1e-4)


@settings(max_examples=60)
@given(rows=SIDES, columns=SIDES, seed=SEEDS, scale=st.floats(0.0, 2.5))
def test_two_adaptations_in_one_are_one_after_the_other(rows: int, columns: int, seed: int, scale: float) -> None:
    draw, side = np.random.default_rng(seed), min(rows, columns)
    left, _ = np.linalg.qr(draw.normal(size=(rows, side)))
    right, _ = np.linalg.qr(draw.normal(size=(columns, side)))
    singular = np.arange(side, 0, -1) + draw.uniform(0, 0.3, side)
    first, second = draw.uniform(-scale, scale, (2, side))
    once = np.abs(singular * (1 + first))
    if abs(np.sum(singular * (1 + first))) < 0.1 or abs(np.sum(np.sort(once)[::-1] * (1 + second))) < 0.1:
        return
    if side > 1 and np.diff(np.sort(once)).min() < 1e-3:
        return
    weight = (left * singular) @ right.T
    expected = svf_in_float64(svf_in_float64(weight, first), second)
    spectrum = spectrum_of(gram_matrix(weight))
    change = change_of(spectrum, gains(spectrum.singular, first, second))
    found = weight + (weight @ change if rows >= columns else change @ weight)
    assert np.abs(found - expected).max() <= 1e-7 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(90, 12), (12, 90), (12, 12), (1, 1), (1, 5), (5, 1)])
@pytest.mark.parametrize("backend", FACTORIZERS)
@pytest.mark.usefixtures("small_tiles")
def test_adapted_tiles_are_the_adapted_tensor_rounded_once(
    tmp_path: Path, backend: str, shape: tuple[int, int], dtype: str
) -> None:
    tensor = stored(tmp_path, np.random.default_rng(1).normal(size=shape), dtype)
    offsets = np.random.default_rng(2).normal(0, 0.2, min(shape))
    exact = svf_in_float64(values_of(tensor), offsets)
    rounding = {"F32": 3e-7, "F16": 5.1e-4, "BF16": 4.1e-3}[dtype]
    np.testing.assert_allclose(adapted(backend, tensor, offsets), exact, rtol=rounding, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(90, 12), (12, 90)])
@pytest.mark.parametrize("backend", FACTORIZERS)
def test_zero_offsets_give_the_source_back_bit_for_bit(
    tmp_path: Path, backend: str, shape: tuple[int, int], dtype: str
) -> None:
    tensor = stored(tmp_path, np.random.default_rng(1).normal(size=shape), dtype)
    np.testing.assert_array_equal(adapted(backend, tensor, np.zeros(12)), values_of(tensor))


@pytest.mark.parametrize("backend", FACTORIZERS)
def test_an_adapted_value_beyond_the_number_type_is_refused(tmp_path: Path, backend: str) -> None:
    tensor = stored(tmp_path, np.diag([60000.0, 50000.0]), "F16")
    with pytest.raises(ValueError, match="beyond the range"):
        adapted(backend, tensor, np.array([1.0, -0.5]))


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("shape", [(1500, 128), (128, 700)])
@pytest.mark.parametrize("backend", FACTORIZERS)
def test_adapted_tensors_are_closer_to_the_truth_than_the_reference(
    tmp_path: Path, backend: str, shape: tuple[int, int], kind: str
) -> None:
    check_precision(tmp_path, backend, trained_like(*shape, kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("backend", FACTORIZERS)
def test_adapted_tensors_of_real_width_are_closer_to_the_truth_than_the_reference(
    tmp_path: Path, backend: str, kind: str
) -> None:
    check_precision(tmp_path, backend, trained_like(20_000, 1024, kind))


def check_precision(folder: Path, backend: str, weight: np.ndarray) -> None:
    """Before rounding to BF16, so the source's BF16 values lie in a float32 file."""
    source = torch.from_numpy(weight).bfloat16().double().numpy()
    offsets = np.random.default_rng(5).normal(0, 0.03, min(weight.shape))
    truth = svf_in_float64(source, offsets)
    largest, mean = errors(adapted(backend, stored(folder, source, "F32"), offsets), truth)
    reference_largest, reference_mean = errors(by_torch_svd(source, offsets), truth)
    assert largest <= 2e-6
    assert mean <= 1e-7
    assert reference_largest >= 10 * largest
    assert reference_mean >= 10 * mean

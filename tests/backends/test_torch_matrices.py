"""Matrices as torch's CPU lanes hold them: packed for oneDNN, or in 8 bits; and what is done between their products."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from trinity_backend_torch import packed, quantized
from trinity_backend_torch.blocks import BLOCK_ENTRIES, in_blocks
from trinity_backend_torch.weights import product, product_plus

needs_packing, needs_packing_of_bfloat16 = (
    pytest.mark.skipif(not packed.packs(dtype), reason=f"this torch packs no matrices of {dtype} here")
    for dtype in (torch.float32, torch.bfloat16)
)
needs_8_bits = pytest.mark.skipif(
    not quantized.multiplies_8_bits(), reason="this torch multiplies no 8-bit numbers here"
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@needs_packing
@pytest.mark.parametrize("tokens", [0, 1, 2, 31, 130])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_a_packed_matrix_multiplies_as_the_plain_one_does(tokens: int, dtype: torch.dtype, tolerance: float) -> None:
    matrix, x = normal(640, 512).to(dtype), normal(tokens, 512, seed=1).to(dtype)
    found = product(x, packed.pack(matrix))
    assert found.dtype == dtype
    assert found.shape == (tokens, 640)
    assert not tokens or relative(found, x.double() @ matrix.double().T) <= tolerance


@pytest.mark.parametrize("tokens", [0, 1, 31, 130])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        pytest.param(torch.float32, 1e-6, marks=needs_packing),
        pytest.param(torch.bfloat16, 6e-3, marks=needs_packing_of_bfloat16),
    ],
)
def test_packed_products_go_on_as_plain_ones_do(tokens: int, dtype: torch.dtype, tolerance: float) -> None:
    down, gate, up = (normal(512, 512, seed=seed).div(16).to(dtype) for seed in range(3))
    x, residual = (normal(tokens, 512, seed=seed).to(dtype) for seed in (3, 4))
    total = product_plus(x, packed.pack(down), residual)
    product = packed.gated(x, packed.PackedMatrix.of(gate), packed.PackedMatrix.of(up))
    opened = torch.nn.functional.silu(x.double() @ gate.double().T)
    assert total.dtype == product.dtype == dtype
    assert not tokens or relative(total, residual.double() + x.double() @ down.double().T) <= tolerance
    assert not tokens or relative(product, opened * (x.double() @ up.double().T)) <= tolerance


@needs_packing
def test_a_packed_matrix_takes_views_and_passes_gradients() -> None:
    matrix, wide = normal(640, 512), normal(4, 1024, seed=1).requires_grad_()
    held = packed.PackedMatrix.of(matrix)
    held.product(wide[:, ::2]).sum().backward()  # type: ignore[no-untyped-call]
    assert wide.grad is not None
    assert torch.allclose(wide.grad[:, ::2], matrix.sum(0).expand(4, -1), atol=1e-4)


def test_small_matrices_and_unknown_number_types_stay_plain() -> None:
    assert isinstance(packed.pack(normal(8, 8)), torch.Tensor)
    assert isinstance(packed.pack(normal(640, 512).double()), torch.Tensor)


@needs_8_bits
@pytest.mark.parametrize("tokens", [1, 2, 31, 130])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float16, 1e-3), (torch.bfloat16, 0.015)]
)
def test_8_bit_products_are_those_of_the_rounded_matrix(tokens: int, dtype: torch.dtype, tolerance: float) -> None:
    plain = quantized.QuantizedMatrix.of(normal(640, 512).to(dtype))
    x = normal(tokens, 512, seed=1).to(dtype)
    found = quantized.DynamicMatrix.of(plain).product(x)
    assert found.dtype == dtype
    assert relative(found, x.double() @ (plain.levels.double() * plain.scales.double()).T) <= tolerance


@needs_8_bits
@pytest.mark.parametrize("size", [100.0, 1000.0, 3000.0])
def test_massive_activations_leave_the_rest_of_their_token_legible(size: float) -> None:
    """A few channels of a token hundreds of times the rest: what the other channels say must not be rounded away."""
    plain = quantized.QuantizedMatrix.of(normal(640, 1024).bfloat16())
    matrix = plain.levels.double() * plain.scales.double()
    x = normal(20, 1024, seed=1).bfloat16()
    outliers = torch.zeros_like(x)
    outliers[0, 7], outliers[0, 400], outliers[11, 3] = size, -size, size
    held = quantized.DynamicMatrix.of(plain)
    found = held.product((x + outliers).where(outliers == 0, outliers))
    quiet = x.where(outliers == 0, 0.0)
    expected = quiet.double() @ matrix.T
    said = found.double() - outliers.double() @ matrix.T
    rounding = found.double().abs().max(1, keepdim=True).values / 2**8  # bfloat16 cannot hold more beside the outlier
    untouched = [token for token in range(20) if token not in (0, 11)]
    assert relative(found[untouched], expected[untouched]) <= 0.015
    assert bool(((said - expected).abs() <= rounding + 0.1 * expected.abs().max()).all())


@needs_8_bits
def test_no_token_depends_on_the_others_of_its_batch() -> None:
    held = quantized.DynamicMatrix.of(quantized.QuantizedMatrix.of(normal(640, 512).bfloat16()))
    x = normal(20, 512, seed=1).bfloat16()
    x[3, 5] = 900.0
    assert torch.equal(held.product(x), torch.cat([held.product(row[None]) for row in x]))


@needs_8_bits
def test_zeros_stay_zeros() -> None:
    held = quantized.DynamicMatrix.of(quantized.QuantizedMatrix.of(normal(64, 512).bfloat16()))
    assert not held.product(torch.zeros(3, 512, dtype=torch.bfloat16)).any()


def test_where_nothing_multiplies_8_bit_numbers_the_matrix_is_multiplied_out() -> None:
    plain = quantized.QuantizedMatrix.of(normal(640, 512))
    x = normal(5, 512, seed=1)
    expected = x.numpy() @ (plain.levels.float() * plain.scales).numpy().T
    assert np.allclose(plain.product(x).numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_of_rows_comes_out_as_each_row_alone_and_passes_gradients(dtype: torch.dtype) -> None:
    x, beside = (normal(2 * BLOCK_ENTRIES // 512 + 3, 512, seed=seed).to(dtype) for seed in range(2))
    x.requires_grad_()
    products = in_blocks(lambda rows, others: rows.float() * others.float(), x, beside)
    assert products.dtype == dtype
    torch.testing.assert_close(products, x * beside, rtol=0, atol=0)
    (slopes,) = torch.autograd.grad(products.sum(), x)
    torch.testing.assert_close(slopes, beside, rtol=0, atol=0)

"""What a backend says that it can do, held against what it does."""

from __future__ import annotations

import pytest

from trinity_mlx.contracts.artifact import Base
from trinity_mlx.contracts.backend import BITS, Backend, Capabilities, PopulatedBase, TellsCapabilities, Variant
from trinity_mlx.contracts.errors import ProfileUnavailable
from trinity_mlx.factorization.host import factorizer_of
from trinity_mlx.profiles.backends import load_backend


def told(backend: Backend) -> Capabilities:
    assert isinstance(backend, TellsCapabilities)
    return backend.capabilities("cpu")


def test_the_decomposition_is_the_one_that_exports_use(backend: Backend) -> None:
    assert (told(backend).decomposition == "thin") is factorizer_of(backend, "cpu").thin_svd


@pytest.mark.parametrize("bits", BITS)
def test_bits_that_are_told_load_and_others_are_refused(backend: Backend, tiny_base: Base, bits: int) -> None:
    variant = Variant(quantize=bits)
    if bits in told(backend).quantize:
        assert backend.load_base(tiny_base, device="cpu", dtype="float32", variant=variant).nbytes
        return
    with pytest.raises(ProfileUnavailable, match=f"{bits} bits"):
        backend.load_base(tiny_base, device="cpu", dtype="float32", variant=variant)


def test_kernels_and_populations_that_are_told_are_there(backend: Backend, tiny_base: Base) -> None:
    for kernels in told(backend).kernels:
        loaded = backend.load_base(tiny_base, device="cpu", dtype="float32", variant=Variant(kernels))
        assert isinstance(loaded, PopulatedBase) is told(backend).population


def test_a_gpu_of_apple_has_no_float64_and_only_mlx_decomposes_in_full_there() -> None:
    mlx, torch = load_backend("mlx"), load_backend("torch")
    assert isinstance(mlx, TellsCapabilities)
    assert isinstance(torch, TellsCapabilities)
    gpu, mps = mlx.capabilities("gpu"), torch.capabilities("mps")
    assert (gpu.float64, gpu.decomposition, gpu.quantize) == (False, "full", (8, 4))
    assert (mps.float64, mps.decomposition, mps.quantize) == (False, "thin", ())
    assert mps.kernels == ("composed",)

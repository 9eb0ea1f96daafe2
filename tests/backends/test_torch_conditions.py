"""What torch lanes hold to whatever a host has set: exact float32, threads that pay, errors in words."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from trinity_backend_torch.attention import ComposedAttention, ExpandedAttention, FusedAttention, attention_for
from trinity_backend_torch.backend import devices_of, tokens_that_fit
from trinity_backend_torch.conditions import WORKSPACE, at_most, full_float32, reproducing, threads_for, within_memory

from trinity_mlx.contracts.artifact import Base, Bundle
from trinity_mlx.contracts.errors import NotEnoughMemory

from .. import builders
from ..builders import fresh


@pytest.fixture
def shortened() -> Iterator[None]:
    """A host that shortens float32 products, by torch's own switch."""
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


def precisions() -> list[str]:
    return [torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision]  # type: ignore[attr-defined]


def test_a_host_that_shortens_float32_moves_no_logit(tiny_base: Base, tiny_bundle: Bundle) -> None:
    model = builders.cpu_model("torch", tiny_base, tiny_bundle)
    before = model.logits(fresh((1, 2, 3), tuple(range(100))))[0]
    torch.set_float32_matmul_precision("medium")
    try:
        assert model.logits(fresh((1, 2, 3), tuple(range(100))))[0] == before
        assert precisions() == ["tf32", "bf16"]
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("shortened")
def test_float32_is_full_until_the_last_of_several_threads_is_done() -> None:
    inside, leave = Barrier(3), [Barrier(2), Barrier(2)]

    def work(which: int) -> None:
        with full_float32():
            inside.wait()
            leave[which].wait()

    threads = [Thread(target=work, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    inside.wait()
    assert precisions() == ["ieee", "ieee"]
    leave[0].wait()
    threads[0].join()
    assert precisions() == ["ieee", "ieee"]
    leave[1].wait()
    threads[1].join()
    assert precisions() == ["tf32", "bf16"]


def test_small_models_take_one_thread_and_give_the_others_back(tiny_base: Base) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with at_most(threads_for(tiny_base.config)):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with at_most(None):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_on_cuda_deterministic_algorithms_are_asked_for_as_long_as_bits_are_compared() -> None:
    torch.use_deterministic_algorithms(True, warn_only=False)
    try:
        with reproducing(torch.device("cuda:1")) as settings:
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.is_deterministic_algorithms_warn_only_enabled()
            assert settings["deterministic algorithms"] == "on"
            assert settings[WORKSPACE] == os.environ.get(WORKSPACE, "not set")
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_elsewhere_there_is_nothing_to_ask_for(device: str) -> None:
    with reproducing(torch.device(device)) as settings:
        assert settings == {}
        assert not torch.are_deterministic_algorithms_enabled()


class Held:
    """Something large."""


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: 4 bytes"
        ),
    ],
)
def test_a_device_without_memory_is_an_error_in_words_and_keeps_nothing(error: RuntimeError) -> None:
    alive: list[weakref.ref[Held]] = []

    def load() -> None:
        held = Held()
        alive.append(weakref.ref(held))
        raise error

    with pytest.raises(NotEnoughMemory, match=r"ran out of memory.*free some") as told:
        within_memory(load)()
    assert told.value.__context__ is None
    error.__traceback__ = None
    assert alive[0]() is None


def test_other_errors_stay_what_they_are() -> None:
    def work() -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(work)()


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [
        (0, False, ("cpu",)),
        (0, True, ("mps", "cpu")),
        (1, False, ("cuda", "cuda:0", "cpu")),
        (2, False, ("cuda", "cuda:0", "cuda:1", "cpu")),
    ],
)
def test_every_gpu_is_a_device_of_its_own(cuda: int, mps: bool, expected: tuple[str, ...]) -> None:
    assert devices_of(cuda, has_mps=mps) == expected


def test_batches_grow_with_the_memory_of_the_device(tiny_base: Base) -> None:
    sizes = [tokens_that_fit(free, tiny_base.config, 2) for free in (0, 1 << 24, 1 << 28, 1 << 40)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[1] < sizes[2] < sizes[3]


# --- attention --------------------------------------------------------------------------------------------------------


def exact_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> np.ndarray:
    """Causal attention of the last positions in float64, head by head."""
    fresh, heads, width = q.shape
    total, kv_heads, _ = k.shape
    found = np.empty((fresh, heads, width))
    for head in range(heads):
        shared = head // (heads // kv_heads)
        scores = (q[:, head].double() @ k[:, shared].double().T / width**0.5).numpy()
        scores[np.triu(np.ones((fresh, total), dtype=bool), total - fresh + 1)] = -np.inf
        weights = np.exp(scores - scores.max(1, keepdims=True))
        found[:, head] = weights / weights.sum(1, keepdims=True) @ v[:, shared].double().numpy()
    return found


@pytest.mark.parametrize("kind", [FusedAttention(), ExpandedAttention(), ComposedAttention(), ComposedAttention(700)])
@pytest.mark.parametrize(("fresh", "total"), [(1, 1), (1, 90), (2, 2), (65, 65), (30, 95), (64, 1024)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_every_kind_of_attention_is_attention(
    kind: FusedAttention, fresh: int, total: int, dtype: torch.dtype, tolerance: float
) -> None:
    draw = torch.Generator().manual_seed(fresh + total)
    q, k, v = (torch.randn(n, h, 128, generator=draw).to(dtype) for n, h in ((fresh, 4), (total, 2), (total, 2)))
    found = kind.attend(q, k, v, kind.mask(fresh, total, torch.device("cpu"), dtype))
    assert np.abs(found.float().numpy() - exact_attention(q, k, v)).max() <= tolerance


class Watched(TorchFunctionMode):
    """What is handed to torch's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.calls.append((args, kwargs))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("fresh", "total"), [(1, 1), (1, 90), (2, 2), (65, 65), (30, 95), (64, 1024)])
def test_on_cuda_torch_is_given_what_its_fused_kernels_take(fresh: int, total: int) -> None:
    """No tensor as a mask and no grouped heads: with either, torch leaves them for plain float32 and all scores."""
    kind, watched = ExpandedAttention(), Watched()
    mask = kind.mask(fresh, total, torch.device("cpu"), torch.bfloat16)
    q, k, v = (torch.randn(n, h, 128).bfloat16() for n, h in ((fresh, 16), (total, 8), (total, 8)))
    with watched:
        kind.attend(q, k, v, mask)
    (given, options), *_ = watched.calls
    assert {each.shape[1] for each in given} == {16}
    assert all(each.is_contiguous() for each in given)
    assert not options.get("enable_gqa")
    is_continued = 1 < fresh < total
    assert (type(options["attn_mask"]).__name__, options["is_causal"]) == (
        ("CausalBias", False) if is_continued else ("NoneType", fresh > 1)
    )
    if is_continued:
        assert options["attn_mask"].variant.name == "LOWER_RIGHT"


def test_mps_runs_no_attention_of_torch_itself() -> None:
    assert isinstance(attention_for("mps", "fused"), ComposedAttention)
    assert isinstance(attention_for("cuda", "fused"), ExpandedAttention)

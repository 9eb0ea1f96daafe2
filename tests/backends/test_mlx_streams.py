"""MLX has one default device for the whole process: a lane neither relies on it nor moves it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import trinity_backend_mlx
from trinity_backend_mlx import ops
from trinity_backend_mlx.factorize import MlxFactorizer
from trinity_backend_mlx.kernels import side_by_side
from trinity_backend_mlx.owner import MlxThread

from trinity_mlx.contracts.artifact import Base, Bundle, Execution
from trinity_mlx.contracts.backend import Segment, Variant
from trinity_mlx.contracts.errors import NotEnoughMemory
from trinity_mlx.profiles.backends import load_backend

from .. import builders
from ..builders import fresh

BATCH = [tuple(range(1, length + 1)) for length in (1, 2, 40, 300)]
NOWHERE = mx.Device(mx.cpu, 1)
"""A device that no machine has: whatever is computed on the default one fails."""


@pytest.fixture
def no_default() -> Iterator[None]:
    before = mx.default_device()
    mx.set_default_device(NOWHERE)
    yield
    mx.set_default_device(before)


@pytest.mark.usefixtures("no_default")
def test_the_default_device_of_these_tests_computes_nothing() -> None:
    with pytest.raises((IndexError, ValueError, RuntimeError)):
        mx.eval(mx.ones((2,)) + 1)


@pytest.mark.parametrize(
    "variant", [Variant(), Variant("composed"), Variant(quantize=8)], ids=lambda v: v.label or "usual"
)
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("no_default")
def test_a_lane_computes_whatever_the_default_device_is(
    tiny_base: Base, tiny_bundle: Bundle, variant: Variant, merged: bool, dtype: str
) -> None:
    base = load_backend("mlx").load_base(tiny_base, device="cpu", dtype=dtype, variant=variant)
    model = base.attach(tiny_bundle.adapter, tiny_bundle.head, merged=merged)
    rows, pasts = model.logits([Segment(tokens, keep=True) for tokens in BATCH])
    model.logits([Segment((*tokens, 7, 8), past, len(tokens)) for tokens, past in zip(BATCH, pasts, strict=True)])
    model.values(model.read(fresh(*BATCH)))
    assert np.isfinite(rows).all()
    assert mx.default_device() == NOWHERE


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("no_default")
def test_gradients_are_computed_where_the_lane_is(tiny_base: Base, dtype: str) -> None:
    segments = fresh(*BATCH)
    base: Any = load_backend("mlx").load_base(tiny_base, device="cpu", dtype=dtype)
    for name in builders.adapted_names(tiny_base)[:8]:
        gains = {name: np.ones(min(tiny_base.tensors[name].shape))}
        population = base.population({name: np.eye(len(gains[name]))})
        slopes = population.pullback(segments, population.trunk(segments), gains, np.ones_like)
        assert np.abs(slopes[name]).max() > 0


@pytest.mark.usefixtures("no_default")
def test_exports_and_candidates_too(tiny_base: Base, tiny_offsets: dict[str, np.ndarray]) -> None:
    backend: Any = load_backend("mlx")
    name = builders.adapted_names(tiny_base)[1]
    tensor, side = tiny_base.tensors[name], min(tiny_base.tensors[name].shape)
    for execution in (Execution.RIGHT, Execution.LEFT):
        if tensor.shape[1 if execution is Execution.RIGHT else 0] == side:
            assert b"".join(MlxFactorizer(mx.cpu).adapted_tiles(tensor, execution, np.eye(side) * 0.1))
    assert np.allclose(backend.matrix_product("cpu")(np.eye(3), np.ones((3, 2))), 1)
    vectors = {name: np.eye(side)}
    population = backend.load_base(tiny_base, device="cpu", dtype="float32").population(vectors)
    segments = fresh(*BATCH)
    trunk = population.trunk(segments)
    assert population.hidden(segments, trunk, {name: np.ones((2, side))}).shape[0] == 2
    assert mx.default_device() == NOWHERE


def test_a_host_keeps_its_stream_while_a_lane_works(tiny_base: Base, tiny_bundle: Bundle) -> None:
    stream = mx.new_stream(mx.cpu)
    with mx.stream(stream):
        model = builders.cpu_model("mlx", tiny_base, tiny_bundle)
        model.logits(fresh(*BATCH))
        assert mx.default_stream(mx.Device(mx.cpu)) == stream


def test_two_threads_stand_on_devices_of_their_own() -> None:
    with ops.on(mx.cpu):
        assert ops.device_here() == mx.cpu
        with ops.on(mx.gpu):
            assert not ops.is_cpu()
        assert ops.is_cpu()
    assert ops.device_here() is None


def test_importing_the_backend_says_no_to_shortened_float32() -> None:
    assert trinity_backend_mlx.__doc__
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    assert getenv(b"MLX_ENABLE_TF32") == b"0"


def test_every_piece_of_work_bounds_what_is_kept_of_freed_buffers() -> None:
    trimmed: list[int] = []
    thread = MlxThread(mx.cpu, trim=lambda: trimmed.append(1))
    assert thread.run(lambda _: 7) == 7
    with pytest.raises(ZeroDivisionError):
        thread.run(lambda _: 1 // 0)
    assert len(trimmed) == 2
    thread.close()


@pytest.mark.parametrize(
    "said",
    [
        "[metal::malloc] Attempting to allocate 30 bytes which is greater than the maximum allowed buffer size of 20",
        "[malloc_or_wait] Unable to allocate 30 bytes.",
        "[METAL] Command buffer execution failed: Insufficient Memory (kIOGPUCommandBufferCallbackErrorOutOfMemory)",
    ],
)
def test_a_gpu_without_memory_is_an_error_in_words(said: str) -> None:
    def work(_: None) -> None:
        raise RuntimeError(said)

    thread = MlxThread(mx.cpu)
    with pytest.raises(NotEnoughMemory, match=r"MLX ran out of memory: \[.*; free some"):
        thread.run(work)
    thread.close()


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (6, 3), (16, 8), (5, 5)])
@pytest.mark.parametrize(("fresh_count", "total"), [(129, 129), (300, 300), (200, 431)])
@pytest.mark.usefixtures("no_default")
def test_no_bit_depends_on_how_many_streams_share_the_heads(
    heads: int, kv_heads: int, fresh_count: int, total: int
) -> None:
    draw = np.random.default_rng(heads + total)

    def array(count: int, length: int) -> mx.array:
        return mx.array(draw.normal(size=(1, count, length, 32)).astype(np.float32))

    given = array(heads, fresh_count), array(kv_heads, total), array(kv_heads, total)
    thread = MlxThread(mx.cpu)
    one, *others = (
        thread.run(lambda _, count=count: np.array(side_by_side(*given, streams=count))) for count in (1, 2, 3, 64)
    )
    thread.close()
    assert one.shape == given[0].shape
    assert all(np.array_equal(one, other) for other in others)

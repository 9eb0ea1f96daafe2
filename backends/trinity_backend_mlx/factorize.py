"""Decompositions and adapted tensors on MLX.

Gram sums run in float64 on the host: Metal has no float64, and MLX's own on the CPU is slower than numpy's. Adapted
tiles run in float32 on the device: the change that is added is small, and so is what float32 loses of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import mlx.core as mx
import numpy as np

from trinity_mlx.contracts.artifact import Execution, TensorLocation
from trinity_mlx.factorization.host import HostFactorizer
from trinity_mlx.factorization.tiles import spans
from trinity_mlx.files.safetensors import map_tensor

from . import ops
from .owner import MlxThread

_DTYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}


class MlxFactorizer(HostFactorizer):
    """A ``Factorizer`` on one MLX device, with a thread of its own."""

    thin_svd = False

    def __init__(self, device: mx.DeviceType) -> None:
        self.computes: Mapping[str, str] = {
            "gram": "numpy, float64",
            "svd": "mlx on the cpu, float32",
            "adapted": f"mlx on the {'gpu' if device == mx.gpu else 'cpu'}, float32",
        }
        self._owner = MlxThread(device)

    def svd(self, tensor: TensorLocation) -> tuple[np.ndarray, np.ndarray]:
        """Singular values and the smaller side's vectors from ``mx.linalg.svd`` in float32, on the CPU."""
        return self._owner.run(lambda _: _svd(tensor))

    def adapted_tiles(self, tensor: TensorLocation, execution: Execution, change: np.ndarray) -> Iterator[memoryview]:
        """The adapted tensor's bytes in row order."""
        matrix, dtype = map_tensor(tensor), _DTYPES[tensor.dtype]
        factor = self._owner.run(lambda _: mx.array(change.astype(np.float32)))
        for span in spans(*matrix.shape):
            yield self._owner.run(lambda _, span=span: _adapted_tile(matrix, dtype, execution, factor, span))  # type: ignore[misc]


def _svd(tensor: TensorLocation) -> tuple[np.ndarray, np.ndarray]:
    whole = _tile(map_tensor(tensor), _DTYPES[tensor.dtype])
    if not ops.finite(whole):
        raise ValueError("the matrix holds NaN or infinity")
    left, singular, right = mx.linalg.svd(whole, stream=mx.cpu)
    vectors = ops.transpose(right) if tensor.shape[0] >= tensor.shape[1] else left
    return np.array(singular, dtype=np.float64), np.array(vectors, dtype=np.float64)


def _adapted_tile(
    matrix: np.ndarray, dtype: mx.Dtype, execution: Execution, factor: mx.array, span: slice
) -> memoryview:
    tile = _tile(matrix[span], dtype)
    if execution is Execution.RIGHT:
        return _bytes(ops.add(tile, ops.matmul(tile, factor)), dtype)
    rows = ops.rows(factor, mx.array(np.arange(span.start, span.stop)))
    blocks = [ops.matmul(rows, _tile(matrix[:, block], dtype)) for block in spans(matrix.shape[1], matrix.shape[0])]
    return _bytes(ops.add(tile, ops.concatenate(blocks, axis=1)), dtype)


def _tile(part: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """A mapped part in float32."""
    stored = mx.array(np.ascontiguousarray(part))
    return ops.cast(ops.view(stored, mx.bfloat16) if dtype == mx.bfloat16 else stored, mx.float32)


def _bytes(values: mx.array, dtype: mx.Dtype) -> memoryview:
    stored = ops.cast(values, dtype)
    if not ops.finite(stored):
        raise ValueError(f"an adapted value is beyond the range of {dtype}")
    return np.array(ops.view(ops.contiguous(stored), mx.uint8)).data.cast("B")

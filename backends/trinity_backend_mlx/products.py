"""Matrix products on MLX, from numpy to numpy."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from . import ops
from .owner import MlxThread


def matrix_product(device: mx.DeviceType) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """``left @ right`` in float32 on ``device``, on a thread of its own."""
    owner = MlxThread(device)

    def compute(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.array(ops.matmul(_place(left), _place(right)))

    return lambda left, right: owner.run(lambda _: compute(left, right))


def _place(matrix: np.ndarray) -> mx.array:
    return mx.array(np.ascontiguousarray(matrix, np.float32))

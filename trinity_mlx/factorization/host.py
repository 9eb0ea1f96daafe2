"""What every backend can have decompositions by: numpy on the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..contracts.artifact import Execution, TensorLocation
from ..contracts.backend import Backend, Factorizer, Factorizes, Tick
from ..files.safetensors import as_floats, map_tensor, to_bfloat16
from .gram import gram_matrix
from .tiles import spans


def factorizer_of(backend: Backend, device: str) -> Factorizer:
    """The backend's own factorizer on ``device``, else the host's."""
    return backend.factorizer(device) if isinstance(backend, Factorizes) else HostFactorizer()


_KINDS = {"gram": "float64", "svd": "float32", "adapted": "float32"}


class HostFactorizer:
    """A ``Factorizer`` in numpy: Gram sums in float64, the rest in float32."""

    thin_svd = True
    computes: Mapping[str, str] = {step: f"numpy, {kind}" for step, kind in _KINDS.items()}

    def gram(self, tensor: TensorLocation, tick: Tick | None = None) -> np.ndarray:
        """The Gram matrix of the smaller side in float64, [side, side]."""
        return gram_matrix(map_tensor(tensor), tick)

    def svd(self, tensor: TensorLocation) -> tuple[np.ndarray, np.ndarray]:
        """Singular values and the smaller side's vectors from ``numpy.linalg.svd`` in float32."""
        whole = as_floats(map_tensor(tensor)).astype(np.float32)
        if not np.isfinite(whole).all():
            raise ValueError("the matrix holds NaN or infinity")
        left, singular, right = np.linalg.svd(whole, full_matrices=False)
        vectors = right.T if tensor.shape[0] >= tensor.shape[1] else left
        return singular.astype(np.float64), vectors.astype(np.float64)

    def adapted_tiles(self, tensor: TensorLocation, execution: Execution, change: np.ndarray) -> Iterator[memoryview]:
        """The adapted tensor's bytes in row order."""
        matrix, factor = map_tensor(tensor), change.astype(np.float32)
        for span in spans(*matrix.shape):
            tile = as_floats(matrix[span]).astype(np.float32)
            if execution is Execution.RIGHT:
                tile += tile @ factor
            else:
                for block in spans(matrix.shape[1], matrix.shape[0]):
                    tile[:, block] += factor[span] @ as_floats(matrix[:, block]).astype(np.float32)
            yield _bytes(tile, tensor.dtype)


def _bytes(values: np.ndarray, dtype: str) -> memoryview:
    with np.errstate(over="ignore"):
        stored = to_bfloat16(values) if dtype == "BF16" else values.astype({"F32": "<f4", "F16": "<f2"}[dtype])
    if not np.isfinite(as_floats(stored)).all():
        raise ValueError(f"an adapted value is beyond the range of {dtype}")
    return np.ascontiguousarray(stored).view(np.uint8).data.cast("B")

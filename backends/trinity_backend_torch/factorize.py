"""Decompositions and adapted tensors on torch.

On CUDA all of it runs in float64, which TF32 settings leave alone. Elsewhere Gram sums run in float64 on the host and
adapted tiles in float32: the change that is added is small, and so is what float32 loses of it. (It is added at the
end; a product that accumulates into the source would round at the source's size each time.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from trinity_mlx.contracts.artifact import Execution, TensorLocation
from trinity_mlx.contracts.backend import Tick
from trinity_mlx.factorization.host import HostFactorizer
from trinity_mlx.factorization.tiles import spans
from trinity_mlx.files.safetensors import map_tensor

from .conditions import full_float32


class TorchFactorizer(HostFactorizer):
    """A ``Factorizer`` on one torch device."""

    thin_svd = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_cuda = device.type == "cuda"
        self._dtype = torch.float64 if self._on_cuda else torch.float32
        svd_device = device if self._on_cuda else torch.device("cpu")
        self.computes: Mapping[str, str] = {
            "gram": f"torch on {device}, float64" if self._on_cuda else "numpy, float64",
            "svd": f"torch on {svd_device}, float32",
            "adapted": f"torch on {device}, {str(self._dtype).removeprefix('torch.')}",
        }

    @torch.inference_mode()
    def gram(self, tensor: TensorLocation, tick: Tick | None = None) -> np.ndarray:
        """The Gram matrix of the smaller side in float64, [side, side]."""
        if not self._on_cuda:
            return super().gram(tensor, tick)
        matrix = _map(tensor)
        rows, columns = matrix.shape
        oriented = matrix if rows >= columns else matrix.T
        total = torch.zeros(min(rows, columns), min(rows, columns), dtype=torch.float64, device=self._device)
        for span in spans(*oriented.shape):
            tile = self._tile(oriented[span])
            total.addmm_(tile.T, tile)
            if tick:
                tick(tile.numel())
        return total.cpu().numpy()

    @torch.inference_mode()
    def svd(self, tensor: TensorLocation) -> tuple[np.ndarray, np.ndarray]:
        """Singular values and the smaller side's vectors from ``torch.linalg.svd`` in float32."""
        device = self._device if self._on_cuda else torch.device("cpu")
        whole = _map(tensor).to(device, torch.float32)
        if not torch.isfinite(whole).all():
            raise ValueError("the matrix holds NaN or infinity")
        left, singular, right = torch.linalg.svd(whole, full_matrices=False)
        vectors = right.T if tensor.shape[0] >= tensor.shape[1] else left
        return singular.double().cpu().numpy(), vectors.double().cpu().numpy()

    @torch.inference_mode()
    def adapted_tiles(self, tensor: TensorLocation, execution: Execution, change: np.ndarray) -> Iterator[memoryview]:
        """The adapted tensor's bytes in row order."""
        matrix = _map(tensor)
        factor = torch.from_numpy(change).to(self._dtype).to(self._device)
        for span in spans(*matrix.shape):
            yield _bytes(self._adapted(matrix, span, execution, factor).to(matrix.dtype))

    @full_float32()
    def _adapted(self, matrix: Tensor, span: slice, execution: Execution, factor: Tensor) -> Tensor:
        tile = self._tile(matrix[span])
        return (
            (tile @ factor).add_(tile) if execution is Execution.RIGHT else self._add_left(tile, factor[span], matrix)
        )

    def _add_left(self, tile: Tensor, factor: Tensor, matrix: Tensor) -> Tensor:
        """``tile + factor @ matrix``, a block of columns at a time."""
        for span in spans(matrix.shape[1], matrix.shape[0]):
            tile[:, span] += factor @ self._tile(matrix[:, span])
        return tile

    def _tile(self, part: Tensor) -> Tensor:
        """A copy of a mapped part on the device, in the number type that is computed in."""
        return part.contiguous().to(self._device).to(self._dtype, copy=True)


def _map(tensor: TensorLocation) -> Tensor:
    """``tensor`` as it is stored, memory-mapped."""
    stored = torch.from_numpy(map_tensor(tensor))
    return stored.view(torch.bfloat16) if tensor.dtype == "BF16" else stored


def _bytes(values: Tensor) -> memoryview:
    if not torch.isfinite(values).all():
        raise ValueError(f"an adapted value is beyond the range of {values.dtype}")
    return values.cpu().view(torch.uint8).numpy().data.cast("B")

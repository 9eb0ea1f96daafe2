"""Matrix products and the reference decomposition on torch, from numpy to numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .conditions import full_float32


def matrix_product(device: torch.device) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """``left @ right`` in float32; on CUDA computed in float64, which TF32 settings leave alone."""
    dtype = torch.float64 if device.type == "cuda" else torch.float32

    def place(matrix: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(matrix, np.float32)).to(device).to(dtype)

    @torch.inference_mode()
    @full_float32()
    def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return (place(left) @ place(right)).float().cpu().numpy()

    return product


@torch.inference_mode()
def thin_svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``torch.linalg.svd`` of [rows, columns] on the CPU: ``u`` [rows, k], ``s`` [k], ``v`` [columns, k]."""
    u, s, vh = torch.linalg.svd(torch.from_numpy(matrix), full_matrices=False)
    return u.numpy(), s.numpy(), vh.T.numpy()

"""The routing head: from hidden vectors to logits, in float32."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from trinity_mlx.contracts.artifact import Head

from .weights import read_tensor


class Projection:
    """``hidden @ W.T``, or ``elu(hidden @ V.T) @ W.T`` for a low-rank head (docs/method.md, section 1)."""

    def __init__(self, head: Head, device: torch.device) -> None:
        self._matrix = read_tensor(head.tensor, device)
        self._first = read_tensor(head.elu.tensor, device) if head.elu else None
        self._alpha = head.elu.alpha if head.elu else 1.0

    @property
    def nbytes(self) -> int:
        """Bytes of its matrices."""
        return self._matrix.nbytes + (0 if self._first is None else self._first.nbytes)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits in float32 [segments, slots + 3] of ``hidden`` [segments, hidden] in any float type."""
        values = hidden.float()
        if self._first is not None:
            values = functional.elu(values @ self._first.T, self._alpha)
        return values @ self._matrix.T

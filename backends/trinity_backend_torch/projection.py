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
        self._kinds = read_tensor(head.kinds, device) if head.kinds else None

    @property
    def nbytes(self) -> int:
        """Bytes of its matrices."""
        return sum(each.nbytes for each in (self._matrix, self._first, self._kinds) if each is not None)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits in float32 [segments, slots + 3] of ``hidden`` [segments, hidden] in any float type.

        Where the head knows kinds, the square of the distance from the nearest follows.
        """
        logits = self._logits(hidden.float())
        if self._kinds is None:
            return logits
        return torch.cat([logits, self._squares(hidden.float(), self._kinds).amin(-1, keepdim=True)], -1)

    def _squares(self, values: Tensor, kinds: Tensor) -> Tensor:
        return functional.normalize(values, dim=-1) @ kinds[:, :-1].T + kinds[:, -1]

    def _logits(self, values: Tensor) -> Tensor:
        if self._first is not None:
            values = functional.elu(values @ self._first.T, self._alpha)
        return values @ self._matrix.T

"""Many candidates on one base, on torch: what they share is read once, and a candidate is a vector of gains.

A candidate multiplies singular values. For a tall matrix ``x @ W'.T = ((x @ V) * gains) @ (W @ V).T``, for a wide one
``((x @ (U.T @ W).T) * gains) @ U.T``: both are two products with a vector between them, and neither product depends
on the candidate ("docs/method.md", section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trinity_mlx.contracts.backend import Pull, Segment
from trinity_mlx.factorization.adapted import EMBEDDING, first_changed_layer, layer_names

from .qwen3 import Backbone, Joint, Layer, Linear, Packing


@dataclass(frozen=True)
class Spectral:
    """A matrix in two factors, its singular values multiplied by ``gains`` between them."""

    inner: Tensor
    outer: Tensor
    gains: Tensor

    @classmethod
    def of(cls, weight: Tensor, vectors: np.ndarray) -> Spectral:
        """``weight`` [out, in] by the singular ``vectors`` of its smaller side, as columns; gains of one.

        Products run in float64 and are stored in the number type of ``weight``.
        """
        exact, columns = weight.cpu().double(), torch.from_numpy(np.array(vectors, dtype=np.float64))
        is_tall = weight.shape[0] >= weight.shape[1]
        inner, outer = (columns.T, exact @ columns) if is_tall else (columns.T @ exact, columns)
        return cls(inner.contiguous().to(weight), outer.to(weight), weight.new_ones(1))

    def __call__(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """[tokens, in] to [tokens, out], added to ``plus`` [tokens, out]."""
        y = F.linear(F.linear(x, self.inner) * self.gains, self.outer)
        return y if plus is None else plus + y


class TorchPopulation:
    """Candidates that differ in gains alone, on one backbone. Not safe for concurrent calls."""

    def __init__(self, backbone: Backbone, vectors: Mapping[str, np.ndarray], weight: Callable[[str], Tensor]) -> None:
        """``weight`` gives a tensor of the base as it is, neither packed nor quantised: others have no gradient."""
        self.first_layer = first_changed_layer(vectors)
        self._backbone = backbone
        self._device = backbone.norm.weight.device
        self._spectral = {
            name: Spectral.of(_identity(backbone) if name == EMBEDDING else weight(name), columns)
            for name, columns in vectors.items()
        }
        late = range(self.first_layer, len(backbone.layers))
        self._linear: dict[int, dict[str, Linear | Spectral]] = {
            index: {short: Linear(weight(name)) for short, name in layer_names(index).items()} for index in late
        }

    @torch.inference_mode()
    def trunk(self, segments: Sequence[Segment]) -> np.ndarray:
        """Hidden states of all tokens before the first changed layer, float32 [tokens, hidden]."""
        states: np.ndarray = self._backbone.trunk(self._packing(segments), self.first_layer).float().cpu().numpy()
        return states

    @torch.inference_mode()
    def hidden(self, segments: Sequence[Segment], trunk: np.ndarray, gains: Mapping[str, np.ndarray]) -> np.ndarray:
        """Hidden vectors of every candidate, float32 [candidates, segments, hidden]; ``gains`` [candidates, side]."""
        packing, states = self._packing(segments), self._states(trunk)
        count = len(next(iter(gains.values())))
        candidates = ({name: self._gains(rows[index]) for name, rows in gains.items()} for index in range(count))
        return np.stack([self._rest(states, packing, candidate).float().cpu().numpy() for candidate in candidates])

    def pullback(
        self, segments: Sequence[Segment], trunk: np.ndarray, gains: Mapping[str, np.ndarray], pull: Pull
    ) -> dict[str, np.ndarray]:
        """The gradient with respect to one candidate's ``gains`` [side], float32; see the protocol."""
        leaves = {name: self._gains(row).requires_grad_() for name, row in gains.items()}
        hidden = self._rest(self._states(trunk), self._packing(segments), leaves)
        slope = torch.from_numpy(np.ascontiguousarray(pull(hidden.detach().float().cpu().numpy()), dtype=np.float32))
        slopes = torch.autograd.grad(hidden, list(leaves.values()), slope.to(hidden), allow_unused=True)
        return {
            name: np.zeros(len(leaf), dtype=np.float32) if slope is None else slope.float().cpu().numpy()
            for (name, leaf), slope in zip(leaves.items(), slopes, strict=True)
        }

    def _rest(self, states: Tensor, packing: Packing, gains: Mapping[str, Tensor]) -> Tensor:
        scaled = {name: replace(self._spectral[name], gains=row) for name, row in gains.items()}
        if EMBEDDING in scaled:
            states = scaled[EMBEDDING](states)
        early, late = self._backbone.layers[: self.first_layer], self._backbone.layers[self.first_layer :]
        layers = [self._layer(layer, index, scaled) for index, layer in enumerate(late, start=self.first_layer)]
        return replace(self._backbone, layers=(*early, *layers)).rest(states, packing, self.first_layer)

    def _layer(self, layer: Layer, index: int, scaled: Mapping[str, Spectral]) -> Layer:
        """``layer`` on exact matrices, those that ``scaled`` holds in its factors."""
        own = {short: scaled.get(name, self._linear[index][short]) for short, name in layer_names(index).items()}
        return replace(
            layer,
            qkv=Joint((own["q_proj"], own["k_proj"], own["v_proj"])),  # type: ignore[arg-type]
            gate_up=Joint((own["gate_proj"], own["up_proj"])),  # type: ignore[arg-type]
            o_proj=own["o_proj"],  # type: ignore[arg-type]
            down_proj=own["down_proj"],  # type: ignore[arg-type]
        )

    def _packing(self, segments: Sequence[Segment]) -> Packing:
        return Packing.of(segments, self._device, self._backbone.dtype, self._backbone.attention)

    def _states(self, trunk: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(trunk)).to(self._device, self._backbone.dtype)

    def _gains(self, row: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(row, dtype=np.float32)).to(self._device, self._backbone.dtype)


def _identity(backbone: Backbone) -> Tensor:
    """What takes the place of the embedding's matrix: its change acts on rows that have already been looked up."""
    return torch.eye(backbone.config.hidden_size, dtype=backbone.dtype, device=backbone.norm.weight.device)

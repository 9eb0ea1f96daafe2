"""A Qwen3 backbone for routing, on torch: many token sequences in, one hidden vector for each out.

Three things set it apart from a language model's forward pass:

- Sequences are packed, not padded: all tokens lie in one [tokens, hidden] matrix, so that every matrix product serves
  all sequences at once and none does useless work. Only attention looks at one sequence at a time.
- The last layer computes queries, attention output and MLP for each sequence's last token alone.
- Keys and values of tokens that an earlier read has seen come from its ``TorchPast``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trinity_mlx.contracts.artifact import BackboneConfig
from trinity_mlx.contracts.backend import Segment

from . import packed, quantized
from .attention import Attention
from .blocks import in_blocks
from .packed import PackedMatrix
from .quantized import DynamicMatrix, QuantizedMatrix
from .weights import Matrix, product, product_plus, rows


@dataclass(frozen=True)
class Linear:
    """``x @ W'.T`` with ``W' = L @ W @ R`` applied factor by factor; a missing factor is the identity."""

    weight: Matrix
    right: Tensor | None = None
    left: Tensor | None = None

    def __call__(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """[tokens, in] to [tokens, out], added to ``plus`` [tokens, out]."""
        if self.right is not None:
            x = F.linear(x.to(self.right.dtype), self.right)
        if self.left is None and plus is not None:
            return product_plus(x, self.weight, plus)
        y = product(x, self.weight)
        if self.left is not None:
            y = F.linear(y, self.left)
        return y if plus is None else plus + y


@dataclass(frozen=True)
class Joint:
    """Linear maps of one input, their outputs side by side: one product where no factor stands between, else one each.

    Attributes:
        parts: the maps, for one by one.
        whole: all their rows in one matrix; ``parts`` is then empty.
    """

    parts: tuple[Linear, ...]
    whole: Matrix | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, in] to [tokens, outs together]."""
        return torch.cat([part(x) for part in self.parts], -1) if self.whole is None else product(x, self.whole)

    def gated(self, x: Tensor) -> Tensor:
        """``silu(gate) * up`` of two maps: [tokens, in] to [tokens, half of the outs], in 8 bits' products float32."""
        if isinstance(self.whole, DynamicMatrix):
            return quantized.gated(x, self.whole)
        gate, up = self(x).chunk(2, dim=-1)
        return F.silu(gate) * up


@dataclass(frozen=True)
class Gate:
    """Two packed maps, the first of which opens the second, with nothing between their products."""

    gate: PackedMatrix
    up: PackedMatrix

    def gated(self, x: Tensor) -> Tensor:
        """``silu(gate) * up``: [tokens, in] to [tokens, out]."""
        return packed.gated(x, self.gate, self.up)


@dataclass(frozen=True)
class Embedding:
    """Rows of ``W' = W @ R`` in the number type ``dtype``, whatever that of ``W``."""

    weight: Tensor | QuantizedMatrix
    dtype: torch.dtype
    right: Tensor | None = None

    def __call__(self, ids: Tensor) -> Tensor:
        """[tokens] to [tokens, hidden]."""
        found = rows(self.weight, ids).to(self.dtype)
        return found if self.right is None else found @ self.right


@dataclass(frozen=True)
class RMSNorm:
    """Root-mean-square norm over the last axis, in float32 and rounded once.

    Attributes:
        weight: float32 [width], or [heads, width] for one of each head.
        eps: float32 scalar, added to the mean square.
    """

    weight: Tensor
    eps: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, in] to [tokens, out]."""
        return in_blocks(self.exact, x)

    def exact(self, x: Tensor) -> Tensor:
        """The same before it is rounded, in float32."""
        values = x.float()
        length = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
        scale = torch.addcmul(self.eps, length, length, value=1 / x.shape[-1]).rsqrt_()
        return (values * scale).mul_(self.weight)


@dataclass(frozen=True)
class TorchPast:
    """Rotated keys and values of each layer, a pair of [tokens, kv_heads, head_dim]."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def length(self) -> int:
        """Number of token positions held."""
        return self.layers[0][0].shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values together."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)


@dataclass(frozen=True)
class Packing:
    """Where each sequence's fresh tokens lie in the packed matrix."""

    ids: Tensor
    positions: Tensor
    lengths: list[int]
    last: Tensor
    masks: tuple[Tensor | None, ...]
    pasts: tuple[tuple[TorchPast | None, int], ...]

    @classmethod
    def of(cls, segments: Sequence[Segment], device: torch.device, dtype: torch.dtype, attention: Attention) -> Packing:
        """Pack the tokens of ``segments`` that are not covered by their pasts, with the masks for ``attention``."""
        ids = [token for segment in segments for token in segment.fresh]
        positions = [position for segment in segments for position in range(segment.reuse, len(segment.tokens))]
        lengths = [len(segment.fresh) for segment in segments]
        return cls(
            torch.tensor(ids, device=device),
            torch.tensor(positions, device=device),
            lengths,
            torch.tensor(lengths, device=device).cumsum(0) - 1,
            tuple(attention.mask(len(segment.fresh), len(segment.tokens), device, dtype) for segment in segments),
            tuple((segment.past, segment.reuse) for segment in segments),  # type: ignore[misc]
        )


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding: cosines and signed sines, the same for both halves; float32 [tokens, 1, head_dim]."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def at(cls, positions: Tensor, config: BackboneConfig) -> Rotary:
        """Angles for ``positions``."""
        steps = torch.arange(0, config.head_dim, 2, device=positions.device, dtype=torch.float32)
        angles = positions[:, None].float() / config.rope_theta ** (steps / config.head_dim)
        cos, sin = angles.cos(), angles.sin()
        return cls(*(torch.cat(halves, dim=-1)[:, None] for halves in ((cos, cos), (-sin, sin))))

    def __getitem__(self, rows: Tensor) -> Rotary:
        return Rotary(self.cos[rows], self.sin[rows])

    def __call__(self, x: Tensor, norm: RMSNorm) -> Tensor:
        """[tokens, heads, head_dim] after ``norm``, turned: in float32 and rounded once."""
        return in_blocks(lambda rows, cos, sin: turn(norm.exact(rows), cos, sin), x, self.cos, self.sin)


@dataclass(frozen=True)
class Layer:
    """One decoder layer. The last one's ``qkv`` comes in parts, since it asks for queries at few positions."""

    input_norm: RMSNorm
    qkv: Joint
    q_norm: RMSNorm
    k_norm: RMSNorm
    qk_norm: RMSNorm
    o_proj: Linear
    mlp_norm: RMSNorm
    gate_up: Joint | Gate
    down_proj: Linear
    head_dim: int
    attention: Attention

    def __call__(
        self, x: Tensor, packing: Packing, rotary: Rotary, index: int, last_only: bool
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The layer's output for all tokens (or the last of each sequence), and each sequence's keys and values."""
        normed = self.input_norm(x)
        if last_only:
            x, queries, keys, values = x[packing.last], *self._last_queries(normed, packing, rotary)
        else:
            queries, keys, values = self._queries(normed, rotary)
        memory = _with_pasts(keys, values, packing, index)
        counts = [1] * len(memory) if last_only else packing.lengths
        masks = [None] * len(memory) if last_only else packing.masks
        mixed = [
            self.attention.attend(query, *pair, mask)
            for query, pair, mask in zip(torch.split(queries, counts), memory, masks, strict=True)
        ]
        x = self.o_proj(_stacked(mixed).flatten(1), plus=x)
        return self.down_proj(self.gate_up.gated(self.mlp_norm(x)), plus=x), memory

    def _queries(self, normed: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all tokens."""
        heads = self._heads(self.qkv(normed))
        turning = self.qk_norm.weight.shape[0]
        keys = heads.shape[1] - turning
        turned = rotary(heads[:, :turning], self.qk_norm)
        return turned[:, :-keys], turned[:, -keys:], heads[:, turning:]

    def _last_queries(self, normed: Tensor, packing: Packing, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of each sequence's last token, keys and values of all."""
        to_queries, to_keys, to_values = self.qkv.parts
        queries = rotary[packing.last](self._heads(to_queries(normed[packing.last])), self.q_norm)
        keys = rotary(self._heads(to_keys(normed)), self.k_norm)
        return queries, keys, self._heads(to_values(normed))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1, self.head_dim)


@dataclass(frozen=True)
class Backbone:
    """Embedding, layers and final norm."""

    config: BackboneConfig
    embedding: Embedding
    layers: tuple[Layer, ...]
    norm: RMSNorm
    attention: Attention
    dtype: torch.dtype

    def __call__(self, packing: Packing) -> tuple[Tensor, list[TorchPast]]:
        """Hidden vectors after the final norm at each sequence's last token, [sequences, hidden], and the pasts."""
        x, memories = self._through(self.embedding(packing.ids), packing, range(len(self.layers)))
        return self.norm(x), [TorchPast(tuple(layers)) for layers in zip(*memories, strict=True)]

    def trunk(self, packing: Packing, stop: int) -> Tensor:
        """Hidden states of all tokens before layer ``stop``, [tokens, hidden]; no segment may have a past."""
        return self._through(self.embedding(packing.ids), packing, range(stop))[0]

    def rest(self, x: Tensor, packing: Packing, start: int) -> Tensor:
        """What the layers from ``start`` on and the final norm make of ``trunk``'s states, [sequences, hidden]."""
        return self.norm(self._through(x, packing, range(start, len(self.layers)))[0])

    def _through(self, x: Tensor, packing: Packing, indices: range) -> tuple[Tensor, list[list[tuple[Tensor, Tensor]]]]:
        """``x`` after the layers ``indices``, and each one's keys and values by sequence."""
        rotary = Rotary.at(packing.positions, self.config)
        memories = []
        for index in indices:
            last_only = index == len(self.layers) - 1
            x, memory = self.layers[index](x, packing, rotary, index, last_only)
            memories.append(memory)
        return x, memories


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[tokens, heads, head_dim] turned, by tables as ``Rotary`` has them."""
    return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, dims=-1), sin)


def _stacked(parts: list[Tensor]) -> Tensor:
    """One's rows below the other's; one alone as it is."""
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _with_pasts(keys: Tensor, values: Tensor, packing: Packing, layer: int) -> list[tuple[Tensor, Tensor]]:
    """Each sequence's keys and values from its first token on."""
    pairs = zip(torch.split(keys, packing.lengths), torch.split(values, packing.lengths), strict=True)
    return [
        pair if past is None else _append(past.layers[layer], reuse, pair)
        for pair, (past, reuse) in zip(pairs, packing.pasts, strict=True)
    ]


def _append(old: tuple[Tensor, Tensor], reuse: int, new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat((old[0][:reuse], new[0])), torch.cat((old[1][:reuse], new[1]))

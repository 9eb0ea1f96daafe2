"""A Qwen3 backbone for routing, on MLX: many token sequences in, one hidden vector for each out.

Three things set it apart from a language model's forward pass:

- Sequences are packed, not padded: all tokens lie in one [tokens, hidden] matrix, so that every matrix product serves
  all sequences at once and none does useless work. Only attention looks at one sequence at a time.
- The last layer computes queries, attention output and MLP for each sequence's last token alone.
- Keys and values of tokens that an earlier read has seen come from its ``MlxPast``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import mlx.core as mx

from trinity_mlx.contracts.artifact import BackboneConfig
from trinity_mlx.contracts.backend import Segment

from . import ops
from .kernels import KernelSet
from .quantized import Matrix, product, rows, times_transposed


@dataclass(frozen=True)
class Linear:
    """``x @ W'.T`` with ``W' = L @ W @ R`` applied factor by factor; a missing factor is the identity."""

    weight: Matrix
    right: mx.array | None = None
    left: mx.array | None = None

    def __call__(self, x: mx.array) -> mx.array:
        """[tokens, in] to [tokens, out]."""
        if self.right is not None:
            x = times_transposed(x, self.right)
        y = product(x, self.weight)
        return y if self.left is None else times_transposed(y, self.left)


@dataclass(frozen=True)
class Embedding:
    """Rows of ``W' = W @ R``."""

    weight: Matrix
    right: mx.array | None = None

    def __call__(self, ids: mx.array) -> mx.array:
        """[tokens] to [tokens, hidden]."""
        found = rows(self.weight, ids)
        return found if self.right is None else ops.matmul(found, self.right)


@dataclass(frozen=True)
class RMSNorm:
    """Root-mean-square norm over the last axis."""

    weight: mx.array
    eps: float
    kernels: KernelSet

    def __call__(self, x: mx.array) -> mx.array:
        """[tokens, in] to [tokens, out]."""
        return self.kernels.rms_norm(x, self.weight, self.eps)


@dataclass(frozen=True)
class MlxPast:
    """Rotated keys and values of each layer, a pair of [1, kv_heads, tokens, head_dim]."""

    layers: tuple[tuple[mx.array, mx.array], ...]

    @property
    def length(self) -> int:
        """Number of token positions held."""
        return self.layers[0][0].shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values together."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)


@dataclass(frozen=True)
class Packing:
    """Where each sequence's fresh tokens lie in the packed matrix."""

    ids: mx.array
    segments: tuple[Segment, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, segments: Sequence[Segment]) -> Packing:
        """Pack the tokens of ``segments`` that are not covered by their pasts."""
        ids = [token for segment in segments for token in segment.fresh]
        return cls(mx.array(ids), tuple(segments), tuple(accumulate(len(segment.fresh) for segment in segments)))

    @property
    def last(self) -> mx.array:
        """Row of each sequence's last token."""
        return mx.array([end - 1 for end in self.ends])

    @property
    def one_each(self) -> Packing:
        """The same with one row for each sequence."""
        return replace(self, ends=tuple(range(1, len(self.ends) + 1)))

    def split(self, rows: mx.array) -> list[mx.array]:
        """``rows`` [tokens, heads, head_dim] apart by sequence, each as [1, heads, tokens, head_dim]."""
        return [ops.expand_dims(ops.transpose(part, (1, 0, 2)), 0) for part in ops.parts(rows, self.ends)]


@dataclass(frozen=True)
class Layer:
    """One decoder layer."""

    input_norm: RMSNorm
    q_proj: Linear
    k_proj: Linear
    v_proj: Linear
    q_norm: RMSNorm
    k_norm: RMSNorm
    o_proj: Linear
    mlp_norm: RMSNorm
    gate_proj: Linear
    up_proj: Linear
    down_proj: Linear
    config: BackboneConfig
    kernels: KernelSet

    def __call__(
        self, x: mx.array, packing: Packing, index: int, last_only: bool
    ) -> tuple[mx.array, list[tuple[mx.array, mx.array]]]:
        """The layer's output for all tokens (or the last of each sequence), and each sequence's keys and values."""
        normed = self.input_norm(x)
        keys = packing.split(self.k_norm(self._heads(self.k_proj(normed))))
        values = packing.split(self._heads(self.v_proj(normed)))
        if last_only:
            x, normed = ops.rows(x, packing.last), ops.rows(normed, packing.last)
        queries = (packing.one_each if last_only else packing).split(self.q_norm(self._heads(self.q_proj(normed))))
        memory = [
            self._remember(key, value, segment, index)
            for key, value, segment in zip(keys, values, packing.segments, strict=True)
        ]
        mixed = [self._attend(query, *pair) for query, pair in zip(queries, memory, strict=True)]
        x = ops.add(x, self.o_proj(ops.concatenate(mixed)))
        return ops.add(x, self._mlp(self.mlp_norm(x))), memory

    def _heads(self, x: mx.array) -> mx.array:
        heads: mx.array = ops.reshape(x, (x.shape[0], -1, self.config.head_dim))
        return heads

    def _rotate(self, x: mx.array, offset: int) -> mx.array:
        return self.kernels.rotate(x, offset, self.config.rope_theta)

    def _remember(self, keys: mx.array, values: mx.array, segment: Segment, index: int) -> tuple[mx.array, mx.array]:
        """One sequence's rotated keys and its values from the first token on."""
        keys = self._rotate(keys, segment.reuse)
        if segment.past is None:
            return keys, values
        old_keys, old_values = segment.past.layers[index]  # type: ignore[attr-defined]
        return (
            ops.concatenate([ops.first(old_keys, segment.reuse, 2), keys], axis=2),
            ops.concatenate([ops.first(old_values, segment.reuse, 2), values], axis=2),
        )

    def _attend(self, query: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        """Causal attention of the last positions over all of ``keys``: [queries, heads * head_dim]."""
        fresh, total = query.shape[2], keys.shape[2]
        mixed = self.kernels.attend(self._rotate(query, total - fresh), keys, values)
        rows: mx.array = ops.reshape(ops.transpose(ops.squeeze(mixed, 0), (1, 0, 2)), (fresh, -1))
        return rows

    def _mlp(self, x: mx.array) -> mx.array:
        gate = self.gate_proj(x)
        return self.down_proj(ops.multiply(ops.multiply(gate, ops.sigmoid(gate)), self.up_proj(x)))


@dataclass(frozen=True)
class Backbone:
    """Embedding, layers and final norm."""

    embedding: Embedding
    layers: tuple[Layer, ...]
    norm: RMSNorm

    def __call__(self, packing: Packing) -> tuple[mx.array, list[MlxPast]]:
        """Hidden vectors after the final norm at each sequence's last token, [sequences, hidden], and the pasts."""
        x, memories = self._through(self.embedding(packing.ids), packing, range(len(self.layers)))
        return self.norm(x), [MlxPast(tuple(layers)) for layers in zip(*memories, strict=True)]

    def trunk(self, packing: Packing, stop: int) -> mx.array:
        """Hidden states of all tokens before layer ``stop``, [tokens, hidden]; no segment may have a past."""
        return self._through(self.embedding(packing.ids), packing, range(stop))[0]

    def rest(self, x: mx.array, packing: Packing, start: int) -> mx.array:
        """What the layers from ``start`` on and the final norm make of ``trunk``'s states, [sequences, hidden]."""
        return self.norm(self._through(x, packing, range(start, len(self.layers)))[0])

    def _through(
        self, x: mx.array, packing: Packing, indices: range
    ) -> tuple[mx.array, list[list[tuple[mx.array, mx.array]]]]:
        """``x`` after the layers ``indices``, and each one's keys and values by sequence."""
        memories = []
        for index in indices:
            last_only = index == len(self.layers) - 1
            x, memory = self.layers[index](x, packing, index, last_only)
            memories.append(memory)
        return x, memories

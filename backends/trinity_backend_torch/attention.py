"""Causal attention of one sequence on torch: fused, and composed from plain operations.

Queries [queries, heads, head_dim] stand at the last positions of keys and values [tokens, kv_heads, head_dim]; a mask
[queries, tokens] is what to add to the scores. A kind of attention says itself which mask it needs, None for none.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_SCORES = 1 << 22
"""Up to this many scores of one head are held at once, 16 MB for two stacked heads in bfloat16."""


class Attention(Protocol):
    """One way to attend."""

    def mask(self, fresh: int, total: int, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """The mask for the last ``fresh`` of ``total`` positions."""

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of the last ``len(query)`` positions over all of ``keys``: [queries, heads, head_dim]."""


class FusedAttention:
    """Torch's own kernel, or plain products where they beat it."""

    def mask(self, fresh: int, total: int, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """The mask; None where the kernel's own rules do."""
        if fresh == 1 or (fresh == total and not _products_are_faster(fresh, total, device, dtype)):
            return None
        return _causal_mask(fresh, total, device, dtype)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of the last ``len(query)`` positions over all of ``keys``: [queries, heads, head_dim]."""
        if mask is not None and _products_are_faster(len(query), len(keys), mask.device, mask.dtype):
            return _attend_by_products(query, keys, values, mask)
        mixed = F.scaled_dot_product_attention(
            query.transpose(0, 1)[None],
            keys.transpose(0, 1)[None],
            values.transpose(0, 1)[None],
            attn_mask=mask,
            is_causal=mask is None and len(query) > 1,
            enable_gqa=True,
        )
        return mixed[0].transpose(0, 1)


class ComposedAttention:
    """Scores, mask, softmax in float32, products; the query heads that share a key head are stacked into its rows."""

    def mask(self, fresh: int, total: int, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """The mask; None for one query, which sees everything."""
        return None if fresh == 1 else _causal_mask(fresh, total, device, dtype)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of the last ``len(query)`` positions over all of ``keys``: [queries, heads, head_dim]."""
        fresh, heads, width = query.shape
        total, kv_heads, _ = keys.shape
        stacked = (query * width**-0.5).transpose(0, 1).reshape(kv_heads, -1, width)
        scores = (stacked @ keys.permute(1, 2, 0)).view(heads, fresh, total)
        if mask is not None:
            scores = scores + mask
        weights = torch.softmax(scores, -1, dtype=torch.float32).to(values.dtype)
        mixed = weights.view(kv_heads, -1, total) @ values.transpose(0, 1)
        return mixed.view(heads, fresh, width).transpose(0, 1)


def _causal_mask(fresh: int, total: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    hidden = torch.ones(fresh, total, dtype=torch.bool, device=device).triu(total - fresh + 1)
    return torch.zeros(fresh, total, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)


def _products_are_faster(fresh: int, total: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether plain bfloat16 products beat the fused kernel, which on the CPU computes no faster than in float32."""
    return device.type == "cpu" and dtype is torch.bfloat16 and fresh >= 64 and fresh * total <= MOST_SCORES


def _attend_by_products(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """The same by two matrix products for each key/value head, with the query heads that share it stacked.

    Scores are rounded to the number type, as in transformers' eager attention. One head at a time keeps them in cache.
    """
    fresh, heads, width = query.shape
    shared = heads // keys.shape[1]
    stacked = query.unflatten(1, (-1, shared)).permute(1, 2, 0, 3).flatten(1, 2)  # type: ignore[no-untyped-call]
    repeated = mask.repeat(shared, 1)
    mixed = [
        torch.addmm(repeated, rows, key.T, alpha=width**-0.5).softmax(-1) @ value
        for rows, key, value in zip(stacked, keys.transpose(0, 1), values.transpose(0, 1), strict=True)
    ]
    return torch.stack(mixed).view(heads, fresh, width).transpose(0, 1)

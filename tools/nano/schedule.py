"""The learning rate over a run."""

import math

import torch

_WARM_UP = 0.04


def cosine(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int) -> None:
    """Set the rate: a linear warm-up, then half a cosine down to a fiftieth of the peak."""
    done = step / max(steps, 1)
    falling = 0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2
    for group in optimizer.param_groups:
        group["lr"] = peak * min(falling, (step + 1) / (_WARM_UP * steps + 1))

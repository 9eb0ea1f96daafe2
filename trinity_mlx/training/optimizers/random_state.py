"""A random generator's state as arrays, so that a checkpoint needs no pickle."""

from __future__ import annotations

import json

import numpy as np


def packed(draw: np.random.Generator) -> np.ndarray:
    """The state of ``draw`` as bytes, uint8 [n]."""
    return np.frombuffer(json.dumps(draw.bit_generator.state, sort_keys=True).encode(), dtype=np.uint8).copy()


def unpacked(state: np.ndarray) -> np.random.Generator:
    """A generator that goes on where the packed one was.

    Raises:
        ValueError: the bytes are no state of numpy's usual generator.
    """
    draw = np.random.default_rng(0)
    draw.bit_generator.state = json.loads(state.astype(np.uint8).tobytes())
    return draw

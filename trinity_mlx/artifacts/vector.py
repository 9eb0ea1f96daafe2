"""The trained vector: singular-value offsets of each adapted tensor, then the head (docs/method.md, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..contracts.artifact import BackboneConfig
from ..contracts.errors import BundleInvalid
from ..factorization.adapted import EMBEDDING, LAYER_MATRICES

VECTOR_TENSOR = "trinity_router_es_vector"
LM_HEAD = "lm_head.weight"
"""Adapted by the published vector, and without effect on a route: no logit over the vocabulary is computed."""


@dataclass(frozen=True)
class TrainedVector:
    """The parts of a trained vector: offsets by source tensor, in order, and the head [slots + 3, hidden]."""

    offsets: dict[str, np.ndarray]
    head: np.ndarray


def adapted_shapes(config: BackboneConfig, layers: Sequence[int] | None = None) -> dict[str, tuple[int, int]]:
    """Shapes of the tensors that a vector adapts, in its order: embedding, layers' matrices, ``lm_head``.

    ``layers`` are the decoder layers; the second-to-last alone by default.
    """
    shapes = config.backbone_shapes() | {LM_HEAD: (config.vocab_size, config.hidden_size)}
    chosen = [config.num_layers - 2] if layers is None else layers
    names = [f"model.layers.{layer}.{matrix}" for layer in chosen for matrix in LAYER_MATRICES.values()]
    return {name: (shapes[name][0], shapes[name][1]) for name in [EMBEDDING, *names, LM_HEAD]}


def split_vector(vector: np.ndarray, shapes: dict[str, tuple[int, int]], hidden: int) -> TrainedVector:
    """Cut ``vector`` [n] into offsets of ``min(shape)`` for each tensor, in order, and the head's rows.

    Raises:
        BundleInvalid: what remains for the head is not a whole number of rows, with the arithmetic in the message.
    """
    counts = {name: min(shape) for name, shape in shapes.items()}
    scale_count = sum(counts.values())
    rest = vector.size - scale_count
    if vector.ndim != 1 or rest <= 0 or rest % hidden:
        raise BundleInvalid(
            f"the vector is shaped {list(vector.shape)}: {len(counts)} tensors take {scale_count} offsets, "
            f"{vector.size} - {scale_count} = {rest} are left for the head, and that is no multiple of {hidden}"
        )
    starts = np.cumsum([0, *counts.values()])[:-1]
    offsets = {name: vector[start : start + counts[name]] for name, start in zip(counts, starts, strict=True)}
    return TrainedVector(offsets, vector[scale_count:].reshape(-1, hidden))

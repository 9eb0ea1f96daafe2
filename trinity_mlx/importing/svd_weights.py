"""``svd_weights.pt``, a whole model's decomposition as torch saved it, together with a trained vector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..artifacts.vector import LM_HEAD, adapted_shapes, read_vector, split_vector
from ..contracts.artifact import Base
from ..contracts.errors import TensorFileInvalid
from ..files.hashing import FileHashes
from ..profiles.backends import svd_weights_reader
from .content import Content, checked_components, checked_head, checked_labels


def read_svd_weights(file: Path, vector_file: Path, base: Base) -> Content:
    """What ``file`` says about the tensors that the vector adapts, memory-mapped, and the vector's head.

    Raises:
        EnvironmentUnavailable: torch is not installed.
        TensorFileInvalid: a file is missing or malformed, needs more than weights, or lacks a tensor or a shape.
        VectorInvalid: the vector is none, or its length does not add up.
    """
    shapes = adapted_shapes(base.config)
    vector = read_vector(vector_file)
    trained = split_vector(vector.values, shapes, base.config.hidden_size)
    weights = svd_weights_reader().read_svd_weights(file)
    components = {
        name: checked_components(_parts(weights, name, offsets, file), shapes[name], f"{file}: {name}")
        for name, offsets in trained.offsets.items()
        if name != LM_HEAD
    }
    head = checked_head(trained.head, base, vector_file)
    lineage = {"components": FileHashes().sha256(file), "vector": vector.sha256}
    return Content(head, checked_labels((), head, vector_file), lineage, None, components=components)


def _parts(weights: Mapping[str, np.ndarray], name: str, offsets: np.ndarray, file: Path) -> dict[str, np.ndarray]:
    for part in "USV":
        if f"{name}.{part}" not in weights:
            raise TensorFileInvalid(f"{file} has no {f'{name}.{part}'!r}: the vector adapts that tensor")
    return {part: weights[f"{name}.{part}"] for part in "USV"} | {"offsets": offsets}

"""The published hashes of adapted bytes, by name, and which of them a bundle meets.

A hash of stored bytes is bound to the components that they were computed from. Both published ones are of
``final_bf16`` of one tensor in the published orientation: the historical one of decompositions that were not kept, the
reproducible one of those that the reference pipeline makes today.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from ..artifacts.published import NAMED_BY_VECTOR
from ..contracts.artifact import TensorLocation
from ..factorization.tiles import spans
from ..files.safetensors import map_tensor

HISTORICAL = "historical"
REPRODUCIBLE = "reproducible"
TRANSPOSED = "model.layers."
"""How the names of tensors begin that the published layout stores transposed."""
PUBLISHED_TENSOR = "model.layers.26.mlp.gate_proj.weight"
PUBLISHED: Mapping[str, str] = {
    "600be6ab0f5a34325b9857182ccb5fce5971549a0ce8588cdacc992eda54014c": HISTORICAL,
    "5aaa24c15898794dec09dccae650e35549c33cc24815e70ac6641cc3b466b725": REPRODUCIBLE,
}
RULE = (
    "a hash is bound to its components: the historical one is demanded only where the original components are at hand "
    "and the reference itself reproduces it from them"
)


def bytes_sha256(location: TensorLocation, *, transposed: bool = False) -> str:
    """The sha256 of a matrix's bytes, row by row as they are stored, or as they would be stored ``transposed``."""
    digest, stored = hashlib.sha256(), map_tensor(location)
    stored = stored.T if transposed else stored
    for rows in spans(*stored.shape):
        digest.update(np.ascontiguousarray(stored[rows]).data)
    return digest.hexdigest()


def published_sha256(location: TensorLocation, tensor: str | None) -> str:
    """The sha256 of a ``final_bf16`` in the published orientation, which is the transposed one of a layer's matrices.

    ``tensor`` is None in a bundle of one, which has that orientation itself.
    """
    return bytes_sha256(location, transposed=tensor is not None and tensor.startswith(TRANSPOSED))


def is_reproduced(kind: str, vector_sha256: str, published_bytes: str | None) -> bool | None:
    """Whether a reference has met the historical hash; None where that was not the question.

    ``published_bytes`` is the hash of the published tensor's ``final_bf16`` in the published orientation, or None where
    the bundle does not hold that tensor. The question is put to a ``reference`` of the published vector alone.
    """
    if kind != "reference" or NAMED_BY_VECTOR.get(vector_sha256) != "sakana" or published_bytes is None:
        return None
    return PUBLISHED.get(published_bytes) == HISTORICAL

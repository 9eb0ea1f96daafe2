"""From a request to what is to be adapted by which offsets, with everything checked that can be before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..artifacts.published import AGENTS, router_name
from ..artifacts.vector import LM_HEAD, adapted_shapes, read_vector, split_vector
from ..contracts.artifact import BackboneConfig, Base, Execution, TensorLocation
from ..contracts.errors import UsageError, VectorInvalid
from ..contracts.routing import Role
from ..factorization.adapted import EMBEDDING
from ..factorization.svf import execution_for
from ..factorization.tiles import spans
from ..files.safetensors import map_tensor, require
from .request import ExportRequest, TiedEmbedding, Write


@dataclass(frozen=True)
class Target:
    """One tensor to adapt: where its source lies, and the offsets that adapt it, one after the other."""

    name: str
    source: TensorLocation
    offsets: tuple[np.ndarray, ...]

    @property
    def execution(self) -> Execution:
        """The side on which its factor is applied."""
        return execution_for(self.source.shape)

    @property
    def side(self) -> int:
        """The smaller side of the source."""
        return min(self.source.shape)


@dataclass(frozen=True)
class Work:
    """All that an export computes from: targets in the vector's order, and the head [agents + 3, hidden] in float32.

    ``name`` is the router's; ``shapes`` has every tensor that the vector holds offsets for, a target or not.
    """

    name: str
    targets: tuple[Target, ...]
    shapes: Mapping[str, tuple[int, int]]
    head: np.ndarray
    agents: tuple[str, ...]
    vector_sha256: str

    def executions(self, write: Write) -> dict[str, Execution]:
        """How each target's change is applied when a router runs."""
        return {each.name: Execution.REPLACE if write is Write.MERGED else each.execution for each in self.targets}


def work_for(request: ExportRequest) -> Work:
    """What ``request`` amounts to.

    Raises:
        UsageError: it names a layer, a tensor or a number of agents that does not exist here.
        VectorInvalid: the vector is malformed, or its numbers do not add up.
        TensorFileInvalid: a source tensor is missing or has another shape.
    """
    base, shapes = request.base, _shapes(request)
    vector = read_vector(request.vector)
    trained = split_vector(vector.values, shapes, base.config.hidden_size)
    sources, tied = _sources(base, shapes)
    offsets = _with_tied(trained.offsets, request.tied_embedding, tied)
    return Work(
        request.name or router_name(vector.sha256, request.out),
        tuple(Target(name, sources[name], offsets[name]) for name in _chosen(shapes, request.only)),
        shapes,
        np.ascontiguousarray(trained.head, dtype="<f4"),
        _agents(request.agents, _head_arithmetic(vector.values.size, shapes, trained.head), len(trained.head)),
        vector.sha256,
    )


def _shapes(request: ExportRequest) -> dict[str, tuple[int, int]]:
    config, layers = request.base.config, request.layers
    if layers is None and config.num_layers < 2:
        raise UsageError("a base of one layer has no second-to-last one: name the adapted layers, as in 0")
    if layers is not None:
        _check_layers(layers, config)
    return adapted_shapes(config, layers)


def _check_layers(layers: Sequence[int], config: BackboneConfig) -> None:
    if not layers or len(set(layers)) < len(layers) or not all(0 <= layer < config.num_layers for layer in layers):
        raise UsageError(
            f"layers {','.join(map(str, layers)) or 'none'}: name each adapted decoder layer once, "
            f"from 0 to {config.num_layers - 1} in this base"
        )


def _chosen(shapes: Mapping[str, object], only: Sequence[str] | None) -> list[str]:
    unknown = [name for name in only or () if name not in shapes]
    if unknown or only == ():
        raise UsageError(f"no tensor {unknown[0] if unknown else ''!r} to adapt; there are {', '.join(shapes)}")
    return [name for name in shapes if only is None or name in only]


def _sources(base: Base, shapes: Mapping[str, tuple[int, int]]) -> tuple[dict[str, TensorLocation], bool]:
    """Where each tensor lies, and whether ``lm_head`` is the embedding under another name."""
    tensors = dict(base.tensors)
    own = tensors.get(LM_HEAD)
    embedding = tensors[EMBEDDING]
    tied = base.config.tied_embeddings and (own is None or _same_bytes(own, embedding))
    if tied:
        tensors[LM_HEAD] = embedding
    return {name: require(tensors, name, shape, base.folder) for name, shape in shapes.items()}, tied


def _same_bytes(one: TensorLocation, other: TensorLocation) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    left, right = (map_tensor(tensor).view(np.uint8) for tensor in (one, other))
    return all(np.array_equal(left[span], right[span]) for span in spans(*left.shape))


def _with_tied(
    offsets: Mapping[str, np.ndarray], choice: TiedEmbedding, tied: bool
) -> dict[str, tuple[np.ndarray, ...]]:
    """The offsets that adapt each tensor, after the choice for a shared embedding."""
    alone: dict[str, tuple[np.ndarray, ...]] = {name: (values,) for name, values in offsets.items()}
    if choice is TiedEmbedding.EMBED_TOKENS:
        return alone
    if not tied:
        raise UsageError(
            f"tied embedding {choice}: this base keeps lm_head apart from its embedding, so each takes its own offsets "
            "(embed_tokens)"
        )
    last = alone[LM_HEAD]
    both = last if choice is TiedEmbedding.LM_HEAD else alone[EMBEDDING] + last
    return alone | {EMBEDDING: both, LM_HEAD: both}


def _head_arithmetic(size: int, shapes: Mapping[str, tuple[int, int]], head: np.ndarray) -> str:
    """How many rows the head has, and why, for people."""
    offsets = sum(map(min, shapes.values()))
    return (
        f"the vector has {size} numbers, {len(shapes)} tensors take {offsets} offsets, and "
        f"{size} - {offsets} = {head.size} make a head of {len(head)} rows"
    )


def _agents(labels: tuple[str, ...] | None, arithmetic: str, rows: int) -> tuple[str, ...]:
    """The label of each agent slot of a head with ``rows`` rows."""
    count = rows - len(Role)
    if count < 1:
        raise VectorInvalid(f"{arithmetic}: {len(Role)} roles and an agent take at least {len(Role) + 1}")
    if labels is None and count != len(AGENTS):
        raise UsageError(
            f"{arithmetic}: {rows} - {len(Role)} roles = {count} agents, and the published labels are for "
            f"{len(AGENTS)}; name yours"
        )
    chosen = AGENTS if labels is None else labels
    if len(chosen) != count or len(set(chosen)) < count or not all(label.strip() for label in chosen):
        raise UsageError(
            f"{len(chosen)} agent labels ({', '.join(chosen)}), but {arithmetic}: "
            f"{rows} - {len(Role)} roles = {count} agents, each with a label of its own"
        )
    return chosen

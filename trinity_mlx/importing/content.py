"""What an import found, whatever it was read from, and what every such thing must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..artifacts.published import agent_labels
from ..artifacts.vector import LM_HEAD
from ..contracts.artifact import AdapterEntry, Base
from ..contracts.errors import BundleInvalid, TensorFileInvalid
from ..contracts.routing import Role
from ..factorization.adapted import EMBEDDING
from ..factorization.stages import Components
from .components import OffsetComponents


@dataclass(frozen=True)
class Content:
    """Changes, either as components or ready, and the head [slots + 3, hidden] in float32 with the slots' labels.

    ``lm_head`` is in neither: no route reads it.
    """

    head: np.ndarray
    labels: tuple[str, ...]
    lineage: Mapping[str, str]
    base_id: str | None
    components: Mapping[str, OffsetComponents] = field(default_factory=dict)
    ready: tuple[AdapterEntry, ...] = ()


def adaptable_shapes(base: Base) -> dict[str, tuple[int, int]]:
    """Shape of every tensor of ``base`` that can be adapted: the embedding, the layers' matrices and ``lm_head``."""
    shapes = base.config.backbone_shapes()
    matrices = {name: (shape[0], shape[1]) for name, shape in shapes.items() if len(shape) == 2}
    return matrices | {LM_HEAD: matrices[EMBEDDING]}


def checked_components(parts: Mapping[str, np.ndarray], shape: tuple[int, int], what: str) -> OffsetComponents:
    """A decomposition of a tensor of ``shape`` from the arrays ``U``, ``S``, ``V`` and ``offsets``.

    Raises:
        TensorFileInvalid: one of them has another shape.
    """
    rows, columns = shape
    count = min(shape)
    needed = {"U": (rows, count), "S": (count,), "V": (columns, count), "offsets": (count,)}
    for part, wanted in needed.items():
        shape_of_part = parts[part].shape
        if shape_of_part != wanted:
            lies = " (it lies as vh, called nx too: vectors as rows)" if shape_of_part == wanted[::-1] else ""
            raise TensorFileInvalid(
                f"{what}: {part} is shaped {list(shape_of_part)}{lies}, and {list(wanted)} is needed"
            )
    return OffsetComponents(Components(parts["U"], parts["S"], parts["V"]), parts["offsets"])


def checked_head(head: np.ndarray, base: Base, path: Path) -> np.ndarray:
    """``head`` in float32, if it is one for ``base``: finite, at least one agent and all roles, as wide as the base.

    Raises:
        TensorFileInvalid: it is not.
    """
    hidden = base.config.hidden_size
    if head.ndim != 2 or head.shape[0] <= len(Role) or head.shape[1] != hidden:
        raise TensorFileInvalid(f"{path}: the head is shaped {list(head.shape)}, and [agents + 3, {hidden}] is needed")
    if not np.isfinite(head).all():
        raise TensorFileInvalid(f"{path}: the head holds NaN or infinity")
    return np.ascontiguousarray(head, dtype=np.float32)


def checked_labels(labels: tuple[str, ...], head: np.ndarray, path: Path) -> tuple[str, ...]:
    """``labels``, one for each agent of ``head``; where there are none, the published ones or numbers.

    Raises:
        BundleInvalid: there are more or fewer labels than agents.
    """
    agents = len(head) - len(Role)
    if labels and len(labels) != agents:
        raise BundleInvalid(f"{path} labels {len(labels)} agents, and the head has {agents}")
    return labels or agent_labels(len(head))

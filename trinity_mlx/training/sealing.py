"""From offsets and a head to a sealed bundle, which a router loads as any other."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..artifacts.bundle import (
    ADAPTER_FILE,
    ELU_TENSOR,
    GUARD_FILE,
    GUARD_TENSOR,
    HEAD_FILE,
    HEAD_TENSOR,
    BundleDraft,
    seal_bundle,
)
from ..artifacts.vector import VECTOR_TENSOR, offset_entries
from ..contracts import routing
from ..contracts.artifact import Bundle, ReadPosition
from ..contracts.errors import FolderUnavailable
from ..factorization.svf import change_of, execution_for, gains
from ..files.safetensors_writer import write_float32
from .guard import Guard
from .head import ALPHA, Head
from .reading import Reading
from .vector_layout import Layout

VECTOR_FILE = "vector.safetensors"
BASE_FOLDER = "base"
_TENSORS = {"matrix": HEAD_TENSOR, "inner": ELU_TENSOR}


@dataclass(frozen=True)
class BaseIdentity:
    """What a bundle calls its base; ``carried`` copies it into the bundle, for a base that comes with the package."""

    id: str
    revision: str | None = None
    carried: bool = False


@dataclass(frozen=True)
class Learned:
    """What a training came to.

    Attributes:
        layout: the vector's tensors.
        offsets: by tensor; one that is all zero is not sealed, since it changes nothing.
        head: with agents + 3 logits.
        guard: when the router stands aside, if ever.
    """

    layout: Layout
    offsets: Mapping[str, np.ndarray]
    head: Head
    guard: Guard | None = None

    @property
    def changed(self) -> dict[str, np.ndarray]:
        """The offsets that change their tensor."""
        return {name: values for name, values in self.offsets.items() if values.any()}


def seal(
    folder: Path,
    identity: BaseIdentity,
    learned: Learned,
    agents: Sequence[str],
    *,
    reading: Reading,
    made: Mapping[str, str],
    lineage: Mapping[str, str],
) -> Bundle:
    """Write adapter and head into ``folder``, which holds what else belongs to the bundle, and seal it.

    The vector is written as well where the published layout can hold it, which knows linear heads of the usual token.

    Args:
        folder: an existing folder without a manifest.
        identity: what the bundle calls its base.
        learned: what is sealed.
        agents: the label of each slot.
        reading: the base, and how transcripts were read.
        made: how it was made, for the manifest.
        lineage: hashes of what it was made from.

    Raises:
        FolderUnavailable: a base that is carried cannot be copied.
    """
    base, layout, head, guard = reading.base, learned.layout, learned.head, learned.guard
    has_vector = head.inner is None and reading.position is ReadPosition.SECOND_TO_LAST
    _write_tensors(folder, learned, has_vector=has_vector)
    if identity.carried:
        _copy_base(base.folder, folder / BASE_FOLDER)
    draft = BundleDraft(
        name=folder.name,
        base_id=identity.id,
        base_ref=base.ref,
        agents=tuple(agents),
        executions={name: execution_for(layout.shapes[name]) for name in learned.changed},
        base_revision=identity.revision,
        base_folder=BASE_FOLDER if identity.carried else None,
        text_format=reading.text_format,
        made=made,
        lineage=lineage,
        vector=offset_entries(layout.shapes) if has_vector else (),
        alpha=None if head.inner is None else ALPHA,
        read_position=reading.position,
        window=reading.window,
        guard=routing.Guard(guard.slot, distance=guard.limit) if guard else None,
    )
    return seal_bundle(folder, draft)


def _copy_base(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target)
    except shutil.Error as error:  # a list: of each file that could not be copied, its target, and why
        name, _, reason = error.args[0][0]
        why = str(reason).removeprefix("[Errno ").partition("] ")[2].partition(": ")[0] or str(reason)
        raise FolderUnavailable(f"the base cannot be copied: {name}: {why}") from None


def _write_tensors(folder: Path, learned: Learned, *, has_vector: bool) -> None:
    layout, head = learned.layout, learned.head
    factors = {name: _factor(layout, name, values) for name, values in learned.changed.items()}
    write_float32(folder / ADAPTER_FILE, factors)
    write_float32(folder / HEAD_FILE, {_TENSORS[part]: values for part, values in head.arrays().items()})
    if has_vector:
        write_float32(folder / VECTOR_FILE, {VECTOR_TENSOR: layout.vector(learned.offsets, head)})
    if learned.guard:
        write_float32(folder / GUARD_FILE, {GUARD_TENSOR: learned.guard.kinds.rows})


def _factor(layout: Layout, name: str, offsets: np.ndarray) -> np.ndarray:
    spectrum = layout.spectra[name]
    factor: np.ndarray = np.eye(len(spectrum.singular)) + change_of(spectrum, gains(spectrum.singular, offsets))
    return factor

"""From offsets and a head to a sealed bundle, which a router loads as any other."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..artifacts.bundle import ADAPTER_FILE, HEAD_FILE, HEAD_TENSOR, BundleDraft, seal_bundle
from ..artifacts.vector import VECTOR_TENSOR
from ..contracts.artifact import Base, Bundle
from ..contracts.text_format import TextFormat
from ..factorization.svf import change_of, execution_for, gains
from ..files.safetensors_writer import TensorSpec, write_safetensors
from .vector_layout import Layout

VECTOR_FILE = "vector.safetensors"
BASE_FOLDER = "base"


@dataclass(frozen=True)
class BaseIdentity:
    """What a bundle calls its base; ``carried`` copies it into the bundle, for a base that comes with the package."""

    id: str
    revision: str | None = None
    carried: bool = False


def seal(
    folder: Path,
    base: Base,
    identity: BaseIdentity,
    layout: Layout,
    offsets: Mapping[str, np.ndarray],
    head: np.ndarray,
    agents: Sequence[str],
    *,
    text_format: TextFormat,
    made: Mapping[str, str],
    lineage: Mapping[str, str],
) -> Bundle:
    """Write adapter, head and vector into ``folder``, which holds what else belongs to the bundle, and seal it.

    Args:
        folder: an existing folder without a manifest.
        base: the base that was trained on.
        identity: what the bundle calls it.
        layout: the vector's tensors.
        offsets: by tensor; one that is all zero is not written, since it changes nothing.
        head: [agents + 3, hidden].
        agents: the label of each slot.
        text_format: the text that the router reads.
        made: how it was made, for the manifest.
        lineage: hashes of what it was made from.
    """
    changed = {name: values for name, values in offsets.items() if values.any()}
    factors = {name: _factor(layout, name, values) for name, values in changed.items()}
    _write(folder / ADAPTER_FILE, factors)
    _write(folder / HEAD_FILE, {HEAD_TENSOR: head})
    _write(folder / VECTOR_FILE, {VECTOR_TENSOR: layout.vector(offsets, head)})
    if identity.carried:
        shutil.copytree(base.folder, folder / BASE_FOLDER)
    ends = np.cumsum([min(shape) for shape in layout.shapes.values()]).tolist()
    draft = BundleDraft(
        name=folder.name,
        base_id=identity.id,
        base_ref=base.ref,
        agents=tuple(agents),
        executions={name: execution_for(layout.shapes[name]) for name in changed},
        base_revision=identity.revision,
        base_folder=BASE_FOLDER if identity.carried else None,
        text_format=text_format,
        made=made,
        lineage=lineage,
        vector=[
            {"source": name, "shape": list(shape), "start": end - min(shape), "end": end}
            for (name, shape), end in zip(layout.shapes.items(), ends, strict=True)
        ],
    )
    return seal_bundle(folder, draft)


def _factor(layout: Layout, name: str, offsets: np.ndarray) -> np.ndarray:
    spectrum = layout.spectra[name]
    factor: np.ndarray = np.eye(len(spectrum.singular)) + change_of(spectrum, gains(spectrum.singular, offsets))
    return factor


def _write(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    arrays = {name: np.ascontiguousarray(values, dtype="<f4") for name, values in tensors.items()}
    write_safetensors(
        path, [(TensorSpec(name, "F32", array.shape), [array.data.cast("B")]) for name, array in arrays.items()]
    )

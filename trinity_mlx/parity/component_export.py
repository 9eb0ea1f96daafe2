"""What turns a reference's components into a component export: offsets, head and manifest (docs/parity.md, "Files")."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ..artifacts.component_files import FORMAT, HEAD, HEAD_TENSOR, MANIFEST, OFFSETS, VERSION, offsets_key, safe_name
from ..files.atomic import write_json
from ..files.safetensors_writer import TensorSpec, new_safetensors
from .stages import Subject


def write_component_export(folder: Path, subjects: Iterable[Subject], head: np.ndarray, vector_sha256: str) -> None:
    """Write offsets and ``head`` [rows, hidden] in float32, and last the manifest that lists ``subjects``.

    Raises:
        FolderUnavailable: ``folder`` cannot be written to.
    """
    offsets = {subject.name: subject.offsets for subject in subjects}
    _write(folder / OFFSETS, {offsets_key(name): values for name, values in offsets.items()})
    _write(folder / HEAD, {HEAD_TENSOR: head})
    entries = [
        {"source_parameter": name, "safe_parameter": safe_name(name), "python_v_layout": "torch_v"} for name in offsets
    ]
    write_json(
        folder / MANIFEST,
        {
            "format": FORMAT,
            "version": VERSION,
            "source": {"router_vector_sha256": vector_sha256},
            "svf": {"entries": entries},
        },
    )


def _write(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with new_safetensors(file, [TensorSpec(key, "F32", values.shape) for key, values in arrays.items()]) as writer:
        for key, values in arrays.items():
            writer.write_block(key, values.astype("<f4"))

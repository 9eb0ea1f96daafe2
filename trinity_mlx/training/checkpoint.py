"""Checkpoints: arrays as safetensors, the rest as JSON, and never half of one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts.artifact import TensorLocation
from ..contracts.errors import ResumeRefused, TrinityError
from ..files.atomic import write_file
from ..files.safetensors import read_header
from ..files.safetensors_writer import TensorSpec, write_safetensors

RECORD = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """Where a training stands: plain values, and arrays by name, all stored as float64."""

    values: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint. Killed at any moment, the folder holds this one or the one before.

    The arrays go to a file of their own name first; the record that names it follows in one step.

    Raises:
        FolderUnavailable: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = int(checkpoint.values["generation"])
    name = f"checkpoint-{number}.safetensors"
    exact = {key: _exact(array) for key, array in checkpoint.arrays.items()}
    tensors = [(TensorSpec(key, "F64", each.shape), [memoryview(each.tobytes())]) for key, each in exact.items()]
    write_safetensors(folder / name, tensors)
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    record = {**checkpoint.values, "arrays": name, "sha256": digest}
    write_file(folder / RECORD, json.dumps(record, indent=2).encode())
    for stale in folder.glob("checkpoint-*.safetensors"):
        if stale.name != name:
            stale.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint in ``folder``; None where there is none.

    Raises:
        ResumeRefused: there is one, and it has changed since or is broken.
    """
    record = folder / RECORD
    if not record.is_file():
        return None
    try:
        values = json.loads(record.read_bytes())
        path = folder / Path(values["arrays"]).name
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != values["sha256"]:
            raise ResumeRefused(f"{path} has changed since it was written: delete {folder} and train anew")
        arrays = {name: _array(content, tensor) for name, tensor in read_header(path).items()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResumeRefused(f"{record} is no checkpoint ({error}): delete {folder} and train anew") from None
    except TrinityError as error:
        raise ResumeRefused(f"{error}; delete {folder} and train anew") from None
    return Checkpoint(values, arrays)


def _array(content: bytes, tensor: TensorLocation) -> np.ndarray:
    flat = np.frombuffer(content, "<f8", tensor.nbytes // 8, tensor.start)
    array: np.ndarray = flat.reshape(tensor.shape).copy()
    return array


def _exact(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype="<f8")

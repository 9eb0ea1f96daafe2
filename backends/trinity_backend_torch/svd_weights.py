"""Reading what ``torch.save`` wrote, as weights and as nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trinity_mlx.contracts.errors import TensorFileInvalid

NUMPY_TYPES = (torch.float32, torch.float64, torch.float16)


def read_svd_weights(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a saved dictionary by name, memory-mapped with the strides that they were saved with.

    Raises:
        TensorFileInvalid: the file is missing or damaged, would have to run code to be read, or holds something other
            than tensors by name that numpy has a float type for.
    """
    held = _load(path)
    if not isinstance(held, dict):
        raise TensorFileInvalid(f"{path} holds {type(held).__name__}, and tensors by name are needed")
    return {str(name): _array(path, name, value) for name, value in held.items()}


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise TensorFileInvalid(
            f"{path} holds more than weights, and nothing else is ever unpickled: {_reason(error)}"
        ) from None
    except Exception as error:  # a damaged file makes the unpickler raise anything
        raise TensorFileInvalid(f"{path} is not a whole file of torch.save: {_reason(error)}") from None


def _array(path: Path, name: Any, value: Any) -> np.ndarray:
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or value.dtype not in NUMPY_TYPES:
        found = f"{value.dtype} {value.layout}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise TensorFileInvalid(f"{path}: {str(name)!r} is {found}, and dense floats (32, 64 or 16 bits) are needed")
    return value.detach().numpy()


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

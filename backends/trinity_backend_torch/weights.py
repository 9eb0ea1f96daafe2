"""The tensors of one base in the forms that its models run: norms plain, matrices packed or quantised, some joined.

On the CPU the embedding stays in its file, memory-mapped in the number type that it is stored in: a prompt looks up few
of its rows, and those alone are converted.
"""

from __future__ import annotations

import math
from threading import RLock

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trinity_mlx.contracts.artifact import Base, TensorLocation
from trinity_mlx.contracts.errors import TensorFileInvalid
from trinity_mlx.factorization.adapted import EMBEDDING

from .packed import PackedMatrix, pack, pays
from .quantized import DynamicMatrix, QuantizedMatrix, quantize

Matrix = Tensor | PackedMatrix | QuantizedMatrix | DynamicMatrix


def product(x: Tensor, matrix: Matrix) -> Tensor:
    """``x @ matrix.T``: [tokens, columns] to [tokens, rows]."""
    return F.linear(x, matrix) if isinstance(matrix, Tensor) else matrix.product(x)


def product_plus(x: Tensor, matrix: Matrix, other: Tensor) -> Tensor:
    """``x @ matrix.T + other``: [tokens, columns] to [tokens, rows]."""
    if isinstance(matrix, PackedMatrix) and not (torch.is_grad_enabled() and x.requires_grad):
        return matrix.product_plus(x, other)
    return other + product(x, matrix)


def rows(matrix: Tensor | QuantizedMatrix, ids: Tensor) -> Tensor:
    """The rows ``ids`` [tokens] of ``matrix``, in its number type: [tokens, columns]."""
    return F.embedding(ids, matrix) if isinstance(matrix, Tensor) else matrix.rows(ids)


def read_tensor(tensor: TensorLocation, device: torch.device) -> Tensor:
    """A tensor as it is stored, on ``device``; on the CPU memory-mapped.

    Raises:
        TensorFileInvalid: the file cannot be read.
    """
    try:
        with safe_open(tensor.path, framework="pt", device=str(device)) as file:
            stored: Tensor = file.get_tensor(tensor.name)
    except (SafetensorError, OSError) as error:
        raise TensorFileInvalid(f"{tensor.path}: tensor {tensor.name!r} cannot be read: {error}") from None
    return stored


class Weights:
    """What of a base is in memory, made when it is first asked for and then shared; safe for concurrent calls."""

    def __init__(self, base: Base, device: torch.device, dtype: torch.dtype, *, quantizes: bool) -> None:
        self._base = base
        self._device = device
        self._dtype = dtype
        self.quantizes = quantizes
        self._forms: dict[tuple[str, ...], Matrix] = {}
        self._lock = RLock()

    @property
    def nbytes(self) -> int:
        """Bytes of all that was asked for so far."""
        with self._lock:
            return sum(form.nbytes for form in self._forms.values())

    def __getitem__(self, name: str) -> Matrix:
        """One tensor of the base, as models run it."""
        return self.joined(name)

    def joined(self, *names: str) -> Matrix:
        """The tensors ``names``, one's rows below the other's, as models run them."""
        with self._lock:
            if names not in self._forms:
                self._forms[names] = self._form_of(*names)
            return self._forms[names]

    def _form_of(self, *names: str) -> Matrix:
        if names == (EMBEDDING,) and self._device.type == "cpu" and not self.quantizes:
            return read_tensor(self._base.tensors[EMBEDDING], self._device)  # few of its rows are ever looked up
        return self.form(names[0], _stacked([self.exact(name) for name in names]))

    def packs(self, name: str) -> bool:
        """Whether models multiply by the tensor ``name`` packed."""
        return not self.quantizes and pays(self._device, self._dtype, math.prod(self._base.tensors[name].shape))

    def exact(self, name: str) -> Tensor:
        """One tensor of the base in the number type asked for, neither packed nor quantised, read from its file."""
        return self.convert(self._base.tensors[name])

    def convert(self, location: TensorLocation) -> Tensor:
        """A tensor of a file, on the device and in the number type."""
        return read_tensor(location, self._device).to(self._dtype)

    def form(self, name: str, tensor: Tensor) -> Matrix:
        """``tensor`` as a model runs what stands at ``name``: the embedding to look up, others to multiply by."""
        if tensor.ndim != 2:
            return tensor
        if name == EMBEDDING:
            return QuantizedMatrix.of(tensor) if self.quantizes else tensor
        return quantize(tensor) if self.quantizes else pack(tensor)


def _stacked(tensors: list[Tensor]) -> Tensor:
    """One's rows below the other's; a tensor alone stays as it is, memory-mapped where it was."""
    return torch.cat(tensors) if len(tensors) > 1 else tensors[0]

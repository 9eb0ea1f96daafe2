"""The MLX backend: loading, adapters, the head.

Every public method may be called from any thread and hands its work to the one that owns the base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version

import mlx.core as mx
import numpy as np

from trinity_mlx.artifacts.adapter import EMBEDDING, FINAL_NORM, AdaptedTensors, Parts
from trinity_mlx.contracts.artifact import (
    Adapter,
    AdapterEntry,
    BackboneConfig,
    BaseModel,
    Execution,
    Head,
    TensorLocation,
)
from trinity_mlx.contracts.backend import BackendInfo, Reading, Segment
from trinity_mlx.contracts.errors import TensorFileInvalid

from . import products
from .factorize import MlxFactorizer
from .owner import OwnerThread
from .qwen3 import Backbone, Embedding, Layer, Linear, MlxPast, Packing, RMSNorm

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


class MlxBackend:
    """Runs routers on Apple's GPUs and on CPUs."""

    def info(self) -> BackendInfo:
        """Versions and the devices that MLX sees."""
        devices = ("gpu", "cpu") if mx.is_available(mx.gpu) else ("cpu",)
        return BackendInfo("mlx", {"mlx": version("mlx")}, devices, tuple(DTYPES))

    def load_base(self, base: BaseModel, *, device: str, dtype: str) -> MlxBase:
        """The backbone's tensors on ``device``, loaded by the thread that will run them."""
        owner = OwnerThread(mx.gpu if device == "gpu" else mx.cpu)
        return MlxBase(base.config, owner.run(lambda: _read_backbone(base, DTYPES[dtype])), owner)

    def factorizer(self, device: str) -> MlxFactorizer:
        """Decompositions on ``device``, on a thread of their own."""
        return MlxFactorizer(mx.gpu if device == "gpu" else mx.cpu)

    def matrix_product(self, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """``left @ right`` on ``device``; see ``products``."""
        return products.matrix_product(mx.gpu if device == "gpu" else mx.cpu)


class MlxBase:
    """The tensors of one base, shared by every model attached to it."""

    def __init__(self, config: BackboneConfig, tensors: Mapping[str, mx.array], owner: OwnerThread) -> None:
        self._config = config
        self._tensors = tensors
        self._owner = owner

    @property
    def nbytes(self) -> int:
        """Bytes of the base's tensors."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def attach(self, adapter: Adapter | None, head: Head, *, merged: bool = False) -> MlxRoutingModel:
        """A routing model with ``adapter``, applied to activations or merged into copies of the weights."""
        return self._owner.run(lambda: self._attach(adapter, head, merged))

    def _attach(self, adapter: Adapter | None, head: Head, merged: bool) -> MlxRoutingModel:
        entries = adapter.entries if adapter else ()
        adapted = AdaptedTensors(self._tensors, {entry.source: self._change(entry) for entry in entries})
        if merged:
            adapted = adapted.merged(_merge)
        matrix = _read([head.tensor])[head.tensor.name]
        return MlxRoutingModel(self._backbone(adapted), matrix, self._owner, adapted.nbytes + matrix.nbytes)

    def _change(self, entry: AdapterEntry) -> tuple[Execution, mx.array]:
        tensor = _read([entry.tensor])[entry.tensor.name].astype(self._tensors[entry.source].dtype)
        return entry.execution, tensor.T if entry.transposed else tensor

    def _backbone(self, adapted: AdaptedTensors[mx.array]) -> Backbone:
        embedding = adapted.parts(EMBEDDING)
        return Backbone(
            Embedding(embedding.weight, embedding.right),
            tuple(self._layer(adapted, index) for index in range(self._config.num_layers)),
            RMSNorm(self._tensors[FINAL_NORM], self._config.rms_norm_eps),
        )

    def _layer(self, adapted: AdaptedTensors[mx.array], index: int) -> Layer:
        eps = self._config.rms_norm_eps
        norms = {short: RMSNorm(weight, eps) for short, weight in adapted.layer_norms(index).items()}
        matrices = {short: Linear(*parts) for short, parts in adapted.layer_matrices(index).items()}
        return Layer(**norms, **matrices, config=self._config)  # type: ignore[arg-type]


class MlxRoutingModel:
    """A backbone with its adapter, and the routing head in float32."""

    batch_tokens = 1024

    def __init__(self, backbone: Backbone, head: mx.array, owner: OwnerThread, nbytes: int) -> None:
        self.nbytes = nbytes
        self._backbone = backbone
        self._head = head
        self._owner = owner

    def read(self, segments: Sequence[Segment], keep_past: bool = False) -> Reading:
        """Hidden vectors at each segment's last token, [segments, hidden], computed when this returns."""
        return self._owner.run(lambda: self._read(segments, keep_past))

    def project(self, hidden: mx.array) -> list[tuple[float, ...]]:
        """Head logits in float32, one row for each hidden vector.

        On the CPU whatever the model's device: ten rows cost nothing there, and no hardware shortens the product.
        """
        logits = self._owner.run(lambda: _rows(mx.matmul(_float32(hidden), self._head.T, stream=mx.cpu)))
        return [tuple(row) for row in logits]

    def values(self, hidden: mx.array) -> list[list[float]]:
        """The hidden vectors as plain floats."""
        return self._owner.run(lambda: _rows(_float32(hidden)))

    def _read(self, segments: Sequence[Segment], keep_past: bool) -> Reading:
        hidden, pasts = self._backbone(Packing.of(segments))
        kept = tuple(_own(past) for past in pasts) if keep_past else ()
        mx.eval(hidden, [past.layers for past in kept])
        return Reading(hidden, kept)


def _read_backbone(base: BaseModel, dtype: mx.Dtype) -> dict[str, mx.array]:
    held = _read(base.tensors[name] for name in base.config.backbone_shapes())
    tensors = {name: tensor.astype(dtype) for name, tensor in held.items()}
    mx.eval(tensors)
    return tensors


def _read(tensors: Iterable[TensorLocation]) -> dict[str, mx.array]:
    """The named tensors; a file's other tensors stay on disk, since MLX loads on evaluation."""
    wanted = list(tensors)
    files = {path: _open(str(path)) for path in {tensor.path for tensor in wanted}}
    found = {tensor.name: files[tensor.path][tensor.name] for tensor in wanted}
    mx.eval(found)
    return found


def _open(path: str) -> dict[str, mx.array]:
    try:
        held: dict[str, mx.array] = mx.load(path, format="safetensors")  # type: ignore[assignment]
    except (RuntimeError, ValueError) as error:
        raise TensorFileInvalid(f"{path} cannot be read by MLX: {error}") from None
    return held


def _merge(parts: Parts[mx.array]) -> mx.array:
    """``left @ weight @ right`` computed in float32, in the weight's number type."""
    merged = _float32(parts.weight)
    if parts.right is not None:
        merged = merged @ _float32(parts.right)
    if parts.left is not None:
        merged = _float32(parts.left) @ merged
    merged = merged.astype(parts.weight.dtype)
    mx.eval(merged)
    return merged


def _rows(matrix: mx.array) -> list[list[float]]:
    rows: list[list[float]] = matrix.tolist()  # type: ignore[assignment]
    return rows


def _float32(hidden: mx.array) -> mx.array:
    return hidden.astype(mx.float32)


def _own(past: MlxPast) -> MlxPast:
    """A copy that keeps nothing else alive: the pair's arrays may be views into a packed batch."""
    return MlxPast(tuple((mx.contiguous(keys), mx.contiguous(values)) for keys, values in past.layers))

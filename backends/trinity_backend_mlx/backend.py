"""The MLX backend: loading, adapters, the head.

Every public method may be called from any thread and hands its work to the one that owns the base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import mlx.core as mx
import numpy as np

from trinity_mlx.contracts.artifact import (
    Adapter,
    AdapterEntry,
    Base,
    Head,
    TensorLocation,
)
from trinity_mlx.contracts.backend import (
    BITS,
    DEFAULT_VARIANT,
    BackendInfo,
    Capabilities,
    DeviceMemory,
    Factorizer,
    Kernels,
    Row,
    Segment,
    Variant,
)
from trinity_mlx.contracts.errors import TensorFileInvalid, UsageError
from trinity_mlx.factorization.adapted import EMBEDDING, FINAL_NORM, AdaptedTensors, Parts
from trinity_mlx.factorization.host import HostFactorizer

from . import ops, products
from .factorize import MlxFactorizer
from .kernels import COMPOSED, FUSED, KernelSet
from .owner import MlxThread
from .population import MlxPopulation
from .projection import Projection
from .quantized import Matrix, QuantizedMatrix
from .qwen3 import Backbone, Embedding, Layer, Linear, MlxPast, Packing, RMSNorm

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
KERNELS: dict[Kernels, KernelSet] = {"fused": FUSED, "composed": COMPOSED}


class MlxBackend:
    """Runs routers on Apple's GPUs and on CPUs."""

    def info(self) -> BackendInfo:
        """Versions and the devices that MLX sees."""
        devices = ("gpu", "cpu") if mx.is_available(mx.gpu) else ("cpu",)
        gpu = mx.device_info(mx.gpu) if "gpu" in devices else {}
        hardware = {str(name): str(value) for name, value in gpu.items() if name in ("device_name", "architecture")}
        return BackendInfo("mlx", {"mlx": version("mlx")}, devices, tuple(DTYPES), hardware)

    def capabilities(self, device: str) -> Capabilities:
        """What MLX does on ``device``: a GPU has no float64, and ``mx.linalg.svd`` is the full one."""
        on_gpu = device == "gpu"
        factorizer = MlxFactorizer if on_gpu else HostFactorizer
        return Capabilities(
            decomposition="thin" if factorizer.thin_svd else "full",
            quantize=BITS,
            float64=not on_gpu,
            kernels=tuple(KERNELS),
            population=True,
            batch_tokens=MlxRoutingModel.batch_tokens,
        )

    def kept_bytes(self) -> int:
        """Freed buffers that MLX keeps for later; see ``owner.CACHE_BYTES``."""
        return mx.get_cache_memory()

    def device_memory(self, device: str) -> DeviceMemory | None:
        """Of the memory that a GPU shares with its host, what it may still take, MLX's own reserve among it."""
        most = mx.device_info(mx.gpu).get("max_recommended_working_set_size") if device == "gpu" else None
        return None if most is None else DeviceMemory(int(most) - mx.get_active_memory(), is_host=True)

    def load_base(self, base: Base, *, device: str, dtype: str, variant: Variant = DEFAULT_VARIANT) -> MlxBase:
        """The backbone's tensors on ``device``, loaded by the thread that will run them."""
        owner = MlxThread(mx.gpu if device == "gpu" else mx.cpu)
        number_type = DTYPES[dtype]
        tensors = owner.run(lambda _: _read_backbone(base, number_type, variant.quantize))
        return MlxBase(base, tensors, number_type, variant, owner)

    def factorizer(self, device: str) -> Factorizer:
        """Decompositions on the GPU, on a thread of their own; on the CPU numpy's, whose products are faster there."""
        return MlxFactorizer(mx.gpu) if device == "gpu" else HostFactorizer()

    def matrix_product(self, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """``left @ right`` on ``device``; see ``products``."""
        return products.matrix_product(mx.gpu if device == "gpu" else mx.cpu)


class MlxBase:
    """The tensors of one base, shared by every model attached to it: norms as arrays, matrices as ``variant`` says."""

    def __init__(
        self, base: Base, tensors: Mapping[str, Any], dtype: mx.Dtype, variant: Variant, owner: MlxThread
    ) -> None:
        self._base = base
        self._tensors = tensors
        self._dtype = dtype
        self._bits = variant.quantize
        self._kernels = KERNELS[variant.kernels]
        self._owner = owner

    @property
    def nbytes(self) -> int:
        """Bytes of the base's tensors."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def attach(self, adapter: Adapter | None, head: Head, *, merged: bool = False) -> MlxRoutingModel:
        """A routing model with ``adapter``, applied to activations or merged into copies of the weights."""
        return self._owner.run(lambda _: self._attach(adapter, head, merged))

    def _attach(self, adapter: Adapter | None, head: Head, merged: bool) -> MlxRoutingModel:
        adapted = AdaptedTensors.of(
            self._tensors,
            adapter,
            read=self._change,
            form=self._form,
            exact=self._exact,
            merge=_merge if merged else None,
        )
        tensors = (head.tensor, head.elu and head.elu.tensor, head.kinds)
        projection = Projection(head, _read((tensor for tensor in tensors if tensor), mx.float32))
        return MlxRoutingModel(self._backbone(adapted), projection, self._owner, adapted.nbytes + projection.nbytes)

    def population(self, vectors: Mapping[str, np.ndarray]) -> MlxPopulation:
        """Candidates that differ in the gains of ``vectors``' tensors alone."""
        if self._bits is not None:
            raise UsageError("candidates need the base's exact matrices: leave quantisation out for training")
        return self._owner.run(lambda _: self._populate(vectors))

    def _populate(self, vectors: Mapping[str, np.ndarray]) -> MlxPopulation:
        backbone = self._backbone(AdaptedTensors[Any](self._tensors, {}))
        return MlxPopulation(backbone, vectors, {name: self._tensors[name] for name in vectors}, self._owner)

    def _change(self, entry: AdapterEntry) -> mx.array:
        tensor = _read_as(entry.tensor, self._dtype)
        return ops.transpose(tensor) if entry.transposed else tensor

    def _exact(self, name: str) -> mx.array:
        """A matrix before any quantisation, read again where the base holds it quantised."""
        return self._tensors[name] if self._bits is None else _read_as(self._base.tensors[name], self._dtype)

    def _form(self, _: str, tensor: mx.array) -> Matrix:
        """What takes a matrix's place is quantised like one."""
        return tensor if self._bits is None else QuantizedMatrix.of(tensor, self._bits)

    def _backbone(self, adapted: AdaptedTensors[Any]) -> Backbone:
        config, embedding = self._base.config, adapted.parts(EMBEDDING)
        return Backbone(
            Embedding(embedding.weight, embedding.right),
            tuple(self._layer(adapted, index) for index in range(config.num_layers)),
            self._norm(self._tensors[FINAL_NORM]),
        )

    def _layer(self, adapted: AdaptedTensors[Any], index: int) -> Layer:
        norms = {short: self._norm(weight) for short, weight in adapted.layer_norms(index).items()}
        matrices = {short: Linear(*parts) for short, parts in adapted.layer_matrices(index).items()}
        return Layer(**norms, **matrices, config=self._base.config, kernels=self._kernels)  # type: ignore[arg-type]

    def _norm(self, weight: mx.array) -> RMSNorm:
        return RMSNorm(weight, self._base.config.rms_norm_eps, self._kernels)


class MlxRoutingModel:
    """A backbone with its adapter, and the routing head in float32."""

    batch_tokens = 1024

    def __init__(self, backbone: Backbone, head: Projection, owner: MlxThread, nbytes: int) -> None:
        self.nbytes = nbytes
        self._backbone = backbone
        self._head = head
        self._owner = owner

    def logits(self, segments: Sequence[Segment]) -> tuple[list[Row], tuple[MlxPast | None, ...]]:
        """Head logits in float32, one row for each segment, and the pasts of those that keep theirs."""
        return self._owner.run(lambda _: self._logits(segments))

    def read(self, segments: Sequence[Segment]) -> mx.array:
        """Hidden vectors at each segment's last token, [segments, hidden], computed when this returns."""
        return self._owner.run(lambda _: self._read(segments))

    def values(self, hidden: mx.array) -> list[list[float]]:
        """The hidden vectors as plain floats."""
        return self._owner.run(lambda _: _rows(_float32(hidden)))

    def _logits(self, segments: Sequence[Segment]) -> tuple[list[Row], tuple[MlxPast | None, ...]]:
        hidden, pasts = self._backbone(Packing.of(segments))
        kept = tuple(_own(past) if segment.keep else None for segment, past in zip(segments, pasts, strict=True))
        mx.eval(hidden, [past.layers for past in kept if past])
        rows = _rows(self._head(_float32(hidden)))
        return [tuple(row) for row in rows], kept

    def _read(self, segments: Sequence[Segment]) -> mx.array:
        hidden, _ = self._backbone(Packing.of(segments))
        mx.eval(hidden)
        return hidden


def _read_backbone(base: Base, dtype: mx.Dtype, bits: int | None) -> Mapping[str, Matrix]:
    shapes = base.config.backbone_shapes()
    if bits is not None:
        return {name: _read_quantized(base.tensors[name], dtype, bits) for name in shapes}
    return _read(map(base.tensors.__getitem__, shapes), dtype)


def _read_quantized(location: TensorLocation, dtype: mx.Dtype, bits: int) -> Matrix:
    """One tensor in ``dtype``, quantised if it is a matrix; the next is read when this one's source is gone."""
    tensor = _read_as(location, dtype)
    return QuantizedMatrix.of(tensor, bits) if tensor.ndim == 2 else tensor


def _read_as(location: TensorLocation, dtype: mx.Dtype) -> mx.array:
    return _read([location], dtype)[location.name]


def _read(tensors: Iterable[TensorLocation], dtype: mx.Dtype) -> dict[str, mx.array]:
    """The named tensors in ``dtype``, one after the other: what was read of one is gone before the next.

    A file's other tensors stay on disk, since MLX loads on evaluation.
    """
    wanted = list(tensors)
    files = {path: _open(str(path)) for path in {tensor.path for tensor in wanted}}
    arrays = {}
    for tensor in wanted:
        arrays[tensor.name] = ops.cast(files[tensor.path].pop(tensor.name), dtype)
        mx.eval(arrays[tensor.name])
    return arrays


def _open(path: str) -> dict[str, mx.array]:
    try:
        tensors = ops.load(path)
    except (RuntimeError, ValueError) as error:
        raise TensorFileInvalid(f"{path} cannot be read by MLX: {error}") from None
    return tensors


def _merge(parts: Parts[mx.array]) -> mx.array:
    """``left @ weight @ right`` computed in float32, in the weight's number type."""
    merged = _float32(parts.weight)
    if parts.right is not None:
        merged = ops.matmul(merged, _float32(parts.right))
    if parts.left is not None:
        merged = ops.matmul(_float32(parts.left), merged)
    merged = ops.cast(merged, parts.weight.dtype)
    mx.eval(merged)
    return merged


def _rows(matrix: mx.array) -> list[list[float]]:
    rows: list[list[float]] = matrix.tolist()  # type: ignore[assignment]
    return rows


def _float32(hidden: mx.array) -> mx.array:
    return ops.cast(hidden, mx.float32)


def _own(past: MlxPast) -> MlxPast:
    """A copy that keeps nothing else alive: the pair's arrays may be views into a packed batch."""
    return MlxPast(tuple((ops.contiguous(keys), ops.contiguous(values)) for keys, values in past.layers))

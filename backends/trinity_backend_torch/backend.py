"""The torch backend: loading, adapters, the head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trinity_mlx.contracts.artifact import (
    Adapter,
    AdapterEntry,
    BackboneConfig,
    Base,
    Head,
)
from trinity_mlx.contracts.backend import (
    DEFAULT_VARIANT,
    BackendInfo,
    Capabilities,
    DeviceMemory,
    Row,
    Segment,
    Variant,
)
from trinity_mlx.contracts.errors import ProfileUnavailable, UsageError
from trinity_mlx.factorization.adapted import EMBEDDING, FINAL_NORM, AdaptedTensors, Parts, layer_names

from . import products, svd_weights
from .attention import attention_for
from .conditions import at_most, full_float32, reproducing, threads_for, within_memory
from .factorize import TorchFactorizer
from .packed import packs
from .population import TorchPopulation
from .projection import Projection
from .quantized import multiplies_8_bits
from .qwen3 import Backbone, Embedding, Gate, Joint, Layer, Linear, Packing, RMSNorm, TorchPast
from .weights import Weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MERGE_ROWS = 8192
BATCH_TOKENS = {"cpu": 512, "mps": 2048}
MOST_BATCH_TOKENS = 65536
QUANTIZES = {"cpu": (8,)}
"""Bits that matrices may take, by kind of device."""
SHARE_FOR_BATCHES = 0.5
"""Of a GPU's free memory, what one batch's intermediate results may take."""


class TorchBackend:
    """Runs routers on CUDA, MPS or the CPU."""

    def info(self) -> BackendInfo:
        """Versions and the devices that torch sees."""
        devices = devices_of(torch.cuda.device_count(), has_mps=torch.backends.mps.is_available())
        return BackendInfo("torch", {"torch": torch.__version__}, devices, tuple(DTYPES), _hardware())

    def settings(self) -> dict[str, str]:
        """How matrices are multiplied on the CPU, and what float32 means."""
        return {
            "float32": "full",
            **{f"{name} on cpu": "packed" if packs(dtype) else "plain" for name, dtype in DTYPES.items()},
            "int8 on cpu": "8-bit products" if multiplies_8_bits() else "multiplied out",
        }

    def capabilities(self, device: str) -> Capabilities:
        """What torch does on ``device``; on MPS all kernels are composed (see ``attention``)."""
        kind = torch.device(device).type
        return Capabilities(
            decomposition="thin" if TorchFactorizer.thin_svd else "full",
            quantize=QUANTIZES.get(kind, ()),
            float64=kind != "mps",
            kernels=("composed",) if kind == "mps" else ("fused", "composed"),
            population=True,
            batch_tokens=BATCH_TOKENS.get(kind),
            memory_bytes=torch.cuda.mem_get_info(device)[1] if kind == "cuda" else None,
        )

    def device_memory(self, device: str) -> DeviceMemory | None:
        """What is free on a GPU, torch's own reserve among it; None on the CPU."""
        kind = torch.device(device).type
        if kind == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            return DeviceMemory(free + reserve, is_host=False)
        if kind == "mps":
            return DeviceMemory(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory(), is_host=True)
        return None

    def kept_bytes(self) -> int:
        """What torch has reserved of GPUs and does not use."""
        devices = range(torch.cuda.device_count())
        on_cuda = sum(torch.cuda.memory_reserved(each) - torch.cuda.memory_allocated(each) for each in devices)
        if not torch.backends.mps.is_available():
            return on_cuda
        return on_cuda + torch.mps.driver_allocated_memory() - torch.mps.current_allocated_memory()

    def load_base(self, base: Base, *, device: str, dtype: str, variant: Variant = DEFAULT_VARIANT) -> TorchBase:
        """The backbone's tensors on ``device``; on the CPU they stay memory-mapped where the file has ``dtype``."""
        _check_quantization(variant, device)
        return within_memory(TorchBase)(base, torch.device(device), DTYPES[dtype], variant)

    def reproducing(self, device: str) -> AbstractContextManager[Mapping[str, str]]:
        """Deterministic algorithms; see ``conditions``."""
        return reproducing(torch.device(device))

    def factorizer(self, device: str) -> TorchFactorizer:
        """Decompositions on ``device``."""
        return TorchFactorizer(torch.device(device))

    def matrix_product(self, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """``left @ right`` on ``device``; see ``products``."""
        return products.matrix_product(torch.device(device))

    def thin_svd(self, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The reference decomposition, by ``torch.linalg.svd``."""
        return products.thin_svd(matrix)

    def read_svd_weights(self, path: Path) -> Mapping[str, np.ndarray]:
        """The arrays of a dictionary that ``torch.save`` wrote, memory-mapped; see ``svd_weights``."""
        return svd_weights.read_svd_weights(path)


class TorchBase:
    """The tensors of one base, shared by every model attached to it: norms as tensors, matrices as ``variant`` says."""

    def __init__(self, base: Base, device: torch.device, dtype: torch.dtype, variant: Variant) -> None:
        self._config = base.config
        self._device = device
        self._dtype = dtype
        self._attention = attention_for(device.type, variant.kernels)
        self._eps = torch.tensor(base.config.rms_norm_eps, dtype=torch.float32, device=device)
        self._weights = Weights(base, device, dtype, quantizes=variant.quantize is not None)
        with at_most(threads_for(base.config)):
            self._backbone(AdaptedTensors[Any](self._weights, {}))  # loads what a model without an adapter runs

    @property
    def nbytes(self) -> int:
        """Bytes of the base's tensors."""
        return self._weights.nbytes

    @within_memory
    @torch.inference_mode()
    @full_float32()
    def attach(self, adapter: Adapter | None, head: Head, *, merged: bool = False) -> TorchRoutingModel:
        """A routing model with ``adapter``, applied to activations or merged into copies of the weights."""
        with at_most(threads_for(self._config)):
            adapted = AdaptedTensors.of(
                self._weights,
                adapter,
                read=self._change,
                form=self._weights.form,
                exact=self._weights.exact,
                merge=_merge if merged else None,
            )
            projection = Projection(head, self._device)
            nbytes = adapted.nbytes + projection.nbytes
            return TorchRoutingModel(self._backbone(adapted), projection, self._device, nbytes)

    @torch.no_grad()
    def population(self, vectors: Mapping[str, np.ndarray]) -> TorchPopulation:
        """Candidates that differ in the gains of ``vectors``' tensors alone."""
        if self._weights.quantizes:
            raise UsageError("candidates need the base's exact matrices: leave quantisation out for training")
        backbone = self._backbone(AdaptedTensors[Any](self._weights, {}))
        return TorchPopulation(backbone, vectors, self._weights.exact)

    def _change(self, entry: AdapterEntry) -> Tensor:
        tensor = self._weights.convert(entry.tensor)
        return tensor.T.contiguous() if entry.transposed else tensor

    def _backbone(self, adapted: AdaptedTensors[Any]) -> Backbone:
        embedding = adapted.parts(EMBEDDING)
        return Backbone(
            self._config,
            Embedding(embedding.weight, self._dtype, embedding.right),
            tuple(self._layer(adapted, index) for index in range(self._config.num_layers)),
            RMSNorm(adapted.base[FINAL_NORM].float(), self._eps),
            self._attention,
            self._dtype,
        )

    def _layer(self, adapted: AdaptedTensors[Any], index: int) -> Layer:
        names = layer_names(index)
        norms = {short: RMSNorm(norm.float(), self._eps) for short, norm in adapted.layer_norms(index).items()}
        return Layer(
            **norms,
            qk_norm=self._head_norm(norms),
            qkv=self._joint(adapted, names["q_proj"], names["k_proj"], names["v_proj"], apart=self._is_last(index)),
            o_proj=Linear(*adapted.parts(names["o_proj"])),
            gate_up=self._gate(adapted, names["gate_proj"], names["up_proj"]),
            down_proj=Linear(*adapted.parts(names["down_proj"])),
            head_dim=self._config.head_dim,
            attention=self._attention,
        )

    def _head_norm(self, norms: Mapping[str, RMSNorm]) -> RMSNorm:
        """The norms of query and key heads side by side."""
        heads = [(norms["q_norm"], self._config.num_heads), (norms["k_norm"], self._config.num_kv_heads)]
        weights = [norm.weight.expand(count, -1) for norm, count in heads]
        return RMSNorm(torch.cat(weights), self._eps)

    def _joint(self, adapted: AdaptedTensors[Any], *names: str, apart: bool = False) -> Joint:
        """The matrices ``names`` in one, unless asked for ``apart`` or changed by the adapter."""
        if apart or any(name in adapted.changes for name in names):
            return Joint(tuple(Linear(*adapted.parts(name)) for name in names))
        return Joint((), self._weights.joined(*names))

    def _gate(self, adapted: AdaptedTensors[Any], *names: str) -> Joint | Gate:
        """The matrices of a gate: apart where they are packed, since packed products do what stands between them."""
        if all(self._weights.packs(name) for name in names) and not any(name in adapted.changes for name in names):
            return Gate(*(adapted.base[name] for name in names))
        return self._joint(adapted, *names)

    def _is_last(self, layer: int) -> bool:
        return layer == self._config.num_layers - 1


class TorchRoutingModel:
    """A backbone with its adapter, and the routing head in float32."""

    def __init__(self, backbone: Backbone, head: Projection, device: torch.device, nbytes: int) -> None:
        self.nbytes = nbytes
        self._backbone = backbone
        self._head = head
        self._device = device
        self._dtype = backbone.dtype
        self._threads = threads_for(backbone.config)

    @property
    def batch_tokens(self) -> int:
        """About how many tokens one pass should hold: on a GPU what its free memory allows."""
        if self._device.type != "cuda":
            return BATCH_TOKENS[self._device.type]
        free, _ = torch.cuda.mem_get_info(self._device)
        return tokens_that_fit(free, self._backbone.config, self._dtype.itemsize)

    @within_memory
    @torch.inference_mode()
    @full_float32()
    def logits(self, segments: Sequence[Segment]) -> tuple[list[Row], tuple[TorchPast | None, ...]]:
        """Head logits in float32, one row for each segment, and the pasts of those that keep theirs."""
        hidden, pasts = self._read(segments)
        rows = self._head(hidden).tolist()
        kept = tuple(_own(past) if segment.keep else None for segment, past in zip(segments, pasts, strict=True))
        return [tuple(row) for row in rows], kept

    @within_memory
    @torch.inference_mode()
    @full_float32()
    def read(self, segments: Sequence[Segment]) -> Tensor:
        """Hidden vectors at each segment's last token, [segments, hidden]."""
        return self._read(segments)[0]

    def values(self, hidden: Tensor) -> list[list[float]]:
        """The hidden vectors as plain floats."""
        values: list[list[float]] = hidden.float().tolist()
        return values

    def _read(self, segments: Sequence[Segment]) -> tuple[Tensor, list[TorchPast]]:
        with at_most(self._threads):
            packing = Packing.of(segments, self._device, self._dtype, self._backbone.attention)
            return self._backbone(packing)


def _hardware() -> dict[str, str]:
    """Names of the GPUs, and the version of CUDA that torch was built for."""
    gpus = {f"cuda:{index}": torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
    return gpus | ({"cuda": str(torch.version.cuda)} if gpus else {})


def devices_of(cuda_count: int, *, has_mps: bool) -> tuple[str, ...]:
    """Names of the devices, the preferred first: ``cuda`` is the current GPU, ``cuda:1`` a certain one."""
    cuda = ["cuda", *(f"cuda:{index}" for index in range(cuda_count))] if cuda_count else []
    return (*cuda, *(["mps"] if has_mps else []), "cpu")


def tokens_that_fit(free_bytes: int, config: BackboneConfig, itemsize: int) -> int:
    """How many tokens of a batch fit ``free_bytes`` of a device.

    At a layer's widest a token has its hidden state, its norm in float32, gate, up and their product; all layers' keys
    and values are kept until the pass is over.
    """
    widest = 4 * config.hidden_size * 4 + 3 * config.intermediate_size * itemsize
    memory = 2 * config.num_layers * config.num_kv_heads * config.head_dim * itemsize
    return max(1, min(MOST_BATCH_TOKENS, int(SHARE_FOR_BATCHES * free_bytes) // (widest + memory)))


def _check_quantization(variant: Variant, device: str) -> None:
    if variant.quantize is None or variant.quantize in QUANTIZES.get(torch.device(device).type, ()):
        return
    raise ProfileUnavailable(
        f"torch on {device} does not quantise to {variant.quantize} bits, only on the CPU to 8: "
        "use profile mlx for 8 or 4 bits, profile cpu for 8, or leave quantisation out"
    )


def _merge(parts: Parts[Tensor]) -> Tensor:
    """``left @ weight @ right`` computed in float32, tile by tile of rows, in the weight's number type."""
    merged = parts.weight
    if parts.right is not None:
        right = parts.right.float()
        merged = torch.cat([(tile.float() @ right).to(tile.dtype) for tile in torch.split(merged, MERGE_ROWS)])
    if parts.left is not None:
        merged = (parts.left.float() @ merged.float()).to(merged.dtype)
    return merged


def _own(past: TorchPast) -> TorchPast:
    """The same past, keeping nothing else alive: views into a packed batch are copied."""
    return TorchPast(tuple((_alone(keys), _alone(values)) for keys, values in past.layers))


def _alone(tensor: Tensor) -> Tensor:
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()

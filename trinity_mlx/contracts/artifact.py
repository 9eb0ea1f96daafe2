"""What a base model, an adapter, a head and a bundle are, apart from how they are read or run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from .canonical import canonical_sha256
from .routing import Guard, Window
from .text_format import PartFormat, TextFormat


@dataclass(frozen=True, slots=True)
class TensorLocation:
    """A tensor inside a safetensors file: where it lies, not its values.

    ``dtype`` is the file's own name (``F32``, ``BF16``, ``F16``); ``start`` counts bytes from the file's beginning.
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class BackboneConfig:
    """The numbers that fix a plain Qwen3 backbone (grouped-query attention, per-head RMSNorm, SwiGLU, RoPE)."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_positions: int
    tied_embeddings: bool

    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor of one decoder layer, by its name below ``model.layers.N.``."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "input_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (queries, hidden),
            "self_attn.k_proj.weight": (keys, hidden),
            "self_attn.v_proj.weight": (keys, hidden),
            "self_attn.q_norm.weight": (self.head_dim,),
            "self_attn.k_norm.weight": (self.head_dim,),
            "self_attn.o_proj.weight": (hidden, queries),
            "post_attention_layernorm.weight": (hidden,),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
        }

    def backbone_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor that a route reads, by its full name; ``lm_head`` is not among them."""
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, self.hidden_size)}
        for layer in range(self.num_layers):
            shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in self.layer_shapes().items()}
        return shapes | {"model.norm.weight": (self.hidden_size,)}


@dataclass(frozen=True, slots=True)
class Base:
    """An unmodified language model on disk, its tensors located and their shapes checked.

    ``ref`` is the content hash that stands for it: sha256 over configuration, weight files and tokenizer.
    """

    folder: Path
    config: BackboneConfig
    tensors: Mapping[str, TensorLocation]
    tokenizer: Path
    ref: str


class Execution(StrEnum):
    """How one adapted tensor takes part in a product (docs/method.md, section 3)."""

    RIGHT = "right"
    """``W' = W @ R``, with ``R`` shaped [columns, columns]: for matrices at least as tall as wide."""
    LEFT = "left"
    """``W' = L @ W``, with ``L`` shaped [rows, rows]: for matrices wider than tall."""
    REPLACE = "replace"
    """``W'`` itself, shaped as the source."""


@dataclass(frozen=True, slots=True)
class AdapterEntry:
    """The change to one source tensor; ``transposed`` where the file holds ``tensor`` as [in, out]."""

    source: str
    execution: Execution
    tensor: TensorLocation
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class Adapter:
    """A content-addressed change to a base: ``ref`` is sha256 over its canonical description."""

    ref: str
    entries: tuple[AdapterEntry, ...]


class ReadPosition(StrEnum):
    """At which token of a transcript the hidden vector is taken (docs/method.md, section 1)."""

    SECOND_TO_LAST = "second-to-last"
    """The one before the last; the only one where there is one. The last token need not be read at all."""
    LAST = "last"
    """The last one."""


@dataclass(frozen=True, slots=True)
class Elu:
    """What stands before the matrix of a low-rank head: ``elu(tensor @ hidden)``, ``tensor`` float32 [rank, hidden].

    ``elu(x)`` is ``x`` where it is positive and ``alpha * (exp(x) - 1)`` elsewhere.
    """

    tensor: TensorLocation
    alpha: float


@dataclass(frozen=True, slots=True)
class Head:
    """How a transcript's hidden vector becomes logits, with a label for each slot (docs/method.md, section 1).

    A linear head is ``tensor @ hidden``, with ``tensor`` float32 [slots + 3, hidden]; one with ``elu`` is low-rank,
    ``tensor @ elu(...)``, with ``tensor`` [slots + 3, rank]. ``ref`` stands for all of it: the file's sha256 where the
    head is linear and reads the second-to-last token, else a hash over what the head is besides.

    ``kinds`` [kinds, hidden + 1] says what was trained on: with ``u`` the hidden vector at length 1, the square of the
    distance from a kind is the product of its row with ``u`` and a 1 after it (docs/method.md, section 1). A row of
    such a head has the smallest of these squares after its logits.
    """

    tensor: TensorLocation
    labels: tuple[str, ...]
    ref: str
    elu: Elu | None = None
    position: ReadPosition = ReadPosition.SECOND_TO_LAST
    kinds: TensorLocation | None = None

    @property
    def width(self) -> int:
        """How many numbers a hidden vector has that it reads."""
        return (self.elu.tensor if self.elu else self.tensor).shape[1]


@dataclass(frozen=True, slots=True)
class Bundle:
    """An artifact ready to be loaded: what to change in a base, how to read it out, and which base it belongs to.

    ``base_folder`` is set where the bundle carries its base; otherwise ``base_id`` and ``base_revision`` name it.
    ``base_ref`` is None where the bundle does not record which content its base had. ``window`` is how it read long
    transcripts in its training, where it was trained on some, and ``guard`` when it stands aside.
    """

    name: str
    folder: Path
    base_id: str
    base_revision: str | None
    base_ref: str | None
    base_folder: Path | None
    text_format: TextFormat
    adapter: Adapter
    head: Head
    part_format: PartFormat = PartFormat.BRIEF
    window: Window | None = None
    guard: Guard | None = None


@dataclass(frozen=True, slots=True)
class PatchedTensor:
    """One tensor of a base as a loaded model runs it, changed.

    ``source_dtype`` and ``change_dtype`` are those of the files, ``dtype`` that of the model.
    """

    name: str
    execution: Execution
    source_dtype: str
    change_dtype: str
    dtype: str


@dataclass(frozen=True, slots=True)
class PatchReceipt:
    """What was applied to a base when a model was loaded.

    The content of every source is under ``base_ref`` and that of every change under ``adapter_ref``: both are hashes of
    the bytes, checked when base and bundle were opened. ``merged`` says that factors were multiplied into copies of
    the weights; else they are applied to activations.
    """

    base_ref: str
    adapter_ref: str
    head_ref: str
    device: str
    merged: bool
    quantize: int | None
    tensors: tuple[PatchedTensor, ...]

    @classmethod
    def of(
        cls, base: Base, adapter: Adapter, head: Head, *, device: str, dtype: str, merged: bool, quantize: int | None
    ) -> PatchReceipt:
        """The receipt of a model with ``adapter``; entries for tensors that no route reads are not applied."""
        read = base.config.backbone_shapes()
        tensors = tuple(
            PatchedTensor(entry.source, entry.execution, base.tensors[entry.source].dtype, entry.tensor.dtype, dtype)
            for entry in adapter.entries
            if entry.source in read
        )
        return cls(base.ref, adapter.ref, head.ref, device, merged, quantize, tensors)

    @property
    def sha256(self) -> str:
        """sha256 over the canonical JSON of ``to_dict``: equal receipts, equal models."""
        return canonical_sha256(self.to_dict())

    @property
    def recorded(self) -> dict[str, Any]:
        """As lanes and traces keep it: ``to_dict``, below its hash."""
        return {"sha256": self.sha256, **self.to_dict()}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "base_ref": self.base_ref,
            "adapter_ref": self.adapter_ref,
            "head_ref": self.head_ref,
            "device": self.device,
            "merged": self.merged,
            "quantize": self.quantize,
            "tensors": [
                {
                    "name": tensor.name,
                    "execution": str(tensor.execution),
                    "source_dtype": tensor.source_dtype,
                    "change_dtype": tensor.change_dtype,
                    "dtype": tensor.dtype,
                }
                for tensor in self.tensors
            ],
        }

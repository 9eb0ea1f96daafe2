"""What an export is asked to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..contracts.artifact import Base
from ..contracts.backend import Backend
from ..contracts.text_format import TextFormat


class Method(StrEnum):
    """Where singular values and vectors come from."""

    GRAM = "gram"
    """Eigenpairs of the Gram matrix, summed tile by tile: nothing of the source's size is held."""
    SVD = "svd"
    """The backend's own decomposition of the whole tensor in float32: the reference."""


class Write(StrEnum):
    """What the adapter's file holds for each tensor."""

    FACTORED = "factored"
    """The small factor ``R`` or ``L``, float32."""
    MERGED = "merged"
    """The adapted tensor, in the source's number type."""


class TiedEmbedding(StrEnum):
    """Which offsets change the embedding where ``lm_head`` shares it (docs/method.md, section 3)."""

    EMBED_TOKENS = "embed_tokens"
    """Its own; ``lm_head`` takes its own too, as a tensor apart."""
    LM_HEAD = "lm_head"
    """Those of ``lm_head``: the last write wins, for both names."""
    COMPOUND = "compound"
    """Both, one after the other: the second adapts the result of the first, for both names."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """One export. Only values: nothing is read before ``export`` or ``plan_export`` is called.

    ``layers``, ``only`` and ``agents`` are the published ones where they are None: the second-to-last decoder layer,
    every tensor of the vector's layout, the seven published labels. A ``name`` of None is ``sakana`` for the published
    vector, else that of the output folder. ``strict`` keeps to ``method`` where the device has only the full
    decomposition (see ``plan.settled``).
    """

    base: Base
    base_id: str
    vector: Path
    out: Path
    backend: Backend
    base_revision: str | None = None
    device: str = "cpu"
    method: Method = Method.GRAM
    write: Write = Write.FACTORED
    tied_embedding: TiedEmbedding = TiedEmbedding.EMBED_TOKENS
    layers: tuple[int, ...] | None = None
    only: tuple[str, ...] | None = None
    agents: tuple[str, ...] | None = None
    text_format: TextFormat = TextFormat.ROLE_LINES
    name: str | None = None
    resume: bool = False
    force: bool = False
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ExportEvent:
    """One step of an export, as the event log and a progress display see it."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)


Progress = Callable[[ExportEvent], None]

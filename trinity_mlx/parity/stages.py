"""The stage bundle: which tensors it proves, under which names, and how its stages are written.

A folder with ``stages.safetensors`` and, written last, ``report.json``. A bundle of one tensor names its stages
``stage.<name>``, one of all tensors ``tensor.<source name>.<name>``. ``final_f32`` and ``final_bf16`` have the final
orientation: in a bundle of one tensor that of the published layout, where a layer's matrices are stored transposed,
square ones too; in a bundle of all tensors the source's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..contracts.artifact import TensorLocation
from ..contracts.errors import ParitySetupError
from ..factorization.stages import Stage, StageMaker, Stages
from ..factorization.tiles import blocks
from ..files.safetensors import as_floats, map_tensor, to_bfloat16
from ..files.safetensors_writer import Block, SafetensorsWriter, TensorSpec
from .difference import Advance
from .provenance import TRANSPOSED

STAGES_FILE = "stages.safetensors"


@dataclass(frozen=True)
class Subject:
    """A matrix to adapt: its source name, where it lies, and its slice of the trained vector in float32 [k]."""

    name: str
    source: TensorLocation
    offsets: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the source."""
        return self.source.shape[0], self.source.shape[1]


@dataclass(frozen=True)
class Layout:
    """How one tensor's stages stand in a bundle: ``is_single`` bundles have no other."""

    subject: Subject
    is_single: bool

    @property
    def transposed(self) -> bool:
        """Whether the final stages are the transpose of the source's orientation."""
        return self.is_single and self.subject.name.startswith(TRANSPOSED)

    def key(self, stage: str) -> str:
        """The tensor's name in the file."""
        return stage_key(stage, None if self.is_single else self.subject.name)

    def specs(self) -> list[TensorSpec]:
        """Name in the file, number type and shape of each stage."""
        rows, columns = self.subject.shape
        rank = min(rows, columns)
        final = (columns, rows) if self.transposed else (rows, columns)
        shapes: dict[Stage, tuple[int, ...]] = {
            Stage.OFFSETS: (rank,),
            Stage.SCALED_S: (rank,),
            Stage.NORMALIZATION: (),
            Stage.U_SCALED: (rows, rank),
            Stage.FINAL: final,
            Stage.FINAL_BF16: final,
        }
        kinds = {Stage.FINAL_BF16: "BF16"}
        return [
            TensorSpec(self.key(stage), kinds.get(stage, "F32"), shapes.get(stage, (rows, columns))) for stage in Stage
        ]


def stage_key(stage: str, tensor: str | None) -> str:
    """A stage's name in a file; ``tensor`` is None in a bundle of one tensor."""
    return f"stage.{stage}" if tensor is None else f"tensor.{tensor}.{stage}"


def parse_key(key: str) -> tuple[str | None, str] | None:
    """Tensor and stage of a name in a file, the tensor None in a bundle of one; None where it is no stage's name."""
    kind, _, rest = key.partition(".")
    tensor, _, stage = rest.rpartition(".")
    if kind == "stage" and stage and not tensor:
        return None, stage
    return (tensor, stage) if kind == "tensor" and tensor and stage else None


def stored_source(
    stored: Mapping[str, TensorLocation], name: str, shape: tuple[int, int], file: Path, *, is_single: bool
) -> TensorLocation:
    """Where the ``source_f32`` of ``name`` lies in a file of stages; with ``is_single`` one without a name will do.

    Raises:
        ParitySetupError: the file has none, or one of another shape or number type.
    """
    keys = [stage_key(Stage.SOURCE, name), *([stage_key(Stage.SOURCE, None)] if is_single else [])]
    location = next((stored[key] for key in keys if key in stored), None)
    if location is None:
        raise ParitySetupError(f"{file} holds no {' and no '.join(keys)}: take a file with the source of every tensor")
    if (location.shape, location.dtype) != (shape, "F32"):
        raise ParitySetupError(
            f"{file}: {location.name} is {location.dtype} {list(location.shape)}, and {name} is F32 {list(shape)}"
        )
    return location


def write_stages(file: SafetensorsWriter, layout: Layout, maker: StageMaker, advance: Advance) -> None:
    """Put all stages of one tensor into ``file``, block by block."""
    subject, scaling = layout.subject, maker.scaling
    file.write_block(layout.key(Stage.OFFSETS), subject.offsets)
    file.write_block(layout.key(Stage.SCALED_S), scaling.scaled)
    file.write_block(layout.key(Stage.NORMALIZATION), np.asarray(scaling.norm))
    source = map_tensor(subject.source)
    for block in blocks(subject.shape):
        values = as_floats(source[block])
        _write_block(file, layout, block, {Stage.SOURCE: values, **maker.block(values, block)})
        advance(values.size)


def _write_block(file: SafetensorsWriter, layout: Layout, block: Block, stages: Stages) -> None:
    rows, columns = block
    u_scaled = stages.pop(Stage.U_SCALED)
    if not columns.start:
        file.write_block(layout.key(Stage.U_SCALED), u_scaled, (rows, slice(None)))
    for stage, values in stages.items():
        file.write_block(layout.key(stage), values, block)
    final = stages[Stage.ADAPTED].astype(np.float32)
    final, place = (final.T, (columns, rows)) if layout.transposed else (final, block)
    file.write_block(layout.key(Stage.FINAL), final, place)
    file.write_block(layout.key(Stage.FINAL_BF16), to_bfloat16(final), place)

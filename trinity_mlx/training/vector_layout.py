"""Where a trained router's numbers lie: offsets by tensor and the head, in one vector of the published layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..artifacts.vector import LM_HEAD, adapted_shapes
from ..contracts.artifact import Base
from ..contracts.errors import UsageError, VectorInvalid
from ..factorization.adapted import EMBEDDING
from ..factorization.gram import Spectrum, gram_matrix, spectrum_of
from ..factorization.svf import gains
from ..files.safetensors import read_float32
from .head import Head

Offsets = dict[str, np.ndarray]


@dataclass(frozen=True)
class Layout:
    """The tensors that a vector adapts, in its order, and which of them training may change.

    Attributes:
        shapes: of all tensors of the vector.
        spectra: singular values and vectors of those that training changes.
    """

    shapes: Mapping[str, tuple[int, int]]
    spectra: Mapping[str, Spectrum]

    @classmethod
    def of(cls, base: Base, layers: Sequence[int] | None = None, *, embedding: bool = False) -> Layout:
        """The layout for ``base``: its second-to-last layer by default, and the embedding only where asked for.

        With the embedding's offsets every layer differs between candidates, and nothing can be shared.

        Raises:
            UsageError: the base has no such layer.
        """
        count = base.config.num_layers
        chosen = [max(count - 2, 0)] if layers is None else list(layers)
        if len(set(chosen)) < len(chosen) or not all(0 <= layer < count for layer in chosen):
            raise UsageError(f"layers {chosen}: this base has layers 0 to {count - 1}, each to be named once")
        shapes = adapted_shapes(base.config, chosen)
        left_out = {LM_HEAD} if embedding else {EMBEDDING, LM_HEAD}
        names = [name for name in shapes if name not in left_out]
        return cls(shapes, {name: spectrum_of(gram_matrix(read_float32(base.tensors[name]))) for name in names})

    @property
    def size(self) -> int:
        """How many offsets training may change."""
        return sum(len(spectrum.singular) for spectrum in self.spectra.values())

    def zero(self) -> Offsets:
        """Offsets that change nothing."""
        return {name: np.zeros(len(spectrum.singular)) for name, spectrum in self.spectra.items()}

    def split(self, numbers: np.ndarray) -> Offsets:
        """``numbers`` [size] by tensor."""
        if not self.spectra:
            return {}
        ends = np.cumsum([len(spectrum.singular) for spectrum in self.spectra.values()])[:-1]
        return dict(zip(self.spectra, np.split(numbers, ends), strict=True))

    def joined(self, offsets: Mapping[str, np.ndarray]) -> np.ndarray:
        """Offsets by tensor as one array [size]."""
        return np.concatenate([offsets[name] for name in self.spectra]) if self.spectra else np.zeros(0)

    def gains(self, *candidates: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Each tensor's gains for several candidates, float64 [candidates, side].

        Raises:
            ValueError: the scaled singular values of one sum to zero.
        """
        return {
            name: np.stack([gains(spectrum.singular, offsets[name]) for offsets in candidates])
            for name, spectrum in self.spectra.items()
        }

    def offset_slopes(self, offsets: Mapping[str, np.ndarray], slopes: Mapping[str, np.ndarray]) -> Offsets:
        """From slopes at gains to slopes at offsets: ``gains = sum(S) / sum(S * (1 + d)) * (1 + d)``."""
        found = {}
        for name, spectrum in self.spectra.items():
            scale, slope = 1.0 + offsets[name], slopes[name]
            norm = spectrum.singular.sum() / (spectrum.singular @ scale)
            found[name] = norm * slope - (slope @ scale) * norm**2 * spectrum.singular / spectrum.singular.sum()
        return found

    def vector(self, offsets: Mapping[str, np.ndarray], head: Head) -> np.ndarray:
        """The whole vector in float32: offsets of every tensor (0 where none was trained), then the head.

        Raises:
            VectorInvalid: the head is not linear.
        """
        if head.inner is not None:
            raise VectorInvalid(
                f"a vector of the published layout holds a linear head, and this one is low-rank ({len(head.inner)}): "
                "its two matrices are in the bundle's router_head.safetensors"
            )
        parts = [offsets.get(name, np.zeros(min(shape))) for name, shape in self.shapes.items()]
        whole: np.ndarray = np.concatenate([*parts, head.matrix.ravel()]).astype("<f4")
        return whole

"""Where stages come from: components on disk, or this system's own way through the Gram matrix."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..contracts.artifact import Execution, TensorLocation
from ..contracts.backend import Factorizer
from ..contracts.errors import BaseInvalid, ParitySetupError
from ..factorization.gram import Spectrum, spectrum_of
from ..factorization.stages import (
    FromComponents,
    FromTallGram,
    FromWideGram,
    Product,
    Scaling,
    StageMaker,
)
from ..factorization.svf import change_of, execution_for
from .components import ComponentStore, add_to_digest
from .progress import Progress
from .stages import Subject


@dataclass(frozen=True)
class Engine:
    """What multiplies matrices: a name and versions for reports, and the product itself."""

    name: str
    versions: dict[str, str]
    device: str
    profile: str | None
    product: Product


@dataclass(frozen=True)
class Made:
    """The maker of one subject's stages, and the singular values [k] that it starts from."""

    maker: StageMaker
    singular: np.ndarray


class Origin(Protocol):
    """Where the makers of a whole bundle come from."""

    def make(self, subject: Subject, progress: Progress) -> Made:
        """The maker for one subject.

        Raises:
            ParitySetupError: components are missing, or the offsets leave nothing to normalise by.
            BaseInvalid: the source holds NaN or infinity.
        """

    def describe(self) -> dict[str, Any]:
        """``method``, ``dtype``, ``v_layout`` and ``sha256`` of the components; complete once all makers were made."""


class GivenComponents:
    """U, S and V from a folder."""

    def __init__(self, store: ComponentStore, product: Product, method: str = "given") -> None:
        self._store = store
        self._product = product
        self._method = method
        self._dtypes: set[str] = set()
        self._digest = hashlib.sha256()

    def make(self, subject: Subject, progress: Progress) -> Made:
        """See ``Origin.make``."""
        components = self._store.get(subject)
        self._dtypes.add(components.s.dtype.name)
        progress.begin(f"components of {subject.name}", None)
        add_to_digest(self._digest, components)
        scaling = _scaling(subject, components.s)
        return Made(FromComponents(components, scaling, self._product), components.s)

    def describe(self) -> dict[str, Any]:
        """See ``Origin.describe``: the hash is over S, U and V of each tensor in turn."""
        dtype = "+".join(sorted(self._dtypes))
        return {"method": self._method, "dtype": dtype, "v_layout": "torch_v", "sha256": self._digest.hexdigest()}


class OwnGram:
    """Eigenpairs of Gram matrices, as an export computes them; a shared source is worked on once."""

    def __init__(self, factorizer: Factorizer, product: Product) -> None:
        self._factorizer = factorizer
        self._product = product
        self._known: dict[TensorLocation, Spectrum] = {}
        self._digest = hashlib.sha256()

    def make(self, subject: Subject, progress: Progress) -> Made:
        """See ``Origin.make``."""
        spectrum = self._spectrum(subject, progress)
        scaling = _scaling(subject, spectrum.singular)
        change = change_of(spectrum, scaling.gains * scaling.norm)
        kind = FromTallGram if execution_for(subject.shape) is Execution.RIGHT else FromWideGram
        return Made(kind(spectrum.vectors, change, scaling, self._product), spectrum.singular)

    def describe(self) -> dict[str, Any]:
        """See ``Origin.describe``: the hash is over the singular values and vectors of each tensor in turn."""
        return {"method": "gram", "dtype": "float64", "v_layout": None, "sha256": self._digest.hexdigest()}

    def _spectrum(self, subject: Subject, progress: Progress) -> Spectrum:
        if subject.source not in self._known:
            progress.begin(f"Gram matrix of {subject.name}", subject.shape[0] * subject.shape[1])
            try:
                self._known[subject.source] = spectrum_of(self._factorizer.gram(subject.source, progress.advance))
            except ValueError as error:
                raise BaseInvalid(f"{subject.source.path}: {subject.name}: {error}") from None
        spectrum = self._known[subject.source]
        self._digest.update(np.ascontiguousarray(spectrum.singular).data)
        self._digest.update(np.ascontiguousarray(spectrum.vectors).data)
        return spectrum


def _scaling(subject: Subject, singular: np.ndarray) -> Scaling:
    try:
        return Scaling.of(singular, subject.offsets)
    except ValueError as error:
        raise ParitySetupError(f"{subject.name}: {error}") from None

"""What a backend offers: the one protocol behind the entry-point group ``trinity_mlx.backends``.

Tensors stay inside a backend. What goes in are token ids and places on disk; what comes out are plain floats and two
opaque things, ``Hidden`` and ``Past``, that only the backend which made them can read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .artifact import Adapter, BaseModel, Head

ENTRY_POINT_GROUP = "trinity_mlx.backends"

Hidden = Any
"""A batch of hidden vectors, [batch, hidden], on the backend's device and in its number type."""


class Past(Protocol):
    """Keys and values of every layer for the first ``length`` tokens of one sequence."""

    @property
    def length(self) -> int:
        """Number of token positions held."""

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps alive."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One sequence to read: its tokens up to the needed position, and how many of them ``past`` already covers.

    ``reuse`` is at most ``past.length`` and less than ``len(tokens)``: the last token is always read.
    """

    tokens: tuple[int, ...]
    past: Past | None = None
    reuse: int = 0

    @property
    def fresh(self) -> tuple[int, ...]:
        """The tokens that must be read now."""
        return self.tokens[self.reuse :]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a read gives: the hidden vector at each segment's last token, and, where asked for, each new past."""

    hidden: Hidden
    pasts: tuple[Past, ...]


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What a backend is and can do on this machine."""

    backend_id: str
    versions: dict[str, str]
    devices: tuple[str, ...]
    dtypes: tuple[str, ...]


class RoutingModel(Protocol):
    """A base with an adapter and a head. Safe for concurrent calls."""

    @property
    def nbytes(self) -> int:
        """Bytes that it holds beyond its base's."""

    @property
    def batch_tokens(self) -> int:
        """About how many tokens one ``read`` should hold to be fast on this device."""

    def read(self, segments: Sequence[Segment], keep_past: bool = False) -> Reading:
        """Hidden vectors after the final norm at the last token of each segment, in the order given.

        Nothing about one segment depends on the others, up to rounding.
        """

    def project(self, hidden: Hidden) -> list[tuple[float, ...]]:
        """Head logits ``hidden @ W.T`` in float32, one row of ``slots + 3`` for each hidden vector."""

    def values(self, hidden: Hidden) -> list[list[float]]:
        """The hidden vectors as plain floats, [batch][hidden]: for parity checks."""


class LoadedBase(Protocol):
    """A base in memory; several routing models may share it. Safe for concurrent calls."""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""

    def attach(self, adapter: Adapter | None, head: Head, *, merged: bool = False) -> RoutingModel:
        """A routing model on this base; the base's own tensors are shared and stay untouched.

        The adapter's factors are applied to activations, or, with ``merged``, to the weights once: the same function,
        a little faster, at the price of a copy of each adapted matrix.

        The caller has checked that the adapter and the head fit the base (``artifacts.bundle.check_fit``).

        Raises:
            TensorFileInvalid: a file cannot be read.
        """


class Backend(Protocol):
    """A plug-in that runs tensor work. Creating one imports its tensor framework, so it is created late."""

    def info(self) -> BackendInfo:
        """Identity, versions, devices and number types, without loading any model."""

    def load_base(self, base: BaseModel, *, device: str, dtype: str) -> LoadedBase:
        """Load the backbone's tensors (memory-mapped where the number type allows it).

        Raises:
            TensorFileInvalid: a file cannot be read.
        """

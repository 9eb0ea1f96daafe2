"""What a backend offers: the one protocol behind the entry-point group ``trinity_mlx.backends``.

Tensors stay inside a backend. What goes in are token ids and places on disk; what comes out are plain floats and two
opaque things, ``Hidden`` and ``Past``, that only the backend which made them can read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from .artifact import Adapter, Base, Execution, Head, TensorLocation
from .errors import UsageError

ENTRY_POINT_GROUP = "trinity_mlx.backends"

Hidden = Any
"""A batch of hidden vectors, [batch, hidden], on the backend's device and in its number type."""

Row = tuple[float, ...]
"""One sequence's logits, the slots' before the three roles'."""

Array = Any
"""A numpy array; the contracts import no library, so docstrings give its shape and number type."""

Tick = Callable[[int], None]
"""Told how many entries of a matrix have just been worked on."""

Pull = Callable[[Array], Array]
"""From hidden vectors [segments, hidden] to the slope of a loss at each of them, of the same shape; both float32."""

Kernels = Literal["fused", "composed"]
"""``fused``: the framework's own kernels for attention and what surrounds it; ``composed``: plain operations."""

BITS = (8, 4)
"""How many bits a quantised weight may take."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a base: with which kernels, and whether its matrices are quantised and to how many bits.

    Quantised are the embedding and the seven matrices of every layer, also where an adapter brings or merges its own;
    the norms, an adapter's factors and the head never are.

    Raises:
        UsageError: there are no such kernels, or no such number of bits.
    """

    kernels: Kernels = "fused"
    quantize: int | None = None

    def __post_init__(self) -> None:
        if self.kernels not in get_args(Kernels):
            raise UsageError(f"no kernels {self.kernels!r}: choose one of {', '.join(get_args(Kernels))}")
        if self.quantize is not None and self.quantize not in BITS:
            raise UsageError(f"weights cannot be quantised to {self.quantize!r} bits: choose 8 or 4, or leave it out")

    @property
    def label(self) -> str:
        """What sets it apart from the default variant, like ``composed+int8``; empty for that one itself."""
        kernels = [] if self.kernels == "fused" else [self.kernels]
        bits = [f"int{self.quantize}"] if self.quantize else []
        return "+".join([*kernels, *bits])


DEFAULT_VARIANT = Variant()
"""Fused kernels, nothing quantised: what every backend has."""


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

    ``reuse`` is at most ``past.length`` and less than ``len(tokens)``: the last token is always read. ``keep`` asks for
    the sequence's own past, to continue from; one batch may mix sequences that continue with ones that do not.
    """

    tokens: tuple[int, ...]
    past: Past | None = None
    reuse: int = 0
    keep: bool = False

    @property
    def fresh(self) -> tuple[int, ...]:
        """The tokens that must be read now."""
        return self.tokens[self.reuse :]


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What a backend is and can do on this machine."""

    backend_id: str
    versions: dict[str, str]
    devices: tuple[str, ...]
    dtypes: tuple[str, ...]
    hardware: Mapping[str, str] = field(default_factory=dict)
    """What its devices are, with their drivers, as far as it can say."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do on one device, known before any work. A backend says what its code does, not what it hopes.

    ``decomposition`` is ``thin`` where the larger side's vectors take [larger, side], and ``full`` where [larger,
    larger]; ``quantize`` holds the numbers of bits that ``Variant`` may ask for; ``float64`` is the device's own;
    ``kernels`` are those that differ in what runs; ``population`` is whether bases offer ``PopulatedBase``.
    """

    decomposition: Literal["thin", "full"]
    quantize: tuple[int, ...]
    float64: bool
    kernels: tuple[Kernels, ...]
    population: bool
    batch_tokens: int | None = None
    """About how many tokens one pass should hold; None where that depends on the base."""
    memory_bytes: int | None = None
    """What the device's own memory holds; None where it shares the host's, or does not say."""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What a device has to give now: ``free`` bytes, of its own or, with ``is_host``, at most so many of the host's."""

    free: int
    is_host: bool


class RoutingModel(Protocol):
    """A base with an adapter and a head. Safe for concurrent calls."""

    @property
    def nbytes(self) -> int:
        """Bytes that it holds beyond its base's."""

    @property
    def batch_tokens(self) -> int:
        """About how many tokens one pass should hold to be fast on this device."""

    def logits(self, segments: Sequence[Segment]) -> tuple[list[Row], tuple[Past | None, ...]]:
        """Logits at the last token of each segment, in the order given, and the past of each that asks to keep it.

        A row is ``hidden @ W.T`` in float32, of ``slots + 3`` values, where ``hidden`` is taken after the final norm;
        of a head with ``kinds`` one more, the square of the distance from the nearest of them.
        Nothing about one segment depends on the others, up to rounding. All is computed when this returns.
        """

    def read(self, segments: Sequence[Segment]) -> Hidden:
        """The hidden vectors that ``logits`` projects, [segments, hidden]: for parity checks and training heads."""

    def values(self, hidden: Hidden) -> list[list[float]]:
        """Hidden vectors as plain floats."""


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


class Factorizer(Protocol):
    """Decomposes and adapts matrices on one device. They come from disk; tiles and square arrays are all that leaves.

    ``side`` is the smaller side of a matrix [rows, columns]. The same call gives the same bytes every time.
    """

    @property
    def computes(self) -> Mapping[str, str]:
        """What computes each step, and in which number type: ``gram``, ``svd`` and ``adapted``, for manifests."""

    @property
    def thin_svd(self) -> bool:
        """Whether ``svd`` holds the larger side's vectors as [larger, side]; else it holds them as [larger, larger]."""

    def gram(self, tensor: TensorLocation, tick: Tick | None = None) -> Array:
        """The smaller side's Gram matrix in float64, [side, side], summed tile by tile."""

    def svd(self, tensor: TensorLocation) -> tuple[Array, Array]:
        """The device's own decomposition, in float32 and given as float64.

        Returns:
            Singular values, descending [side], and the smaller side's vectors as columns [side, side].

        Raises:
            ValueError: the matrix holds NaN or infinity.
        """

    def adapted_tiles(self, tensor: TensorLocation, execution: Execution, change: Array) -> Iterator[memoryview]:
        """``W + W @ change`` (or ``W + change @ W``) in ``tensor``'s own number type: its bytes in row order.

        Args:
            tensor: the source [rows, columns].
            execution: ``RIGHT`` or ``LEFT``.
            change: the factor less the identity, float64 [side, side].

        Raises:
            ValueError: an adapted value does not fit the number type.
        """


class Backend(Protocol):
    """A plug-in that runs tensor work. Creating one imports its tensor framework, so it is created late."""

    def info(self) -> BackendInfo:
        """Identity, versions, devices and number types, without loading any model."""

    def load_base(self, base: Base, *, device: str, dtype: str, variant: Variant = DEFAULT_VARIANT) -> LoadedBase:
        """Load the backbone's tensors (memory-mapped where the number type allows it).

        ``variant`` is always passed. The default one must be there; one that is not, a backend refuses.

        Raises:
            TensorFileInvalid: a file cannot be read.
            ProfileUnavailable: the backend does not have ``variant`` on ``device``.
            UsageError: the shapes of this base cannot be quantised.
            NotEnoughMemory: the device ran out of memory; what was loaded by then is let go of.
        """


@runtime_checkable
class Factorizes(Protocol):
    """What a backend may offer besides: decompositions on its own devices; else they run on the host, in numpy."""

    def factorizer(self, device: str) -> Factorizer:
        """What decomposes matrices on ``device``, without loading any model."""


@runtime_checkable
class TellsCapabilities(Protocol):
    """What a backend may offer besides: what it can do on a device, without loading any model."""

    def capabilities(self, device: str) -> Capabilities:
        """What there is on ``device``, one of ``BackendInfo.devices``."""


@runtime_checkable
class TellsSettings(Protocol):
    """What a backend may offer besides: which of several ways to compute it found to work on this machine."""

    def settings(self) -> Mapping[str, str]:
        """What it does, by what for."""


@runtime_checkable
class Reproduces(Protocol):
    """What a backend may offer besides: asking its framework for the same bits every time, where that is a choice."""

    def reproducing(self, device: str) -> AbstractContextManager[Mapping[str, str]]:
        """While inside, what there is to set for ``device`` is set; gives each setting, also those left unset."""


@runtime_checkable
class TellsMemory(Protocol):
    """What a backend may offer besides: how much memory its devices have; else it is the host's that counts."""

    def device_memory(self, device: str) -> DeviceMemory | None:
        """What is free on ``device``; None where the host's memory is all that counts."""

    def kept_bytes(self) -> int:
        """What the framework keeps of freed memory for later, on all devices together."""


@runtime_checkable
class SvdWeightsReader(Protocol):
    """What a backend may offer besides: reading the decompositions that its framework saved."""

    def read_svd_weights(self, path: Path) -> Mapping[str, Any]:
        """Arrays of floats by name (``<source tensor>.U``, ``.S``, ``.V``), memory-mapped, as numpy views them.

        Nothing but weights is read: a file that would have to run code is refused, and runs none.

        Raises:
            TensorFileInvalid: the file cannot be read, or holds something else.
        """


@runtime_checkable
class MatrixProducts(Protocol):
    """What a backend may offer besides: its device's own matrix product, so that stages can be compared."""

    def matrix_product(self, device: str) -> Callable[[Array, Array], Array]:
        """What gives ``left @ right`` on ``device`` in float32, from any float types: [n, k] and [k, m] to [n, m].

        Nothing shortens the product; a device that has float64 at full speed may compute in it.
        """


@runtime_checkable
class ThinSvd(Protocol):
    """What a backend may offer besides: the reference decomposition."""

    def thin_svd(self, matrix: Array) -> tuple[Array, Array, Array]:
        """``matrix = u @ diag(s) @ v.T`` on the CPU, in the number type of ``matrix`` (float32 or float64).

        Gives ``u`` [rows, k], ``s`` [k] in descending order and ``v`` [columns, k], ``k`` the smaller side.
        ``matrix`` is held whole, and a few arrays of its size besides.
        """


class Population(Protocol):
    """Candidates that differ in some tensors' gains alone: what multiplies each singular value ("docs/method.md", 3).

    Everything before ``first_layer`` is the same for all of them and is read once for each transcript. Not safe for
    concurrent calls. No segment may have a past. Heads are not its subject: a logit is ``hidden @ W.T``.
    """

    first_layer: int
    """The first decoder layer that differs between candidates; 0 where the embedding does."""

    def trunk(self, segments: Sequence[Segment]) -> Array:
        """What all candidates share: hidden states before ``first_layer``, float32 [tokens, hidden].

        Segments lie one after the other. Where the embedding differs, these are the base's own rows of it.
        """

    def hidden(self, segments: Sequence[Segment], trunk: Array, gains: Mapping[str, Array]) -> Array:
        """Hidden vectors after the final norm at each segment's last token, float32 [candidates, segments, hidden].

        Args:
            segments: as they were given to ``trunk``.
            trunk: what ``trunk`` gave.
            gains: by tensor [candidates, side]; a tensor of the population that is left out stays as it is.
        """

    def pullback(
        self, segments: Sequence[Segment], trunk: Array, gains: Mapping[str, Array], pull: Pull
    ) -> Mapping[str, Array]:
        """The gradient of a loss with respect to one candidate's ``gains``, float32 [side] by tensor.

        ``pull`` is called once with the candidate's hidden vectors and gives the loss's slope at them.
        """


@runtime_checkable
class PopulatedBase(Protocol):
    """What a loaded base may offer besides: evaluating many candidates at the price of their late layers."""

    def population(self, vectors: Mapping[str, Array]) -> Population:
        """Candidates that change the tensors named in ``vectors``.

        Args:
            vectors: the singular vectors of each tensor's smaller side as columns, float64 [side, side].

        Raises:
            UsageError: the base holds its matrices quantised.
        """

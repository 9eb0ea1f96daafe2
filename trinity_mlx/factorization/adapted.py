"""A base's tensors as an adapter changes them, whatever framework holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from ..contracts.artifact import Adapter, AdapterEntry, Execution


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


T = TypeVar("T", bound=_Sized)
T_co = TypeVar("T_co", covariant=True)


class Lookup(Protocol[T_co]):
    """Tensors by name."""

    def __getitem__(self, name: str, /) -> T_co:
        """The tensor ``name``."""


EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
LAYER_NORMS = {
    "input_norm": "input_layernorm.weight",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
}
LAYER_MATRICES = {
    "q_proj": "self_attn.q_proj.weight",
    "k_proj": "self_attn.k_proj.weight",
    "v_proj": "self_attn.v_proj.weight",
    "o_proj": "self_attn.o_proj.weight",
    "gate_proj": "mlp.gate_proj.weight",
    "up_proj": "mlp.up_proj.weight",
    "down_proj": "mlp.down_proj.weight",
}


def layer_names(layer: int) -> dict[str, str]:
    """Names of the seven matrices of a decoder layer, by short name."""
    return {short: f"model.layers.{layer}.{name}" for short, name in LAYER_MATRICES.items()}


class Parts(NamedTuple, Generic[T]):
    """``W' = left @ weight @ right``; a missing factor is the identity."""

    weight: T
    right: T | None
    left: T | None


@dataclass(frozen=True)
class AdaptedTensors(Generic[T]):
    """Looks tensors up in a base, together with what an adapter puts beside or in place of them."""

    base: Lookup[T]
    changes: Mapping[str, tuple[Execution, T]]

    def parts(self, name: str) -> Parts[T]:
        """The matrix ``name`` and its factors."""
        execution, tensor = self.changes.get(name, (None, None))
        replaced = tensor if execution is Execution.REPLACE else None
        return Parts(
            self.base[name] if replaced is None else replaced,
            right=tensor if execution is Execution.RIGHT else None,
            left=tensor if execution is Execution.LEFT else None,
        )

    def merged(self, merge: Callable[[Parts[T]], T]) -> AdaptedTensors[T]:
        """The same tensors with every factor multiplied into a copy of its matrix by ``merge``."""
        return AdaptedTensors(self.base, {name: (Execution.REPLACE, merge(self.parts(name))) for name in self.changes})

    @classmethod
    def of(
        cls,
        base: Lookup[Any],
        adapter: Adapter | None,
        *,
        read: Callable[[AdapterEntry], Any],
        form: Callable[[str, Any], Any],
        exact: Callable[[str], Any],
        merge: Callable[[Parts[Any]], Any] | None = None,
    ) -> AdaptedTensors[Any]:
        """``base`` as ``adapter`` changes it, with a framework's own ways to do what concerns tensors.

        Args:
            base: the tensors as models run them.
            adapter: what changes them, if anything does.
            read: an entry's tensor in the model's number type, transposed where the entry says so.
            form: a whole matrix as models run it: packed, quantised.
            exact: a matrix of the base before ``form``.
            merge: multiplies factors into a copy of their matrix; None leaves them to be applied to activations.
        """
        changes = {entry.source: (entry.execution, read(entry)) for entry in (adapter.entries if adapter else ())}
        if merge:
            weights = {name: exact(name) for name in changes}
            changes = dict(AdaptedTensors(weights, changes).merged(merge).changes)
        formed = {
            name: (execution, form(name, tensor) if execution is Execution.REPLACE else tensor)
            for name, (execution, tensor) in changes.items()
        }
        return AdaptedTensors(base, formed)

    @property
    def nbytes(self) -> int:
        """Bytes of the changes alone."""
        return sum(tensor.nbytes for _, tensor in self.changes.values())

    def layer_matrices(self, layer: int) -> dict[str, Parts[T]]:
        """The seven matrices of a decoder layer, by short name."""
        return {short: self.parts(name) for short, name in layer_names(layer).items()}

    def layer_norms(self, layer: int) -> dict[str, T]:
        """The four norm weights of a decoder layer, by short name."""
        return {short: self.base[f"model.layers.{layer}.{name}"] for short, name in LAYER_NORMS.items()}


def first_changed_layer(names: Iterable[str]) -> int:
    """The first decoder layer whose result depends on the tensors ``names``; 0 where the embedding is among them."""
    return min((0 if name == EMBEDDING else int(name.split(".")[2]) for name in names), default=0)

"""The trained vector: singular-value offsets of nine tensors and the head, learnt with the base frozen.

    scaled = S * (1 + d),  norm = sum(S) / sum(scaled),  W' = norm * U diag(scaled) V^T

A tall W gives W' = W @ R with R = norm * V diag(1 + d) V^T, a wide one W' = L @ W with L built from U alike.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.func import functional_call
from transformers import Qwen3ForCausalLM

from .base import CONFIG, HIDDEN, read_vectors
from .batches import Batch
from .corpus import ROLES, SLOTS
from .progress import Progress
from .schedule import cosine

VECTOR_KEY = "trinity_router_es_vector"
LOGITS = len(SLOTS) + len(ROLES)
EMBEDDING = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"

_LAYER = f"model.layers.{CONFIG['num_hidden_layers'] - 2}"
_ATTENTION = [f"{_LAYER}.self_attn.{name}_proj.weight" for name in ("q", "k", "v", "o")]
_MLP = [f"{_LAYER}.mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
ADAPTED = (EMBEDDING, *_ATTENTION, *_MLP, LM_HEAD)

HEAD_RATE = 1e-2
OFFSET_RATE = 5e-3
OFFSET_PENALTY = 1e-3


@dataclass(frozen=True)
class Spectrum:
    """One frozen tensor [rows, cols], its singular values S [r] and the vectors [r, r] of its short side."""

    weight: torch.Tensor
    values: torch.Tensor
    vectors: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor) -> "Spectrum":
        """Decompose in float64, keep in float32."""
        u, values, vt = torch.linalg.svd(weight.double(), full_matrices=False)
        short = vt.T if weight.shape[0] >= weight.shape[1] else u
        return cls(weight, values.float(), short.float().contiguous())

    def adapted(self, offsets: torch.Tensor) -> torch.Tensor:
        """W' for offsets [r]; differentiable in them. float32 [rows, cols]."""
        scale = 1 + offsets
        norm = self.values.sum() / (self.values * scale).sum()
        factor = norm * (self.vectors * scale) @ self.vectors.T
        tall = self.weight.shape[0] >= self.weight.shape[1]
        return self.weight @ factor if tall else factor @ self.weight


class Router(torch.nn.Module):
    """A frozen base with trainable offsets (zero at first) and head (zero at first).

    The embedding takes the offsets of `embed_tokens`. Those of the tied `lm_head` reach no route: they stay zero.
    """

    def __init__(self, base: Qwen3ForCausalLM) -> None:
        super().__init__()
        weights = base.state_dict()
        self.backbone = base.model
        self.spectra = {name: Spectrum.of(weights[name]) for name in ADAPTED}
        sizes = [len(spectrum.values) for spectrum in self.spectra.values()]
        self.offsets = torch.nn.ParameterList(torch.zeros(size) for size in sizes)
        self.head = torch.nn.Parameter(torch.zeros(LOGITS, HIDDEN))

    def vectors(self, batch: Batch, adapted: bool) -> torch.Tensor:
        """The vectors that the head reads, float32 [batch, d]; `adapted` False leaves the offsets out."""
        changed = self._adapted_weights() if adapted else {}
        hidden = functional_call(self.backbone, changed, (batch.ids,)).last_hidden_state
        return read_vectors(hidden, batch)

    def forward(self, batch: Batch, adapted: bool = True) -> torch.Tensor:
        """Logits, float32 [batch, 10]: seven slots, then three roles."""
        return self.vectors(batch, adapted) @ self.head.T

    def flat(self) -> torch.Tensor:
        """The vector to publish, float32 [offsets + 10 * d]: the offsets in order, then the head row-major."""
        return torch.cat([*(offsets.detach() for offsets in self.offsets), self.head.detach().flatten()])

    def _adapted_weights(self) -> dict[str, torch.Tensor]:
        pairs = zip(self.spectra.items(), self.offsets, strict=True)
        return {
            name.removeprefix("model."): spectrum.adapted(offsets)
            for (name, spectrum), offsets in pairs
            if name != LM_HEAD
        }


def train_router(router: Router, stream: Iterable[Batch], steps: int, progress: Progress, adapted: bool = True) -> None:
    """Adam on head and offsets; on the head alone where `adapted` is False."""
    groups = [{"params": [router.head]}]
    optimizers = [(torch.optim.Adam(groups), HEAD_RATE)]
    if adapted:
        optimizers.append((torch.optim.Adam(list(router.offsets)[:-1]), OFFSET_RATE))
    for step, batch in enumerate(stream):
        for optimizer, rate in optimizers:
            cosine(optimizer, rate, step, steps)
            optimizer.zero_grad()
        loss = route_loss(router(batch, adapted), batch)
        (loss + OFFSET_PENALTY * sum((offsets**2).sum() for offsets in router.offsets)).backward()
        for optimizer, _ in optimizers:
            optimizer.step()
        progress.step(step, steps, route=loss)


def route_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Cross-entropy of the slot plus that of the role. logits [batch, 10] -> scalar."""
    slots, roles = logits.split((len(SLOTS), len(ROLES)), dim=1)
    return F.cross_entropy(slots, batch.slots) + F.cross_entropy(roles, batch.roles)


def save_vector(router: Router, path: Path) -> None:
    """Write the vector, float32, under its published key."""
    save_file({VECTOR_KEY: router.flat().contiguous()}, path)

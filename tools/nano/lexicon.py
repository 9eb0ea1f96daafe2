"""The warm start of the embedding: what single words say about slot and state, before any of their order.

A bag of tokens learns in seconds which words speak for which slot. Handed to the base as its first embedding,
that spares the layers above from finding it out.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from .batches import Batch
from .corpus import SLOTS, STATES
from .progress import Progress

RATE = 3e-3
DROPPED = 0.3
TAIL = 24


def warm_start(embedding: torch.nn.Embedding, stream: Iterable[Batch], steps: int, progress: Progress) -> None:
    """Train the embedding [vocabulary, d] in place, as the table of a bag-of-tokens classifier."""
    width = embedding.embedding_dim
    slots, states = torch.nn.Linear(width, len(SLOTS)), torch.nn.Linear(2 * width, len(STATES))
    parameters = [embedding.weight, *slots.parameters(), *states.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    for step, batch in enumerate(stream):
        vectors = embedding(batch.ids)
        whole, tail = (_mean(vectors, kept) for kept in _kept(batch))
        loss = F.cross_entropy(slots(whole), batch.slots)
        loss = loss + F.cross_entropy(states(torch.cat((whole, tail), dim=1)), batch.states)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress.step(step, steps, lexicon=loss)


def _kept(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens count, bool [batch, length]: of the whole text, and of its last `TAIL`; some dropped at random."""
    positions, end = torch.arange(batch.ids.shape[1]), batch.read_at[:, None]
    whole = (positions <= end) & (torch.rand(batch.ids.shape) > DROPPED)
    return whole, whole & (positions > end - TAIL)


def _mean(vectors: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    weights = kept.float()
    return (vectors * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True).clamp(min=1) * 4

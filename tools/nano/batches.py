"""Tokenized examples, gathered into batches of like length."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch
from tokenizers import Tokenizer

from .corpus import STATES, Example, transcript
from .tokenizer import VOCABULARY

MAX_TOKENS = 512
MOST_CORRUPTED = 0.25
_SHARD = 64


@dataclass(frozen=True)
class Batch:
    """`ids` int64 [batch, length], padded with 0 on the right; the rest int64 [batch]."""

    ids: torch.Tensor
    lengths: torch.Tensor
    slots: torch.Tensor
    roles: torch.Tensor
    states: torch.Tensor

    @property
    def read_at(self) -> torch.Tensor:
        """Index of the token that the router reads: the second to last. int64 [batch]."""
        return (self.lengths - 2).clamp(min=0)


def batches(examples: list[Example], tokenizer: Tokenizer, size: int, seed: int) -> Iterator[Batch]:
    """Shuffled batches. Texts of like length go together, within shards of `_SHARD` batches."""
    rng = Random(seed)
    for start in range(0, len(examples), size * _SHARD):
        shard = examples[start : start + size * _SHARD]
        rows = sorted(zip(_encode(shard, tokenizer), shard, strict=True), key=lambda row: len(row[0]))
        groups = [rows[i : i + size] for i in range(0, len(rows), size)]
        rng.shuffle(groups)
        for group in groups:
            yield _batch(group)


def corrupted(batch: Batch) -> torch.Tensor:
    """The ids of a batch with up to a quarter of a row's tokens replaced at random, half of the rows untouched.

    A router that has to cope with missing words leans on no single phrasing.
    """
    rows, _ = batch.ids.shape
    share = (torch.rand(rows, 1) * 2 - 1).clamp(min=0) * MOST_CORRUPTED
    replaced = torch.rand(batch.ids.shape) < share
    return torch.where(replaced, torch.randint(VOCABULARY, batch.ids.shape), batch.ids)


def _encode(examples: list[Example], tokenizer: Tokenizer) -> list[list[int]]:
    encoded = tokenizer.encode_batch([transcript(example.messages) for example in examples])
    return [encoding.ids[-MAX_TOKENS:] for encoding in encoded]


def _batch(rows: list[tuple[list[int], Example]]) -> Batch:
    length = max(len(ids) for ids, _ in rows)
    return Batch(
        ids=torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows]),
        lengths=torch.tensor([len(ids) for ids, _ in rows]),
        slots=torch.tensor([example.slot for _, example in rows]),
        roles=torch.tensor([example.role for _, example in rows]),
        states=torch.tensor([STATES.index(example.state) for _, example in rows]),
    )

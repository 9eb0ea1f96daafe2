"""Which beginnings several sequences share that are worth reading once, before the sequences themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .prefix_cache import Tokens, common_prefix

_NEIGHBOURS = 256
"""Among how many sequences, neighbours in the order of their tokens, common beginnings are looked for."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first ``length`` tokens that the sequences at ``members`` share."""

    length: int
    members: tuple[int, ...]


def common_beginnings(sequences: Sequence[Tokens], reuse: Sequence[int], worth: int) -> list[Beginning]:
    """Beginnings that save at least ``worth`` tokens each when they are read first; no sequence is in two of them.

    ``reuse`` says how many tokens of each sequence need no reading anyway. A beginning leaves at least the last token
    of every sequence to be read. What sequences have in common is looked for among ``_NEIGHBOURS`` at a time, in the
    order of their tokens, which keeps alike beginnings together.
    """
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    beginnings: list[Beginning] = []
    for start in range(0, len(order), _NEIGHBOURS):
        members = order[start : start + _NEIGHBOURS]
        shared = [0, *(common_prefix(sequences[a][:-1], sequences[b][:-1]) for a, b in pairwise(members))]
        beginnings += _best(members, shared, reuse, worth)[0]
    return beginnings


def _best(
    members: Sequence[int], shared: Sequence[int], reuse: Sequence[int], worth: int
) -> tuple[list[Beginning], int]:
    """The beginnings among ``members`` that save most, and how much: one for all, or the best of two halves.

    ``shared`` holds how much each member has in common with the one before it; the halves meet where that is least.
    """
    if len(members) < 2:
        return [], 0
    middle = min(range(1, len(members)), key=shared.__getitem__)
    left = _best(members[:middle], shared[:middle], reuse, worth)
    right = _best(members[middle:], shared[middle:], reuse, worth)
    saved = _saved(shared[middle], members, reuse)
    if saved >= max(worth, left[1] + right[1]):
        return [Beginning(shared[middle], tuple(members))], saved
    return left[0] + right[0], left[1] + right[1]


def _saved(length: int, members: Sequence[int], reuse: Sequence[int]) -> int:
    """Tokens that need not be read when the first ``length`` of ``members`` are read once for all."""
    missing = [max(length - reuse[member], 0) for member in members]
    return sum(missing) - min(missing)

"""What earlier reads left behind: keys and values to continue from, bounded in bytes, least recently used out."""

from __future__ import annotations

from collections import OrderedDict

from ..contracts.backend import Past

Tokens = tuple[int, ...]


class PrefixCache:
    """Pasts by the tokens they cover. Not safe for concurrent use: one thread owns it.

    ``max_bytes`` bounds the sum of ``past.nbytes``; 0 keeps nothing. ``max_entries`` bounds the search.
    """

    def __init__(self, max_bytes: int, max_entries: int = 256) -> None:
        self.max_bytes = max_bytes
        self._max_entries = max_entries
        self._pasts: OrderedDict[Tokens, Past] = OrderedDict()
        self.nbytes = 0

    def match(self, tokens: Tokens) -> tuple[Past | None, int]:
        """The past that shares the longest beginning with ``tokens``, and how many tokens of it can be reused.

        The last token is never among them: it has to be read to give its hidden vector.
        """
        usable = tokens[:-1]
        best, longest = max(
            ((known, common_prefix(known, usable)) for known in self._pasts),
            key=lambda match: match[1],
            default=((), 0),
        )
        if longest == 0:
            return None, 0
        self._pasts.move_to_end(best)
        return self._pasts[best], longest

    def store(self, tokens: Tokens, past: Past) -> None:
        """Keep ``past`` for ``tokens``, if it fits at all; whatever it merely continues is dropped."""
        if past.nbytes > self.max_bytes:
            return
        for known in [known for known in self._pasts if known == tokens[: len(known)]]:
            self._drop(known)
        self._pasts[tokens] = past
        self.nbytes += past.nbytes
        self._shrink()

    def resize(self, max_bytes: int) -> None:
        """Keep at most ``max_bytes`` from now on."""
        self.max_bytes = max_bytes
        self._shrink()

    def clear(self) -> None:
        """Forget everything."""
        self._pasts.clear()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._pasts)

    def _shrink(self) -> None:
        while self._pasts and (self.nbytes > self.max_bytes or len(self._pasts) > self._max_entries):
            self._drop(next(iter(self._pasts)))

    def _drop(self, tokens: Tokens) -> None:
        self.nbytes -= self._pasts.pop(tokens).nbytes


def common_prefix(left: Tokens, right: Tokens) -> int:
    """Length of the longest common beginning, by bisection over slices (compared at C speed)."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low

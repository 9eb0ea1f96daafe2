"""How far two rows of numbers are from each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Distance:
    """How far two rows of float32 numbers, logits or hidden vectors, are from each other.

    ``cosine`` is 0 where one row is all zero, 1 where both are; ``relative_l2`` is not relative where the reference is.
    """

    cosine: float
    relative_l2: float
    largest: float

    @classmethod
    def between(cls, values: Sequence[float], reference: Sequence[float]) -> Distance:
        """Cosine similarity, L2 norm of the difference over that of ``reference``, and the largest difference."""
        differences = [value - wanted for value, wanted in zip(values, reference, strict=True)]
        lengths = math.hypot(*values), math.hypot(*reference)
        return cls(
            cosine=_cosine(values, reference, lengths) if all(lengths) else float(lengths[0] == lengths[1]),
            relative_l2=math.hypot(*differences) / (lengths[1] or 1.0),
            largest=max(map(abs, differences)),
        )

    @classmethod
    def over(cls, pairs: Iterable[tuple[Sequence[float], Sequence[float]]]) -> Distance | None:
        """Between all rows of values and all their references, each as one long row; None where there is no pair."""
        rows = list(pairs)
        if not rows:
            return None
        return cls.between([x for values, _ in rows for x in values], [x for _, reference in rows for x in reference])

    def to_dict(self) -> dict[str, float]:
        """JSON-ready."""
        return {"cosine": self.cosine, "relative_l2": self.relative_l2, "largest": self.largest}


def _cosine(values: Sequence[float], reference: Sequence[float], lengths: tuple[float, float]) -> float:
    """The rows are scaled first, since the product of two small lengths can be zero."""
    pairs = zip(values, reference, strict=True)
    dot = math.fsum((value / lengths[0]) * (wanted / lengths[1]) for value, wanted in pairs)
    return max(-1.0, min(1.0, dot))

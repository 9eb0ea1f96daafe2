"""The stages of a training: each proposes one candidate a generation, and keeps its state in plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from ..problem import Candidate

State = dict[str, np.ndarray]


class Stage(Protocol):
    """One way to improve on a candidate."""

    name: str

    @property
    def generations(self) -> int:
        """How many it has at most."""

    def begin(self, start: Candidate) -> None:
        """Start from the best candidate so far."""

    def step(self) -> tuple[Candidate, float]:
        """One generation: a candidate, and what it is worth on train."""

    def state(self) -> State:
        """All that the next step depends on."""

    def resume(self, start: Candidate, state: Mapping[str, np.ndarray]) -> None:
        """Begin from ``start``, and go on from ``state``."""

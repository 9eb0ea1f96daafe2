"""How often and how patiently a call that failed is repeated."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a call is repeated.

    The wait after attempt ``n`` is ``wait_initial_s * 2**(n - 1)``, at most ``wait_max_s``, or what the provider asks
    for if that is longer, plus up to ``jitter_s``. ``total_s`` limits attempts and waits together, and is never less
    than the time of one attempt.
    """

    attempts: int = 3
    total_s: float = 180.0
    wait_initial_s: float = 0.5
    wait_max_s: float = 20.0
    jitter_s: float = 0.5

    def wait_s(self, attempt: int, retry_after_s: float | None = None) -> float:
        """Seconds to wait after the failed attempt ``attempt``, counted from 1."""
        backoff = min(self.wait_max_s, self.wait_initial_s * 2.0 ** (attempt - 1))
        return max(backoff, retry_after_s or 0.0) + random.uniform(0.0, self.jitter_s)

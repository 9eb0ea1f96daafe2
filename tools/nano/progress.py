"""Progress on stderr."""

import sys
import time

import torch


class Progress:
    """Prints a line per stage, and one every `every` steps inside it."""

    def __init__(self, every: int = 100) -> None:
        self.every = every
        self.started = time.perf_counter()

    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    def stage(self, text: str) -> None:
        """Say that a stage begins."""
        print(f"[{self.seconds():6.1f} s] {text}", file=sys.stderr, flush=True)

    def step(self, step: int, steps: int, **losses: torch.Tensor) -> None:
        """Say, now and then, how far a stage is and what it has come to."""
        if step % self.every == 0 or step == steps - 1:
            values = "  ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items())
            self.stage(f"  step {step + 1}/{steps}  {values}")

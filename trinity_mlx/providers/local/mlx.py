"""A local model run by mlx-lm."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .engine import Generated, Generation
from .prompt import make_prompt, max_positions


def open_engine(folder: Path) -> MlxEngine:
    """The model in ``folder``, loaded; what mlx-lm raises for a broken one passes through."""
    with _file_limit_kept():
        import mlx_lm
    import mlx.core as mx

    mx.random.seed(random.getrandbits(32))  # each thread has a state of its own, and all begin with the same one
    model, tokenizer, *_ = mlx_lm.load(str(folder))
    return MlxEngine(model, tokenizer, max_positions(folder))


class MlxEngine:
    """A model of mlx-lm; see ``Engine``."""

    def __init__(self, model: Any, tokenizer: Any, positions: int | None) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._positions = positions

    def generate(self, wanted: Generation) -> Generated:
        """Generate token by token."""
        import mlx.core as mx
        from mlx_lm import stream_generate
        from mlx_lm.sample_utils import make_sampler

        def check(done: int, total: int) -> None:
            if wanted.is_abandoned():
                raise _Abandoned

        prompt = make_prompt(self._tokenizer, wanted, self._positions)
        wanted.on_text(prompt.opening)
        if wanted.seed is not None:
            mx.random.seed(wanted.seed)
        count, is_cut = 0, False
        with suppress(_Abandoned):
            for step in stream_generate(
                self._model,
                self._tokenizer,
                prompt.tokens,
                max_tokens=prompt.room,
                sampler=make_sampler(temp=wanted.temperature, top_p=wanted.top_p or 0.0),
                prompt_progress_callback=check,
            ):
                check(0, 0)
                wanted.on_text(step.text)
                count, is_cut = step.generation_tokens, step.finish_reason == "length"
        return Generated(len(prompt.tokens), count, is_cut)

    def close(self) -> None:
        """Free the weights, and clear the streams of this thread."""
        import mlx.core as mx

        del self._model, self._tokenizer
        mx.clear_cache()
        mx.clear_streams()


class _Abandoned(Exception):
    """Nobody waits for the answer any more."""


@contextmanager
def _file_limit_kept() -> Iterator[None]:
    """Import mlx-lm without its lowering the process's limit on open files, which could not be raised again."""
    lower = resource.setrlimit
    resource.setrlimit = lambda *arguments: None
    try:
        yield
    finally:
        resource.setrlimit = lower

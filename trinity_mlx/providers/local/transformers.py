"""A local model run by transformers on torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria, TextStreamer
from transformers.utils import logging

from .engine import Generated, Generation
from .prompt import make_prompt, max_positions


def open_engine(folder: Path) -> TransformersEngine:
    """The model in ``folder``, loaded on the best device; what transformers raises for a broken one passes through."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with _no_progress_bar():
        model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype="auto")
    return TransformersEngine(model.to(_device()).eval(), tokenizer, max_positions(folder))


class TransformersEngine:
    """A model of transformers; see ``Engine``."""

    def __init__(self, model: Any, tokenizer: Any, positions: int | None) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._positions = positions

    def generate(self, wanted: Generation) -> Generated:
        """Generate token by token."""
        prompt = make_prompt(self._tokenizer, wanted, self._positions)
        streamer = _Pieces(self._tokenizer, wanted)
        streamer.on_finalized_text(prompt.opening)
        given = torch.tensor([prompt.tokens], device=self._model.device)
        sampling = {"temperature": wanted.temperature} if wanted.temperature else {}
        if sampling and wanted.top_p is not None:
            sampling["top_p"] = wanted.top_p
        with torch.inference_mode(), _seeded(wanted.seed):
            output = self._model.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=prompt.room,
                streamer=streamer,
                stopping_criteria=[_Abandoned(wanted)],
                pad_token_id=self._model.generation_config.eos_token_id or 0,
                do_sample=bool(sampling),
                **sampling,
            )
        tokens = output[0, len(prompt.tokens) :].tolist()
        is_cut = len(tokens) == prompt.room and tokens[-1] not in self._ends()
        return Generated(len(prompt.tokens), len(tokens), is_cut)

    def close(self) -> None:
        """Free the weights."""
        del self._model, self._tokenizer

    def _ends(self) -> list[int]:
        ends = self._model.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [ends]


class _Pieces(TextStreamer):
    """Hands on each piece of text that later tokens will not change."""

    def __init__(self, tokenizer: Any, wanted: Generation) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._wanted = wanted

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Take the next piece."""
        self._wanted.on_text(text)


class _Abandoned(StoppingCriteria):
    """Stops where nobody waits for the answer any more."""

    def __init__(self, wanted: Generation) -> None:
        self._wanted = wanted

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **arguments: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._wanted.is_abandoned(), device=input_ids.device)


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Draw from ``seed``, and leave the process's own draws as they were."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Load without drawing over what the application shows."""
    bars: Any = logging
    was_shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            bars.enable_progress_bar()


def _device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"

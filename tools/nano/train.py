"""The training run: tokenizer, base, then offsets and head; with the ablations beside it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from .adapter import Router, train_router
from .base import new_base, round_to_bfloat16, train_base
from .batches import Batch, batches
from .corpus import Example, examples, transcript
from .evaluate import accuracy, logits_of
from .lexicon import warm_start
from .progress import Progress
from .tokenizer import train_tokenizer

# One thread: as fast as two at this size, steady on a busy machine, and the same sums everywhere.
THREADS = 1
BATCH = 32

# One seed for each thing that is drawn. Examples of the stages are distinct draws.
SEEDS = {
    "tokenizer_text": 1,
    "lexicon_text": 2,
    "base_text": 3,
    "router_text": 4,
    "heldout_text": 5,
    "weights": 6,
    "order": 7,
}


@dataclass(frozen=True)
class Plan:
    """How much is trained and measured."""

    tokenizer_examples: int = 20_000
    lexicon_steps: int = 2_000
    base_steps: int = 2_000
    router_steps: int = 300
    heldout_examples: int = 4_000

    def scaled(self, scale: float) -> "Plan":
        """The same plan, every figure times `scale`."""
        return Plan(*(max(1, round(value * scale)) for value in vars(self).values()))


def make_reproducible() -> None:
    """The same bytes from the same machine: fixed threads, deterministic kernels."""
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)


def make_tokenizer(plan: Plan) -> Tokenizer:
    """The tokenizer, trained on text of the training families."""
    drawn = examples("train", plan.tokenizer_examples, SEEDS["tokenizer_text"])
    return train_tokenizer(transcript(example.messages) for example in drawn)


def make_base(plan: Plan, tokenizer: Tokenizer, progress: Progress) -> Qwen3ForCausalLM:
    """The trained base, frozen and rounded to bfloat16."""
    base = new_base(SEEDS["weights"])
    words = _stream("lexicon_text", plan.lexicon_steps, tokenizer)
    warm_start(base.model.embed_tokens, words, plan.lexicon_steps, progress)
    stream = _stream("base_text", plan.base_steps, tokenizer)
    train_base(base, stream, plan.base_steps, progress)
    round_to_bfloat16(base)
    return base


def make_router(
    base: Qwen3ForCausalLM, plan: Plan, tokenizer: Tokenizer, progress: Progress, adapted: bool = True
) -> Router:
    """Offsets and head on a frozen base; the head alone where `adapted` is False."""
    router = Router(base)
    stream = _stream("router_text", plan.router_steps, tokenizer)
    train_router(router, stream, plan.router_steps, progress, adapted)
    return router


def ablations(
    base: Qwen3ForCausalLM, plan: Plan, tokenizer: Tokenizer, heldout: list[Example], progress: Progress
) -> dict[str, dict[str, float]]:
    """Held-out accuracy without the offsets, and on a base that was never trained."""
    untrained = new_base(SEEDS["weights"])
    round_to_bfloat16(untrained)
    results = {}
    for name, model in (("head_only", base), ("untrained_base_head_only", untrained)):
        progress.stage(f"ablation: {name}")
        router = make_router(model, plan, tokenizer, progress, adapted=False)
        results[name] = accuracy(*logits_of(router, heldout, tokenizer, adapted=False))
    return results


def _stream(name: str, steps: int, tokenizer: Tokenizer) -> Iterator[Batch]:
    drawn = examples("train", steps * BATCH, SEEDS[name])
    return batches(drawn, tokenizer, BATCH, SEEDS["order"])

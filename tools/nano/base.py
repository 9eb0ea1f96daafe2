"""The base: a tiny Qwen3, trained on the generated text, then frozen and rounded to bfloat16.

Its embedding starts from what a bag of tokens has learnt (`lexicon.py`). Then it is trained for two things at
once: to predict the next token, and to let a linear probe read the slot and the state of the conversation from
the vector that the router will read. The probe is thrown away; what it leaves behind is a base whose hidden
vector holds what a route needs. It is not a general language model.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from .batches import Batch, corrupted
from .corpus import SLOTS, STATES
from .progress import Progress
from .schedule import cosine
from .tokenizer import MAX_LENGTH, VOCABULARY

HIDDEN = 128
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 384,
    "hidden_act": "silu",
    "max_position_embeddings": MAX_LENGTH,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.08,
    "tie_word_embeddings": True,
    "use_cache": True,
    "torch_dtype": "bfloat16",
}

PEAK_RATE = 3e-3
PROBE_WEIGHT = 1.0
EARLIER_WEIGHT = 0.5
LANGUAGE_STRIDE = 4


def new_base(seed: int) -> Qwen3ForCausalLM:
    """An untrained base in float32, the same for the same seed."""
    torch.manual_seed(seed)
    config = Qwen3Config(**{key: value for key, value in CONFIG.items() if key != "torch_dtype"})
    return Qwen3ForCausalLM(config).float()


def read_vectors(hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The vectors that the router reads. hidden [batch, length, d] -> [batch, d]."""
    return hidden[torch.arange(len(hidden)), batch.read_at]


def train_base(base: Qwen3ForCausalLM, stream: Iterable[Batch], steps: int, progress: Progress) -> None:
    """Train in place, on next tokens and on the probe."""
    probe = torch.nn.Linear(HIDDEN, len(SLOTS) + len(STATES))
    parameters = [*base.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.1)
    for step, batch in enumerate(stream):
        cosine(optimizer, PEAK_RATE, step, steps)
        hidden = base.model(corrupted(batch)).last_hidden_state
        language = _next_token_loss(base, hidden, batch, phase=step)
        probing = _probe_loss(probe, hidden, batch)
        optimizer.zero_grad()
        (language + PROBE_WEIGHT * probing).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        progress.step(step, steps, language=language, probes=probing)


def round_to_bfloat16(base: Qwen3ForCausalLM) -> None:
    """Round the weights to what the file will hold, freeze them, and go on computing in float32."""
    for parameter in base.parameters():
        parameter.data = parameter.data.bfloat16().float()
        parameter.requires_grad_(False)


def save_base(base: Qwen3ForCausalLM, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` (bfloat16; the tied embedding once)."""
    tensors = {name: tensor.bfloat16().contiguous() for name, tensor in base.state_dict().items()}
    tensors.pop("lm_head.weight", None)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")


def _next_token_loss(base: Qwen3ForCausalLM, hidden: torch.Tensor, batch: Batch, phase: int) -> torch.Tensor:
    """Cross-entropy at every fourth position: a fair sample, and the vocabulary product is half the cost."""
    positions = torch.arange(1, batch.ids.shape[1])
    present = (positions < batch.lengths[:, None]) & (positions % LANGUAGE_STRIDE == phase % LANGUAGE_STRIDE)
    logits = hidden[:, :-1][present] @ base.model.embed_tokens.weight.T
    return F.cross_entropy(logits, batch.ids[:, 1:][present])


def _probe_loss(probe: torch.nn.Linear, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Slot and state at the token that the router reads; the slot also all along the last third before it.

    The earlier readings keep the topic in every late vector, so that it outlives a reply that never names it.
    """
    slots, states = probe(hidden).split((len(SLOTS), len(STATES)), dim=2)
    rows = torch.arange(len(hidden))
    here = F.cross_entropy(slots[rows, batch.read_at], batch.slots)
    state = F.cross_entropy(states[rows, batch.read_at], batch.states)
    positions, end = torch.arange(hidden.shape[1]), batch.read_at[:, None]
    late = (positions >= end * 2 // 3) & (positions <= end)
    all_along = F.cross_entropy(slots[late], batch.slots[:, None].expand_as(late)[late])
    return here + state + EARLIER_WEIGHT * all_along

"""How well a router does: accuracies, confusion matrices, margins."""

from typing import Any

import torch
from tokenizers import Tokenizer

from .adapter import Router
from .batches import batches
from .corpus import ROLES, SLOTS, STATES, Example, transcript

_BATCH = 64


@torch.no_grad()
def logits_of(
    router: Router, examples: list[Example], tokenizer: Tokenizer, adapted: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits float32 [n, 10] and truth int64 [n, 3] (slot, role, state), in the order of the batches."""
    logits, truth = [], []
    for batch in batches(examples, tokenizer, _BATCH, seed=0):
        logits.append(router(batch, adapted))
        truth.append(torch.stack((batch.slots, batch.roles, batch.states), dim=1))
    return torch.cat(logits), torch.cat(truth)


def accuracy(logits: torch.Tensor, truth: torch.Tensor) -> dict[str, float]:
    """Share of right slots, of right roles, and of both right."""
    slots, roles = _right(logits, truth)
    return {"slots": _share(slots), "roles": _share(roles), "both": _share(slots & roles)}


def full_report(logits: torch.Tensor, truth: torch.Tensor) -> dict[str, Any]:
    """Accuracies overall and per state, confusion matrices (rows: truth), mean and low margins."""
    per_state = {
        state: accuracy(logits[truth[:, 2] == index], truth[truth[:, 2] == index]) for index, state in enumerate(STATES)
    }
    slots, roles = logits[:, : len(SLOTS)], logits[:, len(SLOTS) :]
    return {
        "examples": len(truth),
        "accuracy": accuracy(logits, truth),
        "per_state": per_state,
        "slot_confusion": _confusion(slots, truth[:, 0]),
        "role_confusion": _confusion(roles, truth[:, 1]),
        "agent_margin": _margins(slots),
        "role_margin": _margins(roles),
    }


def misrouted(router: Router, examples: list[Example], tokenizer: Tokenizer) -> list[dict[str, str]]:
    """The examples that come out wrong, with what was expected and what came."""
    rows = []
    for example in examples:
        logits, _ = logits_of(router, [example], tokenizer)
        slot, role = int(logits[0, : len(SLOTS)].argmax()), int(logits[0, len(SLOTS) :].argmax())
        if (slot, role) != (example.slot, example.role):
            expected = f"{SLOTS[example.slot]}/{ROLES[example.role]}"
            routed = f"{SLOTS[slot]}/{ROLES[role]}"
            rows.append({"text": transcript(example.messages), "expected": expected, "routed": routed})
    return rows


def _right(logits: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    slots = logits[:, : len(SLOTS)].argmax(1) == truth[:, 0]
    roles = logits[:, len(SLOTS) :].argmax(1) == truth[:, 1]
    return slots, roles


def _share(right: torch.Tensor) -> float:
    return round(right.float().mean().item(), 4) if len(right) else 0.0


def _confusion(logits: torch.Tensor, truth: torch.Tensor) -> list[list[int]]:
    size = logits.shape[1]
    return torch.bincount(truth * size + logits.argmax(1), minlength=size * size).view(size, size).tolist()


def _margins(logits: torch.Tensor) -> dict[str, float]:
    top = logits.topk(2, dim=1).values
    margins = top[:, 0] - top[:, 1]
    low = margins.quantile(0.05).item()
    return {"mean": round(margins.mean().item(), 3), "fifth_percentile": round(low, 3)}

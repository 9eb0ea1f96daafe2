"""The card that a bundle is published with: the bundle's own, or a short one, with what publishing adds to it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

from ..contracts.artifact import Bundle
from ..files.atomic import json_bytes
from ..files.models import plain
from .manifest import MANIFEST_NAME

CARD = "README.md"
TRAINING_RECORD = "report.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FIELDS = re.compile(r"\s*---(?:\r\n|\r|\n).*?(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|$)", re.DOTALL)
"""Fields on top of a card, as the Hub's tools tell them from a rule that is drawn there."""
_NO_YAML = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARKED = re.compile(r"([\\`*_\[\]<>#|~])")


def card_of(bundle: Bundle) -> str:
    """The card in the bundle's folder, or else a short one, with the fields on top that the Hub reads.

    A card that brings fields of its own keeps them as they are.
    """
    own = bundle.folder / CARD
    text = own.read_bytes().decode("utf-8-sig", "replace") if own.is_file() else _short_card(bundle)
    return text if _FIELDS.match(text) else _front_matter(bundle) + text


def _front_matter(bundle: Bundle) -> str:
    """The fields as YAML, each value in JSON's form, which is YAML too."""
    score = _score(bundle.folder)
    fields = {
        "library_name": "trinity-mlx",
        **({"base_model": bundle.base_id} if _HUB_ID.fullmatch(bundle.base_id) else {}),
        "tags": ["trinity-mlx", "llm-routing", "router", "adapter"],
        "metrics": [] if score is None else ["score"],
        **({} if score is None else {"model-index": [_result(bundle, score)]}),
    }
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---", "", ""])


def _score(folder: Path) -> float | None:
    """What training measured on the held-out rows of its table; None where nothing was measured."""
    try:
        score = json.loads((folder / TRAINING_RECORD).read_bytes())["score"]["mean"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return score if isinstance(score, float) and math.isfinite(score) else None


def _result(bundle: Bundle, score: float) -> dict[str, object]:
    task = {"type": "text-classification", "name": "choosing an agent"}
    table = {"type": "table", "name": "the table of its training, held-out split"}
    metrics = [{"type": "score", "value": round(score, 6), "name": "mean score"}]
    name = _NO_YAML.sub("\ufffd", plain(bundle.name))
    return {"name": name, "results": [{"task": task, "dataset": table, "metrics": metrics}]}


def signed(card: str, by: str, date: str) -> str:
    """``card`` with the line that says who stands for the bundle, after any earlier ones."""
    name = _MARKED.sub(r"\\\1", by)
    line = f"Signed off by {name} on {date}."
    return card if line in card.splitlines() else f"{card.rstrip()}\n\n{line}\n"


def manifest_with(folder: Path, card: bytes) -> bytes:
    """The manifest of the bundle in ``folder``, true of ``card``; as it is where it names no card.

    The adapter's reference does not depend on the card.
    """
    raw = (folder / MANIFEST_NAME).read_bytes()
    content = json.loads(raw)
    entry = next((file for file in content["files"] if file["path"] == CARD), None)
    told = {"path": CARD, "size": len(card), "sha256": hashlib.sha256(card).hexdigest()}
    if entry is None or entry == told:
        return raw
    entry.update(told)
    return json_bytes(content)


def _short_card(bundle: Bundle) -> str:
    labels = "\n".join(f"{slot}. {label}" for slot, label in enumerate(bundle.head.labels))
    return f"""# {bundle.name}

A router: an adapter for `{bundle.base_id}` (revision `{bundle.base_revision or "not recorded"}`) and a head that
chooses an agent slot and a role. Adapter `{bundle.adapter.ref}`.

Agent slots:

{labels}

Use it with `trinity-mlx route "..." --artifact FOLDER`.
"""

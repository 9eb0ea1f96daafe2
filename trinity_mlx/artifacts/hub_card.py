"""The card that a bundle is published with: the bundle's own, or a short one, with what publishing adds to it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from ..contracts.artifact import Bundle
from ..files.atomic import json_bytes
from .manifest import MANIFEST_NAME

CARD = "README.md"
_MARKED = re.compile(r"([\\`*_\[\]<>#|~])")


def card_of(bundle: Bundle) -> str:
    """The card in the bundle's folder; where there is none, a short one."""
    own = bundle.folder / CARD
    return own.read_bytes().decode("utf-8", "replace") if own.is_file() else _short_card(bundle)


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
    return f"""---
library_name: trinity-mlx
base_model: {bundle.base_id}
tags: [llm-routing]
---

# {bundle.name}

A router: an adapter for `{bundle.base_id}` (revision `{bundle.base_revision or "not recorded"}`) and a head that
chooses an agent slot and a role. Adapter `{bundle.adapter.ref}`.

Agent slots:

{labels}

Use it with `trinity-mlx route "..." --artifact FOLDER`.
"""

"""What a Thinker suggests for the next turn, read from its two tags (docs/method.md, section 7)."""

from __future__ import annotations

from dataclasses import dataclass

from ..contracts.routing import Role

_ROLES = {"solver": Role.WORKER, "verifier": Role.VERIFIER}


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A Thinker's advice, and the role that it wants for the next turn: Worker or Verifier."""

    text: str
    role: Role


def parse_suggestion(reply: str, worker_synonym: bool = False) -> Suggestion | None:
    """The suggestion in a Thinker's reply; ``None`` unless both tags are there, closed, and hold something valid.

    The first ``<suggestion>`` and the first ``<suggested_role>`` count, their names in lower case. The role is
    ``solver`` or ``verifier`` in any case; with ``worker_synonym`` also ``worker``, which means ``solver``.
    """
    text, name = _inside(reply, "suggestion"), _inside(reply, "suggested_role").lower()
    if worker_synonym and name == "worker":
        name = "solver"
    return Suggestion(text, _ROLES[name]) if text and name in _ROLES else None


def _inside(reply: str, tag: str) -> str:
    """What stands in the first pair of ``tag``, without space around it; empty without such a pair."""
    content, closing, _ = reply.partition(f"<{tag}>")[2].partition(f"</{tag}>")
    return content.strip() if closing else ""

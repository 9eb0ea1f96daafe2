"""The rows of a head that choose the role: from the table, by pattern, kept from a given router, or neutral."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ..contracts.errors import TableInvalid
from ..contracts.routing import Role
from ..contracts.transcript import Message, Transcript
from .closed_form import ridge_head
from .row import Row

PENALTY = 1.0
MOST_PATTERNS = 600
REFUSALS = ("REVISE: the result does not hold.", "REVISE\nThis is not what was asked.", "REVISE: a step is wrong.")


class RoleSource(StrEnum):
    """Where the role rows come from."""

    TABLE = "table"
    """From rows that say which role is right."""
    PATTERN = "pattern"
    """From recorded answers: a task wants a Worker, an answer a Verifier, a refusal a Worker again."""
    KEEP = "keep"
    """From a given router on the same base."""
    NEUTRAL = "neutral"
    """All zero: the router says nothing about roles, and the loop takes Worker and Verifier in turn."""


@dataclass(frozen=True)
class RoleExample:
    """A transcript, and the role that it wants."""

    transcript: Transcript
    role: Role


def default_source(rows: Sequence[Row]) -> RoleSource:
    """``table`` where it names two roles or more, ``pattern`` where it has recorded answers, else ``neutral``."""
    if len({row.role for row in rows if row.role is not None}) > 1:
        return RoleSource.TABLE
    return RoleSource.PATTERN if any(row.responses for row in rows) else RoleSource.NEUTRAL


def role_examples(source: RoleSource, rows: Sequence[Row]) -> list[RoleExample]:
    """What the role rows are fitted on; nothing for ``keep`` and ``neutral``.

    Raises:
        TableInvalid: the table does not have what ``source`` needs.
    """
    if source is RoleSource.TABLE:
        examples = [RoleExample(row.transcript, row.role) for row in rows if row.role is not None]
        if len({example.role for example in examples}) < 2:
            raise TableInvalid("role rows from the table need rows of at least two roles (`role`)")
        return examples
    if source is RoleSource.PATTERN:
        examples = [example for row in rows for example in _pattern(row)][: 3 * MOST_PATTERNS]
        if not examples:
            raise TableInvalid("role rows by pattern need recorded answers (`responses`), and the table has none")
        return examples
    return []


def fit_roles(hidden: np.ndarray, roles: Sequence[Role]) -> np.ndarray:
    """Role rows [3, hidden] by ridge regression on ``hidden`` [examples, hidden], as near to one-hot as it gets."""
    wanted = np.array([[float(role is each) for each in Role] for role in roles])
    return ridge_head(hidden.astype(np.float64), wanted, PENALTY)


def neutral_roles(hidden: int) -> np.ndarray:
    """Role rows that say nothing: zeros [3, hidden]."""
    return np.zeros((len(Role), hidden))


def _pattern(row: Row) -> list[RoleExample]:
    if not row.responses:
        return []
    answer = Message("assistant", next(iter(row.responses.values())))
    refusal = Message("assistant", REFUSALS[row.line % len(REFUSALS)])
    task = row.transcript.messages
    return [
        RoleExample(row.transcript, Role.WORKER),
        RoleExample(Transcript((*task, answer)), Role.VERIFIER),
        RoleExample(Transcript((*task, answer, refusal)), Role.WORKER),
    ]

"""The state of a run that waits for tools, kept in the id of each of its calls: no store, any replica, any restart.

An id is a prefix of the interface and 28 characters: version, slot, turn, revisions, a nonce, a short HMAC over all
of it and the pool's name. At most 40 characters of ``[A-Za-z0-9_]``, which every interface and provider takes.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass
from hashlib import sha256

_ID = re.compile(r"(?:[A-Za-z]{1,8}_)?1_([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{8})([0-9a-f]{12})")
_MOST = 255


@dataclass(frozen=True, slots=True)
class Waiting:
    """Where a run stood when it asked for tools: the Worker's slot, its turn, the revisions before it."""

    slot: int
    turn: int
    revisions: int


class CallIds:
    """Writes and reads ids under one secret; replicas that share the secret read each other's."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def write(self, waiting: Waiting, pool: str, prefix: str) -> str:
        """A fresh id for one call."""
        numbers = (waiting.slot, min(waiting.turn, _MOST), min(waiting.revisions, _MOST))
        body = "".join(f"{number:02x}" for number in numbers) + secrets.token_hex(4)
        return f"{prefix}_1_{body}{self._mac(body, pool)}"

    def read(self, call_id: str, pool: str) -> Waiting | None:
        """What an id says; None where it is not one of ours for this pool."""
        match = _ID.fullmatch(call_id)
        if match is None:
            return None
        body = "".join(match.groups()[:4])
        if not hmac.compare_digest(match[5], self._mac(body, pool)):
            return None
        slot, turn, revisions = (int(match[index], 16) for index in (1, 2, 3))
        return Waiting(slot, turn, revisions)

    def _mac(self, body: str, pool: str) -> str:
        return hmac.new(self._secret, f"{body}:{pool}".encode(), sha256).hexdigest()[:12]


def bare(call_id: str) -> str:
    """An id without the prefix that an interface wants: ``fc_1_...`` and ``call_1_...`` name one call."""
    return call_id.partition("_")[2] if _ID.fullmatch(call_id) else call_id

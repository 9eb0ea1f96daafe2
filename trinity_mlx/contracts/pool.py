"""What a pool is: for each slot of a head, the agent that takes its turns and how its provider is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .routing import Role, Window

ALL_ROLES = frozenset(Role)
ACCEPTS = ("tools", "images")
"""What an agent may accept besides text."""


@dataclass(frozen=True, slots=True)
class Price:
    """What an agent costs, in US dollars per million tokens."""

    input: float
    output: float

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """US dollars for one call."""
        return (input_tokens * self.input + output_tokens * self.output) / 1_000_000


@dataclass(frozen=True, slots=True)
class Agent:
    """What a pool binds to one slot.

    ``api_key`` is a reference such as ``env:OPENAI_API_KEY`` or ``file:/run/secrets/key``, never a key. ``extra``
    goes into the provider's request as it is. ``roles`` are those that the agent may take, ``accepts`` is what of
    ``ACCEPTS`` its model understands; ``price`` is None where nobody stated one. ``proxy`` is the address of a proxy
    that calls go through; the environment names none.
    """

    slot: int
    name: str
    provider: str
    model: str = ""
    base_url: str | None = None
    api_key: str | None = None
    timeout_s: float = 60.0
    max_tokens: int = 4096
    temperature: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    price: Price | None = None
    roles: frozenset[Role] = ALL_ROLES
    accepts: tuple[str, ...] = ()
    proxy: str | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """Agents by slot: slots run from 0 without a gap, names are unique (checked where a pool is read).

    ``window`` is how the router reads long conversations for this pool; None leaves that to the router.
    """

    name: str
    agents: tuple[Agent, ...]
    window: Window | None = None

    def __len__(self) -> int:
        return len(self.agents)

    def __getitem__(self, slot: int) -> Agent:
        return self.agents[slot]

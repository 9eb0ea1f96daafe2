"""Coordinate language models with a small adapted one, on MLX or torch.

    >>> import trinity_mlx
    >>> with trinity_mlx.load_router() as router:
    ...     decision = router.route("What is 17 + 25? Answer briefly.")
    >>> decision.label, decision.role.label
    ('mathematics', 'Worker')

Importing this package imports nothing else: each name is brought when it is first used. What people use is here, and
the families of errors; every single error is in ``trinity_mlx.errors``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batches.job import route_file
    from .contracts.access import Hub
    from .contracts.errors import (
        ArtifactError,
        BudgetExceeded,
        EnvironmentUnavailable,
        ProviderError,
        TrinityError,
        UsageError,
    )
    from .contracts.parts import Image, Refusal, Text, ToolCall, ToolResult
    from .contracts.pool import Agent, Pool, Price
    from .contracts.provider import Tool
    from .contracts.routing import Read, Role, RouteDecision, RouteLogits, Selection, SelectionMode, Window
    from .contracts.text_format import TextFormat
    from .contracts.transcript import Message, Transcript
    from .library import Library
    from .pools.authority import Authority, read_authority
    from .pools.files import find_pool
    from .routing.loading import load_router
    from .routing.router import Router
    from .rules.budgets import Limits
    from .rules.policy import Policy
    from .runs.coordinator import Coordinator, TraceFile
    from .runs.result import RunResult, RunStatus
    from .runs.retry import RetryPolicy

_PLACES = {
    "batches.job": ("route_file",),
    "contracts.access": ("Hub",),
    "contracts.errors": (
        "ArtifactError",
        "BudgetExceeded",
        "EnvironmentUnavailable",
        "ProviderError",
        "TrinityError",
        "UsageError",
    ),
    "contracts.parts": ("Image", "Refusal", "Text", "ToolCall", "ToolResult"),
    "contracts.pool": ("Agent", "Pool", "Price"),
    "contracts.provider": ("Tool",),
    "contracts.routing": ("Read", "Role", "RouteDecision", "RouteLogits", "Selection", "SelectionMode", "Window"),
    "contracts.text_format": ("TextFormat",),
    "contracts.transcript": ("Message", "Transcript"),
    "library": ("Library",),
    "pools.authority": ("Authority", "read_authority"),
    "pools.files": ("find_pool",),
    "routing.loading": ("load_router",),
    "routing.router": ("Router",),
    "rules.budgets": ("Limits",),
    "rules.policy": ("Policy",),
    "runs.coordinator": ("Coordinator", "TraceFile"),
    "runs.result": ("RunResult", "RunStatus"),
    "runs.retry": ("RetryPolicy",),
}
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "Agent",
    "ArtifactError",
    "Authority",
    "BudgetExceeded",
    "Coordinator",
    "EnvironmentUnavailable",
    "Hub",
    "Image",
    "Library",
    "Limits",
    "Message",
    "Policy",
    "Pool",
    "Price",
    "ProviderError",
    "Read",
    "Refusal",
    "RetryPolicy",
    "Role",
    "RouteDecision",
    "RouteLogits",
    "Router",
    "RunResult",
    "RunStatus",
    "Selection",
    "SelectionMode",
    "Text",
    "TextFormat",
    "Tool",
    "ToolCall",
    "ToolResult",
    "TraceFile",
    "Transcript",
    "TrinityError",
    "UsageError",
    "Window",
    "find_pool",
    "load_router",
    "read_authority",
    "route_file",
]


def __getattr__(name: str) -> Any:
    """Import what ``name`` stands for, when it is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})

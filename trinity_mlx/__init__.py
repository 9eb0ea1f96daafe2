"""Coordinate language models with a small adapted one, on MLX or torch.

    >>> import trinity_mlx
    >>> with trinity_mlx.load_router() as router:
    ...     decision = router.route("What is 17 + 25? Answer briefly.")
    >>> decision.label, decision.role.label
    ('mathematics', 'Worker')

Importing this package loads no tensor framework; ``load_router`` does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .contracts.errors import (
    ArtifactError,
    ArtifactNotFound,
    AuthorityInvalid,
    BaseInvalid,
    BaseMismatch,
    BudgetExceeded,
    BundleInvalid,
    CircuitOpen,
    ContextLengthError,
    EnvironmentUnavailable,
    FileMismatch,
    FloorLowered,
    FolderUnavailable,
    HomeUnavailable,
    InputFileError,
    LaneInvalid,
    LiveCallRefused,
    NonFiniteLogits,
    NotEnoughMemory,
    OutputExists,
    ParitySetupError,
    PinInvalid,
    PolicyInvalid,
    PoolInvalid,
    ProfileInvalid,
    ProfileUnavailable,
    ProviderError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
    ProviderUnreachable,
    ReplyInvalid,
    ResumeRefused,
    SecretUnavailable,
    SelectionError,
    SnapshotInvalid,
    SuiteInvalid,
    TensorFileInvalid,
    TraceInvalid,
    TranscriptError,
    TrinityError,
    UnknownProfile,
    UsageError,
    VectorInvalid,
)
from .contracts.pool import Agent, Pool, Price
from .contracts.routing import Role, RouteDecision, RouteLogits, Selection, SelectionMode
from .contracts.text_format import TextFormat
from .contracts.transcript import Message, Transcript

if TYPE_CHECKING:
    from .pools.authority import Authority, read_authority
    from .pools.files import find_pool
    from .routing.loading import load_router
    from .routing.router import Router
    from .rules.budgets import Limits
    from .rules.policy import Policy
    from .runs.coordinator import Coordinator, TraceFile
    from .runs.result import RunResult, RunStatus
    from .runs.retry import RetryPolicy

__all__ = [
    "Agent",
    "ArtifactError",
    "ArtifactNotFound",
    "Authority",
    "AuthorityInvalid",
    "BaseInvalid",
    "BaseMismatch",
    "BudgetExceeded",
    "BundleInvalid",
    "CircuitOpen",
    "ContextLengthError",
    "Coordinator",
    "EnvironmentUnavailable",
    "FileMismatch",
    "FloorLowered",
    "FolderUnavailable",
    "HomeUnavailable",
    "InputFileError",
    "LaneInvalid",
    "Limits",
    "LiveCallRefused",
    "Message",
    "NonFiniteLogits",
    "NotEnoughMemory",
    "OutputExists",
    "ParitySetupError",
    "PinInvalid",
    "Policy",
    "PolicyInvalid",
    "Pool",
    "PoolInvalid",
    "Price",
    "ProfileInvalid",
    "ProfileUnavailable",
    "ProviderError",
    "ProviderRateLimited",
    "ProviderRefused",
    "ProviderTimeout",
    "ProviderUnavailable",
    "ProviderUnreachable",
    "ReplyInvalid",
    "ResumeRefused",
    "RetryPolicy",
    "Role",
    "RouteDecision",
    "RouteLogits",
    "Router",
    "RunResult",
    "RunStatus",
    "SecretUnavailable",
    "Selection",
    "SelectionError",
    "SelectionMode",
    "SnapshotInvalid",
    "SuiteInvalid",
    "TensorFileInvalid",
    "TextFormat",
    "TraceFile",
    "TraceInvalid",
    "Transcript",
    "TranscriptError",
    "TrinityError",
    "UnknownProfile",
    "UsageError",
    "VectorInvalid",
    "find_pool",
    "load_router",
    "read_authority",
]

_LATE = {
    "Authority": ".pools.authority",
    "Coordinator": ".runs.coordinator",
    "Limits": ".rules.budgets",
    "Policy": ".rules.policy",
    "RetryPolicy": ".runs.retry",
    "Router": ".routing.router",
    "RunResult": ".runs.result",
    "RunStatus": ".runs.result",
    "TraceFile": ".runs.coordinator",
    "find_pool": ".pools.files",
    "load_router": ".routing.loading",
    "read_authority": ".pools.authority",
}


def __getattr__(name: str) -> Any:
    """Import runtime and coordinator when they are first used: contracts alone cost milliseconds."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name], __name__), name)

"""Route conversations to language models with a small adapted one, on MLX or torch.

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
from .contracts.routing import Role, RouteDecision, RouteLogits, Selection, SelectionMode
from .contracts.transcript import Message, TextFormat, Transcript

if TYPE_CHECKING:
    from .runtime.loading import load_router
    from .runtime.router import Router

__all__ = [
    "ArtifactError",
    "ArtifactNotFound",
    "AuthorityInvalid",
    "BaseInvalid",
    "BaseMismatch",
    "BudgetExceeded",
    "BundleInvalid",
    "CircuitOpen",
    "ContextLengthError",
    "EnvironmentUnavailable",
    "FileMismatch",
    "FloorLowered",
    "FolderUnavailable",
    "HomeUnavailable",
    "InputFileError",
    "LaneInvalid",
    "LiveCallRefused",
    "Message",
    "NonFiniteLogits",
    "NotEnoughMemory",
    "OutputExists",
    "ParitySetupError",
    "PinInvalid",
    "PolicyInvalid",
    "PoolInvalid",
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
    "Role",
    "RouteDecision",
    "RouteLogits",
    "Router",
    "SecretUnavailable",
    "Selection",
    "SelectionError",
    "SelectionMode",
    "SnapshotInvalid",
    "SuiteInvalid",
    "TensorFileInvalid",
    "TextFormat",
    "TraceInvalid",
    "Transcript",
    "TranscriptError",
    "TrinityError",
    "UnknownProfile",
    "UsageError",
    "VectorInvalid",
    "load_router",
]

_LATE = {"Router": ".runtime.router", "load_router": ".runtime.loading"}


def __getattr__(name: str) -> Any:
    """Import the runtime when it is first used: contracts alone cost milliseconds."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name], __name__), name)

"""What goes wrong in a request, and how each interface says it: status, kind, message, when to come back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ..contracts.errors import (
    BudgetExceeded,
    CircuitOpen,
    ContextLengthError,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
    ProviderUnreachable,
    TrinityError,
    UsageError,
)


class Kind(StrEnum):
    """What sort of thing went wrong, whatever the interface calls it."""

    INVALID = "invalid_request_error"
    UNAUTHORIZED = "authentication_error"
    NOT_FOUND = "not_found_error"
    TOO_LARGE = "request_too_large"
    RATE_LIMITED = "rate_limit_error"
    UNAVAILABLE = "overloaded_error"
    TIMEOUT = "timeout_error"
    SERVER = "api_error"


_STATUS = {
    Kind.INVALID: 400,
    Kind.UNAUTHORIZED: 401,
    Kind.NOT_FOUND: 404,
    Kind.TOO_LARGE: 413,
    Kind.RATE_LIMITED: 429,
    Kind.UNAVAILABLE: 503,
    Kind.TIMEOUT: 504,
    Kind.SERVER: 500,
}
_OPENAI_TYPES = {Kind.NOT_FOUND: "invalid_request_error", Kind.TOO_LARGE: "invalid_request_error"}
_ANTHROPIC_TYPES = {
    Kind.UNAVAILABLE: "overloaded_error",
}
_RESPONSE_CODES = {Kind.RATE_LIMITED: "rate_limit_exceeded", Kind.INVALID: "invalid_prompt"}
CONTEXT_LENGTH = "context_length_exceeded"


class Problem(Exception):
    """A request that is not answered, said so that each interface can say it in its own shape.

    Attributes:
        kind: what sort of thing it is.
        status: the HTTP status; by default that of the kind.
        code: a short word for programs, where there is one.
        param: the field of the request that is at fault.
        retry_after_s: seconds after which the same request may be tried again.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = _STATUS[kind] if status is None else status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> list[tuple[str, str]]:
        """``Retry-After`` where it helps."""
        return [] if self.retry_after_s is None else [("retry-after", str(max(1, math.ceil(self.retry_after_s))))]


@dataclass(frozen=True, slots=True)
class RunFault:
    """A run that ended without an answer, as its result or its last event tells it."""

    error: str
    message: str
    details: Mapping[str, Any]


def invalid(message: str, param: str | None = None) -> Problem:
    """A request that cannot be carried out as it was made: 400."""
    return Problem(Kind.INVALID, message, param=param)


def problem_of(error: TrinityError) -> Problem:
    """The problem that an error of the package means to a client."""
    message = str(error)
    if isinstance(error, ContextLengthError):
        return Problem(Kind.INVALID, message, code=CONTEXT_LENGTH)
    if isinstance(error, UsageError):
        return Problem(Kind.INVALID, message)
    if isinstance(error, BudgetExceeded):
        return Problem(Kind.INVALID, message, code="limit_reached")
    if isinstance(error, ProviderError):
        return _provider_problem(type(error).__name__, message, error.retry_after_s)
    return Problem(Kind.SERVER, message)


def problem_of_fault(fault: RunFault) -> Problem:
    """The problem that the end of a run without an answer means to a client."""
    if fault.error == BudgetExceeded.__name__:
        return Problem(Kind.INVALID, fault.message, code="limit_reached")
    if fault.error in _PROVIDER_KINDS or fault.error in _OTHER_PROVIDER_ERRORS:
        return _provider_problem(fault.error, fault.message, fault.details.get("retry_after_s"))
    if fault.error == ContextLengthError.__name__:
        return Problem(Kind.INVALID, fault.message, code=CONTEXT_LENGTH)
    return Problem(Kind.SERVER, fault.message, code=fault.error)


_PROVIDER_KINDS = {
    ProviderRateLimited.__name__: Kind.RATE_LIMITED,
    ProviderTimeout.__name__: Kind.TIMEOUT,
    ProviderUnavailable.__name__: Kind.UNAVAILABLE,
    ProviderUnreachable.__name__: Kind.UNAVAILABLE,
    CircuitOpen.__name__: Kind.UNAVAILABLE,
}
_OTHER_PROVIDER_ERRORS = frozenset({"ProviderRefused", "ReplyInvalid", "ProviderError"})


def _provider_problem(name: str, message: str, retry_after_s: float | None) -> Problem:
    kind = _PROVIDER_KINDS.get(name)
    if kind is None:
        return Problem(Kind.SERVER, message, status=502, code="provider_error")
    waits = kind in (Kind.RATE_LIMITED, Kind.UNAVAILABLE)
    return Problem(kind, message, code="provider_error", retry_after_s=(retry_after_s or 1.0) if waits else None)


def openai_error(problem: Problem) -> dict[str, Any]:
    """The body of an error of Chat Completions and Responses."""
    kind = _OPENAI_TYPES.get(problem.kind, str(problem.kind))
    return {"error": {"message": problem.message, "type": kind, "param": problem.param, "code": problem.code}}


def anthropic_error(problem: Problem, request_id: str | None = None) -> dict[str, Any]:
    """The body of an error of Messages, and of its ``error`` event."""
    kind = _ANTHROPIC_TYPES.get(problem.kind, str(problem.kind))
    return {"type": "error", "error": {"type": kind, "message": problem.message}, "request_id": request_id}


def response_error(problem: Problem) -> dict[str, Any]:
    """The ``error`` of a Response that failed; the codes are those that clients act on."""
    code = CONTEXT_LENGTH if problem.code == CONTEXT_LENGTH else _RESPONSE_CODES.get(problem.kind, "server_error")
    wait = "" if problem.retry_after_s is None else f" (try again in {problem.retry_after_s:.1f}s)"
    return {"code": code, "message": problem.message + wait}


def is_anthropic(path: str, has_version: bool) -> bool:
    """Whether a request speaks Anthropic's interface, so that errors take its shape."""
    return path.startswith("/v1/messages") or has_version

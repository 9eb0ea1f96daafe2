"""What went wrong in an SDK, as one of our errors: the class, whether to retry, how long to wait; without the key."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from ssl import SSLCertVerificationError
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from ...contracts.errors import (
    PoolInvalid,
    ProviderError,
    ProviderRateLimited,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
    ProviderUnreachable,
    ReplyInvalid,
)
from ...contracts.pool import Agent
from .limits import BodyRefused

REDACTED = "<redacted>"
MAX_PROVIDER_TEXT = 300
MAX_TEXT_READ = 20_000
"""Characters of a provider's own words that are looked at: a body may have 32 million."""
MAX_WAIT_S = 86_400.0
"""The longest wait that a provider's word is taken for: longer ones come to the same, since nobody waits a day."""

E = TypeVar("E", bound=ProviderError)

_ADVICE: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "; check what its api_key refers to",
    HTTPStatus.FORBIDDEN: "; check what its api_key refers to",
    HTTPStatus.NOT_FOUND: "; check its model and base_url",
}
_KINDS_IN_STREAMS: dict[str, type[ProviderError]] = {
    "overloaded_error": ProviderUnavailable,
    "api_error": ProviderUnavailable,
    "server_error": ProviderUnavailable,
    "rate_limit_error": ProviderRateLimited,
}
_EXHAUSTED = "insufficient_quota"
_UNREADABLE = (json.JSONDecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Callee:
    """Whom a message is about: the agent and the host that it is at; and the key that no message may hold."""

    agent: Agent
    host: str | None = None
    secret: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        place = f" at {self.host}" if self.host else ""
        return f"agent {self.agent.name!r} ({self.agent.provider}, model {self.agent.model!r}{place})"

    def error(self, kind: type[E], text: str, **details: Any) -> E:
        """An error of ``kind`` about this agent; ``details`` are the attributes of a ProviderError."""
        return kind(f"{self}: {self.redact(text)}", **details)

    def redact(self, text: str) -> str:
        """``text`` without the key, however it was spelled."""
        if not self.secret:
            return text
        for spelling in {self.secret, quote(self.secret, safe=""), json.dumps(self.secret)[1:-1]}:
            text = text.replace(spelling, REDACTED)
        return text

    def quoted(self, text: str) -> str:
        """A provider's own words: on one line, without the key, nothing that moves a terminal, and not too many."""
        words = " ".join(self.redact(text)[:MAX_TEXT_READ].split())
        shown = "".join(
            each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in words[:MAX_PROVIDER_TEXT]
        )
        return shown if len(words) <= MAX_PROVIDER_TEXT else shown + " ..."


def callee_of(agent: Agent, api_key: str | None, default_url: str | None) -> Callee:
    """Whom ``agent`` calls, with its address and its key checked.

    Raises:
        PoolInvalid: no model is named, the address is not one of HTTP, or the key cannot be sent in a header.
    """
    if not agent.model:
        raise PoolInvalid(f"agent {agent.name!r} names no model, and {agent.provider} needs one")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key == api_key.strip()):
        raise PoolInvalid(
            f"agent {agent.name!r}: its key has spaces around it, a line break or a character beyond ASCII, "
            "and cannot be sent; correct what api_key refers to"
        )
    url = agent.base_url or default_url
    return Callee(agent, None if url is None else _host(agent, url), api_key)


def provider_failure(callee: Callee, error: BaseException) -> ProviderError:
    """``error``, which an SDK raised, as one of ours; what it came from is searched too."""
    causes = tuple(_causes(error))
    for cause in causes:
        if isinstance(cause, BodyRefused):
            return callee.error(ReplyInvalid, str(cause), retryable=False)
        if isinstance(cause, _UNREADABLE) or type(cause) is ValueError:  # a number of more digits than Python reads
            return callee.error(ReplyInvalid, f"the reply is not JSON that can be read: {callee.quoted(str(cause))}")
    status = _first(causes, "status_code") or 0
    if status >= HTTPStatus.MULTIPLE_CHOICES:
        return _refused_by_status(callee, causes, status)
    if any(_is_timeout(cause) for cause in causes):
        return callee.error(ProviderTimeout, f"timed out: {callee.quoted(_deepest(causes))}")
    if any(_is_connection(cause) for cause in causes):
        untrusted = any(isinstance(cause, SSLCertVerificationError) for cause in causes)
        text = f"no connection: {callee.quoted(_deepest(causes))}"
        return callee.error(ProviderUnreachable, text, retryable=False if untrusted else None)
    body = _first(causes, "body")
    if body is None:
        return callee.error(ReplyInvalid, f"the reply cannot be used: {callee.quoted(str(error))}")
    return answered_error(callee, body, _first(causes, "request_id"))


def answered_error(callee: Callee, body: object, request_id: str | None = None) -> ProviderError:
    """An error that came under the status of success; ``body`` is the provider's error object."""
    inner = _error_object(body)
    kind = _KINDS_IN_STREAMS.get(str(inner.get("type")), ReplyInvalid) if isinstance(inner, Mapping) else ReplyInvalid
    text = f"answered with an error in place of a reply: {callee.quoted(_own_words(body))}"
    return callee.error(kind, text, request_id=request_id)


def not_json(callee: Callee, body: str) -> ReplyInvalid:
    """The error of a success whose ``body`` is some other text."""
    return callee.error(ReplyInvalid, f"the reply is not JSON: {callee.quoted(body) or 'it is empty'}")


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """The seconds that a provider asks to wait, from ``retry-after-ms`` or ``retry-after`` (seconds, or a date).

    None where it does not say, or says what is no wait; at most ``MAX_WAIT_S``.
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    value = headers.get("retry-after")
    seconds = _seconds(value) if milliseconds is None else milliseconds / 1000
    if seconds is None and value:
        seconds = _seconds_until(value, now or datetime.now(UTC))
    return None if seconds is None else min(seconds, MAX_WAIT_S)


def _refused_by_status(callee: Callee, causes: tuple[BaseException, ...], status: int) -> ProviderError:
    body = _first(causes, "body") or str(causes[0])
    inner = _error_object(body)
    is_exhausted = isinstance(inner, Mapping) and _EXHAUSTED in (inner.get("code"), inner.get("type"))
    return callee.error(
        _kind_of(status),
        f"HTTP {status}: {callee.quoted(_own_words(body))}{_ADVICE.get(status, '')}",
        status=status,
        retryable=False if is_exhausted else None,
        retry_after_s=retry_after_s(getattr(_first(causes, "response"), "headers", {})),
        request_id=_first(causes, "request_id"),
    )


def _kind_of(status: int) -> type[ProviderError]:
    if status == HTTPStatus.REQUEST_TIMEOUT:
        return ProviderTimeout
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return ProviderRateLimited
    passes = status in (HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY) or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return ProviderUnavailable if passes else ProviderRefused


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """``error`` and what it came from, outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = getattr(error, "original_exception", None) or error.__cause__ or error.__context__


def _first(causes: tuple[BaseException, ...], attribute: str) -> Any:
    """The attribute of the first cause that has it; SDKs share no classes, but they share names."""
    values = (getattr(cause, attribute, None) for cause in causes)
    return next((value for value in values if value is not None), None)


def _names(error: BaseException) -> set[str]:
    return {each.__name__ for each in type(error).__mro__}


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or any("Timeout" in name for name in _names(error))


def _is_connection(error: BaseException) -> bool:
    """Whether the line failed; SDKs share no classes, but they share names."""
    return isinstance(error, OSError) or bool(_names(error) & {"APIConnectionError", "TransportError"})


def _deepest(causes: tuple[BaseException, ...]) -> str:
    """What the innermost cause says: the outer ones say ``Connection error.``."""
    return next((str(cause) for cause in reversed(causes) if str(cause)), type(causes[-1]).__name__)


def _error_object(body: object) -> object:
    return body.get("error") or body if isinstance(body, Mapping) else body


def _own_words(body: object) -> str:
    inner = _error_object(body)
    return str(inner.get("message") or inner if isinstance(inner, Mapping) else inner)


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _seconds_until(value: str, now: datetime) -> float | None:
    try:
        moment = parsedate_to_datetime(value).astimezone(UTC)
    except (ValueError, OverflowError, TypeError):  # a year that no calendar has, among others
        return None
    return max(0.0, (moment - now).total_seconds())


def _host(agent: Agent, url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise PoolInvalid(f"agent {agent.name!r}: base_url is not an address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PoolInvalid(f"agent {agent.name!r}: base_url must be like https://host/v1, and has no http or no host")
    return parts.hostname + port

"""What a provider of any make may do to a run: fail with a ProviderError that holds no key, and nothing worse."""

from __future__ import annotations

from collections.abc import Callable

from ..contracts.errors import (
    ProviderError,
    ProviderTimeout,
    ProviderUnreachable,
    ReplyInvalid,
    TranscriptError,
    TrinityError,
)
from ..contracts.pool import Agent
from ..contracts.provider import OnText, Provider, Reply, Request
from ..providers.answers import checked_reply
from ..providers.wire.failures import Callee


class GuardedProvider:
    """``provider``, whose undeclared exceptions and unusable replies become ProviderErrors.

    ``secret`` is taken out of every message. What ``on_text`` raises stays as it is.
    """

    def __init__(self, agent: Agent, provider: Provider, secret: str | None) -> None:
        self._provider = provider
        self._callee = Callee(agent, secret=secret)

    @property
    def is_live(self) -> bool:
        """Whether a call leaves this process and may cost money."""
        return self._provider.is_live

    async def reply(self, request: Request, on_text: OnText | None = None) -> Reply:
        """One attempt; see ``Provider``."""
        raised: list[Exception] = []
        try:
            reply = await self._provider.reply(request, _watched(on_text, raised) if on_text else None)
        except Exception as error:
            if error in raised:
                raise
            if isinstance(error, TranscriptError):
                raise self._callee.error(ReplyInvalid, f"its provider made no message: {error}") from None
            if isinstance(error, TrinityError):
                error.args = (self._callee.redact(str(error)),)
                raise
            raise self._undeclared(error) from error
        return checked_reply(self._callee, reply)

    async def close(self) -> None:
        """Close the provider."""
        await self._provider.close()

    def _undeclared(self, error: Exception) -> ProviderError:
        text = f"its provider raised {type(error).__name__}: {self._callee.quoted(str(error))}"
        if isinstance(error, TimeoutError):
            return self._callee.error(ProviderTimeout, text)
        if isinstance(error, OSError):
            return self._callee.error(ProviderUnreachable, text)
        return self._callee.error(ReplyInvalid, text, retryable=False)


def _watched(on_text: OnText, raised: list[Exception]) -> Callable[[str], None]:
    """``on_text``, which keeps in ``raised`` what it raises."""

    def told(text: str) -> None:
        try:
            on_text(text)
        except Exception as error:
            raised.append(error)
            raise

    return told

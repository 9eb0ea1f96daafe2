"""Who may ask: default-deny on every route but ``/health``, and a Host header that names this server."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable
from hashlib import sha256
from ipaddress import ip_address

from ..contracts.errors import UsageError
from .asgi import App, Receive, Scope, Send, header
from .problems import Kind, Problem

OPEN_PATHS = frozenset({"/health", "/"})
"""What needs no key: whether the process lives, and the page, which is a static file that asks for the key."""
ANONYMOUS = "anonymous"


class Keys:
    """The keys that are accepted; only their sha256 is kept. Without any, everybody is let in (loopback only)."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self.digests = tuple(sha256(key.encode()).digest() for key in keys)

    def __bool__(self) -> bool:
        return bool(self.digests)

    def who(self, key: str | None) -> str | None:
        """A short name for whoever sends ``key``, which tells nothing about it; None where it is not accepted.

        Every accepted key is compared, each in constant time.
        """
        if not self.digests:
            return ANONYMOUS
        given = sha256((key or "").encode("utf-8", "surrogateescape")).digest()
        matches = [index for index, digest in enumerate(self.digests) if hmac.compare_digest(digest, given)]
        return f"key-{matches[0]}" if matches and key else None


def key_of(scope: Scope) -> str | None:
    """The key of a request: ``Authorization: Bearer``, or ``x-api-key``."""
    scheme, _, token = (header(scope, "authorization") or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else header(scope, "x-api-key")


class Authentication:
    """Lets a request through to ``app`` with ``scope["principal"]`` set, or raises."""

    def __init__(self, app: App, keys: Keys, hosts: Collection[str]) -> None:
        self._app = app
        self._keys = keys
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve.

        Raises:
            Problem: the key is missing or wrong, or the Host header names another server.
        """
        self._check_host(scope)
        who = self._keys.who(key_of(scope))
        if who is None and scope["path"] not in OPEN_PATHS:
            raise Problem(
                Kind.UNAUTHORIZED,
                "no valid key: send it as Authorization: Bearer KEY, or as x-api-key",
                code="invalid_api_key",
            )
        scope["principal"] = who or ANONYMOUS
        await self._app(scope, receive, send)

    def _check_host(self, scope: Scope) -> None:
        """A page from elsewhere that a browser was talked into sending here carries its own name."""
        if "*" in self._hosts:
            return
        host = host_name(header(scope, "host") or "")
        if host not in self._hosts:
            raise Problem(Kind.INVALID, f"this server does not answer to the name {host[:100]!r}", status=421)


def host_name(text: str) -> str:
    """The name in a Host header, without its port and in lower case."""
    name = text[: text.rfind("]") + 1] if text.startswith("[") else text.partition(":")[0]
    return name.strip("[]").lower()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on ``host``."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def accepted_hosts(host: str, more: Iterable[str] = ()) -> frozenset[str]:
    """The names that a server on ``host`` answers to: loopback names, its own, and ``more``; ``*`` is any."""
    own = {"localhost", "127.0.0.1", "::1"} | {name.lower() for name in more}
    if is_loopback(host):
        return frozenset(own | {host.lower()})
    everywhere = host in ("0.0.0.0", "::")
    return frozenset(own | ({"*"} if everywhere and not set(more) else {host.lower()}))


def check_exposure(host: str, keys: Keys) -> None:
    """Refuse to listen beyond this machine without a key.

    Raises:
        UsageError: anybody on the network could spend the user's money.
    """
    if not keys and not is_loopback(host):
        raise UsageError(
            f"listening on {host} would let anybody on the network use these models: set a key first, "
            "in TRINITY_API_KEY or in a file"
        )

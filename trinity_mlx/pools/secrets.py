"""Keys behind their references: ``env:NAME`` in an environment that is handed in, ``file:/path`` on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..contracts.errors import SecretUnavailable
from ..contracts.pool import Pool


def resolve(reference: str, environment: Mapping[str, str]) -> str:
    """The secret that ``reference`` names, without surrounding white space.

    Raises:
        SecretUnavailable: it is not there or empty, or ``reference`` is not one. No message repeats what may be a key.
    """
    scheme, _, place = reference.partition(":")
    if scheme == "env":
        secret = environment.get(place, "").strip()
        if not secret:
            raise SecretUnavailable(f"the environment has no {place}: export it, or change the pool's api_key")
        return secret
    if scheme != "file":
        raise SecretUnavailable("its api_key is not a reference: give env:NAME or file:/path/to/key")
    return _read_key(place)


def _read_key(place: str) -> str:
    try:
        secret = Path(place).expanduser().read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise SecretUnavailable(f"the key file {place} is not text: put the key alone into it") from None
    except (OSError, ValueError, RuntimeError) as error:  # no file has such a name, or no user such a home
        reason = getattr(error, "strerror", None) or error
        raise SecretUnavailable(f"the key file {place} cannot be read: {reason}") from None
    if not secret:
        raise SecretUnavailable(f"the key file {place} is empty: put the key into it")
    return secret


def resolve_pool(pool: Pool, environment: Mapping[str, str]) -> dict[int, str]:
    """The secrets of a pool's agents by slot; agents without a reference have none.

    Raises:
        SecretUnavailable: one is not there; the message names the agent.
    """
    secrets = {}
    for agent in pool.agents:
        if agent.api_key is None:
            continue
        try:
            secrets[agent.slot] = resolve(agent.api_key, environment)
        except SecretUnavailable as error:
            raise SecretUnavailable(f"agent {agent.name!r} of pool {pool.name!r}: {error}") from None
    return secrets

"""Providers by name: those of this package, and those that other packages offer as entry points.

A package offers one in the group ``trinity_mlx.providers``, under the name that pools use::

    [project.entry-points."trinity_mlx.providers"]
    acme = "acme_trinity:make_provider"      # a ProviderFactory: (agent, api_key) -> Provider

Nothing is imported before an agent asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from ..contracts.errors import EnvironmentUnavailable, PoolInvalid, TrinityError
from ..contracts.pool import Agent
from ..contracts.provider import ENTRY_POINT_GROUP, Provider, ProviderFactory


@dataclass(frozen=True, slots=True)
class Row:
    """All that is known of a provider before it is made.

    Attributes:
        module: where it is, below this package; None for one that another package offers.
        extra: the extra of this package that brings what it needs, if any.
        is_offline: whether it never leaves this process, so that no permission is needed; None until it is made.
        paths: which fields of an agent, or of its ``extra``, are paths; a pool takes them from its own folder.
        reads_environment: whether packages below it may read credentials by themselves; a governed run refuses it.
    """

    module: str | None = None
    extra: str | None = None
    is_offline: bool | None = None
    paths: tuple[str, ...] = ()
    reads_environment: bool = False

    @property
    def remedy(self) -> str:
        """What to do where a package is missing."""
        return f"pip install 'trinity-mlx[{self.extra}]'" if self.extra else "reinstall trinity-mlx"


BUILT_IN = {
    "openai-compatible": Row("openai_compatible", is_offline=False),
    "anthropic": Row("anthropic", extra="anthropic", is_offline=False),
    "any-llm": Row("any_llm", extra="any-llm", is_offline=False, reads_environment=True),
    "local": Row("local.provider", is_offline=True, paths=("model",)),
    "scripted": Row("scripted", is_offline=True, paths=("extra.script",)),
}


def row_of(name: str) -> Row:
    """What is known of the provider ``name``; of one that another package offers, nothing."""
    return BUILT_IN.get(name, Row())


def provider_names() -> tuple[str, ...]:
    """Every name that an agent may give as its provider, sorted."""
    return tuple(sorted({*BUILT_IN, *_offered()}))


def make_provider(agent: Agent, api_key: str | None = None) -> Provider:
    """The provider of ``agent``, ready to be called; ``api_key`` is the resolved secret.

    Raises:
        PoolInvalid: nobody offers the provider, or the agent lacks something that it needs.
        EnvironmentUnavailable: a package that it needs is not installed, or another package's provider is broken.
    """
    factory = provider_factory(agent)
    try:
        return factory(agent, api_key)
    except TrinityError:
        raise
    except Exception as error:
        raise EnvironmentUnavailable(
            f"agent {agent.name!r}: provider {agent.provider!r} cannot be made: {type(error).__name__}; "
            "reinstall or report to the package behind it"
        ) from error


def provider_factory(agent: Agent) -> ProviderFactory:
    """What makes the provider of ``agent``; imports what it needs, and makes nothing yet.

    Raises:
        PoolInvalid: nobody offers the provider.
        EnvironmentUnavailable: a package that it needs is not installed.
    """
    name = agent.provider
    if name in BUILT_IN:  # first, so that no package takes over a name of ours
        return _built_in(name)
    offered = _offered()
    if name not in offered:
        known = ", ".join(provider_names())
        raise PoolInvalid(f"agent {agent.name!r}: no provider {name!r}; there are: {known}")
    try:
        return cast(ProviderFactory, offered[name].load())
    except (ImportError, AttributeError) as error:
        raise EnvironmentUnavailable(
            f"provider {name!r} ({offered[name].value}) cannot be imported: {error}; reinstall the package behind it"
        ) from None


def _built_in(name: str) -> ProviderFactory:
    source = BUILT_IN[name]
    try:
        module = import_module(f"{__package__}.{source.module}")
    except ImportError as error:
        raise EnvironmentUnavailable(
            f"provider {name!r} needs a package that is not installed ({error}): {source.remedy}"
        ) from None
    return cast(ProviderFactory, module.make_provider)


def _offered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}

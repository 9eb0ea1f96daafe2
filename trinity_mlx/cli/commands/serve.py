"""``trinity-mlx serve``: pools of models behind the interfaces that programs already speak."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...contracts.errors import EnvironmentUnavailable, UsageError
from .. import preferences, settings
from ..artifact_choice import choose_artifact
from ..options import NAME, PLACE, FiniteRange, artifact_option, base_option, policy_option, profile_option
from ..output import note
from ..run_options import (
    LIMITS,
    limit_options,
    live_option,
    policy_options,
    setting_option,
    trace_content_option,
    trace_option,
)

if TYPE_CHECKING:
    from ...contracts.pool import Pool
    from ...routing.router import Router
    from ...runs.coordinator import Coordinator
    from ...server.auth import Keys
    from ...server.service import Service

KEY = "TRINITY_API_KEY"


@click.command()
@click.option(
    "--pool",
    "pools",
    multiple=True,
    type=NAME,
    metavar="[NAME=]NAME|FILE.toml",
    help="The agents; may be repeated, each a model trinity-NAME. By default a demonstration that needs no network.",
)
@policy_option
@setting_option
@limit_options
@live_option
@artifact_option
@base_option
@profile_option
@click.option(
    "--window",
    default="auto",
    show_default=True,
    metavar="HEAD,TAIL",
    help="Tokens of a long transcript that the router reads: the first and the last. auto measures; none is off.",
)
@click.option("--route-timeout", type=FiniteRange(min=0, min_open=True), help="Seconds that a route may take.")
@click.option(
    "--default-slot", type=click.IntRange(min=0), help="The slot that takes a turn whose route is late or fails."
)
@click.option(
    "--host",
    type=NAME,
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; beyond this machine only with a key.",
)
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--api-key-file",
    type=PLACE,
    metavar="FILE",
    help=f"The keys that are accepted, one a line; {KEY} in the environment is one more.",
)
@click.option(
    "--server-name",
    "names",
    multiple=True,
    type=NAME,
    metavar="NAME",
    help="Another Host name that the server answers to.",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    type=NAME,
    metavar="ORIGIN",
    help="Origin of a web page that may call the server (CORS).",
)
@click.option(
    "--alias",
    "aliases",
    multiple=True,
    type=NAME,
    metavar="NAME=MODEL",
    help="Another name for a model; NAME may contain *.",
)
@click.option(
    "--allow-option",
    "allowed",
    multiple=True,
    type=NAME,
    metavar="NAME",
    help="An option of the policy that a request may set; max_turns may always be lowered.",
)
@click.option(
    "--max-requests",
    default=256,
    show_default=True,
    type=click.IntRange(min=1),
    help="Requests that are answered at once.",
)
@click.option("--max-queued", default=64, show_default=True, type=click.IntRange(min=0), help="Requests that may wait.")
@click.option(
    "--max-per-key",
    type=click.IntRange(min=1),
    help="Requests of one key, the waiting ones included; no limit by default.",
)
@click.option(
    "--grace",
    default=30.0,
    show_default=True,
    type=FiniteRange(min=0),
    help="Seconds that requests have to finish after a signal.",
)
@trace_option
@trace_content_option
@click.option("--quiet", is_flag=True, help="Print no line for each request.")
@click.option("--check", is_flag=True, help="Check everything, route once, and exit.")
def serve(**options: Any) -> None:
    """Serve pools of models at one address that OpenAI's and Anthropic's clients can use.

    Without options: the demonstration pool, on this machine alone, on port 8080, without a key.

    \b
    Examples:
      trinity-mlx serve
      trinity-mlx serve --pool home.toml --live --max-cost 0.05
      trinity-mlx serve --pool coding=a.toml --pool home=b.toml --live --api-key-file keys.txt --host 0.0.0.0
    """
    _need_extra()
    from ...server.process import listen

    asked = ServeOptions(limits={name: options.pop(option) for option, (name, _, _) in LIMITS.items()}, **options)
    _log(asked.quiet)
    keys = _keys(asked.api_key_file)
    pools = _pools(asked.pools)
    with _load_router(asked) as router:
        service = _service(asked, router, pools, keys)
        if asked.check:
            asyncio.run(_checked(service))
            note("everything is in order")
            return
        with listen(asked.host, asked.port) as place:
            host, port = place.getsockname()[:2]
            _greet(f"http://{f'[{host}]' if ':' in host else host}:{port}", service, bool(keys))
            asyncio.run(_serve(service, place, asked.grace))


@dataclass(frozen=True)
class ServeOptions:
    """What the user said; ``limits`` by the names of ``Limits``, None where there is none."""

    pools: tuple[str, ...]
    policy: str
    options: tuple[str, ...]
    live: bool
    artifact: str
    base: str | None
    profile: str
    window: str
    route_timeout: float | None
    default_slot: int | None
    host: str
    port: int
    api_key_file: Path | None
    names: tuple[str, ...]
    origins: tuple[str, ...]
    aliases: tuple[str, ...]
    allowed: tuple[str, ...]
    max_requests: int
    max_queued: int
    max_per_key: int | None
    grace: float
    trace_out: Path | None
    trace_content: bool
    quiet: bool
    check: bool
    limits: Mapping[str, Any]


def _need_extra() -> None:
    try:
        import prometheus_client
        import starlette
        import uvicorn
    except ImportError as error:
        raise EnvironmentUnavailable(
            f"serving needs a package that is not installed ({error.name}): pip install 'trinity-mlx[serve]'"
        ) from None
    assert all((prometheus_client, starlette, uvicorn))


def _log(is_quiet: bool) -> None:
    """The server's lines go to the error stream."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("trinity_mlx.server")
    log.handlers[:] = [handler]
    log.setLevel(logging.WARNING if is_quiet else logging.INFO)


def _keys(file: Path | None) -> Keys:
    from ...server.assembly import read_keys
    from ...server.auth import Keys

    own = settings.environment().get(KEY)
    return Keys([*([own] if own else []), *(read_keys(file) if file else [])])


def _pools(given: tuple[str, ...]) -> dict[str, Pool]:
    from ...pools.files import find_pool
    from ...server.assembly import named_pools

    folder = settings.config_dir()
    usual, _ = preferences.value_of("pool", folder, settings.environment())
    return {name: find_pool(place, folder) for name, place in named_pools(given or (usual,)).items()}


def _load_router(asked: ServeOptions) -> Router:
    """The router with its window; measuring one takes a second or two."""
    from ...server.assembly import load_served

    choice = choose_artifact(asked.artifact, asked.base, asked.profile)
    router = load_served(
        choice.artifact,
        choice.base,
        asked.profile,
        asked.window,
        config_dir=settings.config_dir(),
        hash_memory=settings.hash_memory(),
        hub=settings.hub,
    )
    window = router.identity.window
    read = f"the first {window.head} and the last {window.tail} tokens" if window else "every transcript whole"
    note(f"router {router.identity.artifact.name} on {router.identity.profile}; it reads {read}")
    return router


def _service(asked: ServeOptions, router: Router, pools: Mapping[str, Pool], keys: Keys) -> Service:
    from ...server.assembly import secret_of
    from ...server.auth import accepted_hosts, check_exposure
    from ...server.capacity import Room
    from ...server.narrowing import ALLOWED_OPTIONS
    from ...server.routers import ServedRouter
    from ...server.service import Service, Settings

    check_exposure(asked.host, keys)
    served = ServedRouter(router, asked.route_timeout, asked.default_slot)
    per_key = asked.max_per_key or asked.max_requests + asked.max_queued
    return Service(
        {name: _coordinator(asked, served, pool) for name, pool in pools.items()},
        served,
        Settings(
            hosts=accepted_hosts(asked.host, asked.names),
            origins=frozenset(asked.origins),
            room=Room(asked.max_requests, asked.max_queued, per_key),
            allowed_options=ALLOWED_OPTIONS | {name.replace("-", "_") for name in asked.allowed},
        ),
        keys,
        dict(map(_alias, asked.aliases)),
        secret_of(keys.digests),
    )


def _coordinator(asked: ServeOptions, router: Any, pool: Pool) -> Coordinator:
    from ...rules.budgets import Limits
    from ...rules.policy import Policy, Review
    from ...runs.coordinator import Coordinator, TraceFile

    policy = Policy.named(asked.policy).with_options(**policy_options(asked.options))
    if policy.review is Review.ASK:
        raise UsageError(
            "review=ask has a person release each answer, and over HTTP nobody can be asked: leave it out, or use "
            "trinity-mlx run, which asks in the terminal"
        )
    return Coordinator(
        router,
        pool,
        policy,
        limits=Limits(**asked.limits),
        environment=settings.environment(),
        live=asked.live,
        trace=TraceFile(asked.trace_out, asked.trace_content) if asked.trace_out else None,
    )


def _alias(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"--alias is {text[:80]!r}: give NAME=MODEL")
    return name.strip(), model.strip()


async def _checked(service: Service) -> None:
    await service.router.warm()
    await service.close()


async def _serve(service: Service, place: Any, grace_s: float) -> None:
    from ...server.app import create_app
    from ...server.process import Server
    from ...server.process import serve as serve_until_signal

    await serve_until_signal(Server(create_app(service), service, grace_s, note), service, place)


def _greet(address: str, service: Service, has_keys: bool) -> None:
    """Where it is, what it offers, and how to point clients at it."""
    key = "$" + KEY if has_keys else "none"
    models = ", ".join(service.catalogue.names[:3])
    bearer = f' -H "Authorization: Bearer ${KEY}"' if has_keys else ""
    click.echo(
        f"trinity-mlx serves at {address}, where there is a page to try it\n"
        f"models       {models}; GET {address}/v1/models lists {len(service.catalogue.names)}\n"
        f'curl         curl {address}/v1/responses{bearer} -d \'{{"input": "What is 17 + 25?"}}\'\n'
        f"openai       OPENAI_BASE_URL={address}/v1 OPENAI_API_KEY={key}   model trinity\n"
        f"Codex        codex -c model_providers.t.base_url={address}/v1 -c model_providers.t.name=t "
        f"-c model_provider=t -m trinity\n"
        f"Claude Code  ANTHROPIC_BASE_URL={address} ANTHROPIC_AUTH_TOKEN={key} claude --model claude-trinity\n"
        f"llm          extra-openai-models.yaml: model_id trinity, model_name trinity, api_base {address}/v1\n"
        f"Open WebUI   Settings, Connections, OpenAI: {address}/v1; task model trinity-route\n"
        "Ctrl-C shuts it down in order; docs/serving.md says more"
    )

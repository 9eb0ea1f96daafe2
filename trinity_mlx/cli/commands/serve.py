"""``trinity-mlx serve``: pools of models behind the interfaces that programs already speak."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any

import click

from ...contracts.errors import EnvironmentUnavailable
from ..options import NAME, PLACE, FiniteRange, artifact_option, base_option, policy_option, profile_option
from ..output import note
from ..run_options import (
    LIMITS,
    limit_options,
    live_option,
    setting_option,
    trace_content_option,
    trace_option,
)
from ..serving import KEY, ServeOptions, keys_of, load_router, pools_of, service_of

if TYPE_CHECKING:
    from ...server.service import Service


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
    keys = keys_of(asked)
    pools = pools_of(asked)
    with load_router(asked) as router:
        service = service_of(asked, router, pools, keys)
        if asked.check:
            asyncio.run(_checked(service))
            note("everything is in order")
            return
        with listen(asked.host, asked.port) as place:
            host, port = place.getsockname()[:2]
            _greet(f"http://{f'[{host}]' if ':' in host else host}:{port}", service, bool(keys))
            asyncio.run(_serve(service, place, asked.grace))


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

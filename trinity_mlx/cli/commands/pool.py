"""``trinity-mlx pool``: what a pool holds, and whether it can be used here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from ...contracts.errors import TrinityError
from ...contracts.pool import ALL_ROLES
from .. import settings
from ..options import NAME, json_option
from ..output import console, print_json

if TYPE_CHECKING:
    from ...contracts.pool import Agent, Pool


@click.group()
def pool() -> None:
    """Look at provider pools: the agents behind a router's slots.

    A pool is a TOML file, given by its path, or by its name if it is in the `pools` folder of your configuration
    ($TRINITY_MLX_CONFIG). It has one agent for each slot from 0; what has a default may be left out:

    \b
      name = "home"
      [[agents]]
      slot = 0
      name = "solver"
      provider = "openai-compatible"           # anthropic, any-llm, local, scripted
      model = "qwen3:32b"
      base_url = "http://127.0.0.1:11434/v1"
      api_key = "env:HOME_KEY"                 # or file:/path; never the key itself
      proxy = "http://10.0.0.1:3128"           # what its calls go through
      timeout_s = 60                           # of one attempt
      max_tokens = 4096
      temperature = 0.2
      price = { input = 0.5, output = 2.0 }    # USD per million tokens
      roles = ["worker", "verifier"]           # all three by default
      accepts = ["tools", "images"]            # what its requests may hold besides text
      extra = { top_p = 0.9 }                  # goes into the request as it is

    \b
    Examples:
      trinity-mlx pool show demo
      trinity-mlx pool check home.toml
    """


@pool.command()
@click.argument("name", type=NAME, default="demo")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show the agents of a pool: a name, or a TOML file. Keys are shown as references only.

    \b
    Example:
      trinity-mlx pool show demo
    """
    from ...pools.files import find_pool

    found = find_pool(name, settings.config_dir())
    if as_json:
        print_json({"name": found.name, "agents": [_record(agent) for agent in found.agents]})
    else:
        _print(found)


@pool.command()
@click.argument("name", type=NAME)
@json_option
@click.pass_context
def check(ctx: click.Context, name: str, as_json: bool) -> None:
    """Check a pool without calling anybody: its file, the providers' packages, the keys.

    Exits with 3 when an agent cannot be used here.

    \b
    Example:
      trinity-mlx pool check home.toml
    """
    from ...pools.files import find_pool

    found = find_pool(name, settings.config_dir())
    checks = [_check(agent) for agent in found.agents]
    healthy = all(each.ok for each in checks)
    if as_json:
        print_json({"ok": healthy, "pool": found.name, "agents": [asdict(each) for each in checks]})
    else:
        _print_checks(found, checks)
    if not healthy:
        ctx.exit(3)


@dataclass(frozen=True)
class AgentCheck:
    """Whether an agent can be used here, and why not."""

    slot: int
    agent: str
    ok: bool
    found: str


def _check(agent: Agent) -> AgentCheck:
    """Make the agent's provider and close it again: nothing is sent."""
    import asyncio

    from ...pools.secrets import resolve
    from ...providers.registry import make_provider

    async def make_and_close() -> bool:
        key = resolve(agent.api_key, settings.environment()) if agent.api_key else None
        provider = make_provider(agent, key)
        await provider.close()
        return provider.is_live

    try:
        is_live = asyncio.run(make_and_close())
    except TrinityError as error:
        return AgentCheck(agent.slot, agent.name, False, str(error))
    price = "" if agent.price else "; no price, so its cost stays unknown"
    return AgentCheck(agent.slot, agent.name, True, ("live: needs --live" if is_live else "in this process") + price)


def _record(agent: Agent) -> dict[str, Any]:
    """JSON-ready, without what looks like a key in the wrong place."""
    from ...tracing.redaction import Redactor

    redactor = Redactor()
    values = asdict(agent) | {"roles": [role.label for role in sorted(agent.roles)]}
    return values | {name: redactor.value(values[name]) for name in ("model", "base_url", "extra")}


def _print(found: Pool) -> None:
    _print_rows(found, [(str(agent.slot), agent.name, _facts(agent)) for agent in found.agents])


def _facts(agent: Agent) -> str:
    """How an agent is called, in words that wrap in any window."""
    record = _record(agent)
    facts = [agent.provider]
    facts += [f"model {record['model']}"] if agent.model else []
    facts += [f"at {record['base_url']}"] if agent.base_url else []
    facts += [f"key {agent.api_key}"] if agent.api_key else []
    facts.append("all roles" if agent.roles == ALL_ROLES else " and ".join(record["roles"]) + " only")
    price = agent.price
    facts.append(f"{price.input:g} USD per million tokens in, {price.output:g} out" if price else "no price")
    return ", ".join(facts)


def _print_checks(found: Pool, checks: list[AgentCheck]) -> None:
    marks = {True: "[green]ok[/]", False: "[bold red]no[/]"}
    rows = [(str(each.slot), each.agent, each.found) for each in checks]
    _print_rows(found, rows, [marks[each.ok] for each in checks])


def _print_rows(found: Pool, rows: list[tuple[str, str, str]], marks: list[str] | None = None) -> None:
    """The pool's name and a row for each agent: a mark, if any, the slot, the name, and what there is to say."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for index, row in enumerate(rows):
        table.add_row(*([marks[index]] if marks else []), *map(escape, row))
    out = console()
    out.print(f"pool [bold]{escape(found.name)}[/]")
    out.print(table)

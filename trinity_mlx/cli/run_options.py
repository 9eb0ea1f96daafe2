"""The options by which runs are governed, shared by the commands that carry runs out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from ..contracts.errors import PolicyInvalid
from .options import NAME, PLACE

LIMITS = {
    "max_seconds": ("wall_time_s", float, "Seconds that the run may take."),
    "max_calls": ("provider_calls", int, "Attempts at providers."),
    "max_call_seconds": ("call_latency_s", float, "Seconds that one attempt may take."),
    "max_revisions": ("verifier_revisions", int, "Verifier replies that do not accept."),
    "max_cost": ("cost_usd", float, "US dollars, by the prices in the pool."),
    "max_tokens": ("tokens", int, "Tokens in and out, of all calls together."),
}
"""Options that limit a run: the limit's name, its type, its help."""


def limit_options(command: Any) -> Any:
    """An option for each of ``LIMITS``."""
    for option, (_, kind, text) in reversed(LIMITS.items()):
        command = click.option(f"--{option.replace('_', '-')}", type=kind, help=text)(command)
    return command


setting_option = click.option(
    "--option",
    "options",
    multiple=True,
    type=NAME,
    metavar="NAME=VALUE",
    help="Set an option of the policy, as in sticky_margin=0.5; may be repeated.",
)
live_option = click.option(
    "--live", is_flag=True, help="Allow calls to providers outside this process: they may cost money."
)
trace_option = click.option("--trace-out", type=PLACE, metavar="FILE.jsonl", help="Append every event to a file.")
trace_content_option = click.option(
    "--trace-content", is_flag=True, help="Keep texts in the trace, not only their hashes."
)


def policy_options(texts: Iterable[str]) -> dict[str, str]:
    """The policy's options in texts like ``NAME=VALUE``.

    Raises:
        PolicyInvalid: one has another form.
    """
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise PolicyInvalid(f"--option is {text[:80]!r}: give NAME=VALUE, as in --option sticky_margin=0.5")
        options[name.strip().replace("-", "_")] = value.strip()
    return options

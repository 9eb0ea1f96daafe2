"""The command group, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import click

from ..contracts.errors import TrinityError
from .commands.artifacts import artifacts
from .commands.certify import certify
from .commands.compare_lanes import compare_lanes
from .commands.doctor import doctor
from .commands.eval_ import eval_
from .commands.export import export
from .commands.fetch import fetch
from .commands.import_ import import_
from .commands.inspect import inspect
from .commands.parity import parity
from .commands.pool import pool
from .commands.profiles import profiles
from .commands.publish import publish
from .commands.route import route
from .commands.run import run
from .commands.trace import trace
from .settings import prepare_process


class _ErrorsForPeople(click.Group):
    """Prints a ``TrinityError`` without a traceback and exits with its code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except TrinityError as error:
            click.secho("error: ", fg="red", bold=True, err=True, nl=False)
            click.echo(str(error), err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_ErrorsForPeople, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("trinity-mlx"), prog_name="trinity-mlx")
def main() -> None:
    """Coordinate language models with a small adapted one.

    A transcript goes in; a small language model reads it once and says which agent speaks next, and in which role: that
    is `route`. A loop carries it out against real models until a Verifier accepts: that is `run`.

    \b
    Examples:
      trinity-mlx run
      trinity-mlx route "What is 17 + 25? Answer briefly."

    Exit codes: 0 done, 1 a gate failed, 2 usage, 3 profile or environment unavailable, 4 artifact invalid,
    5 provider failed, 6 budget exceeded.
    """
    prepare_process()


main.add_command(run)
main.add_command(route)
main.add_command(pool)
main.add_command(trace)
main.add_command(profiles)
main.add_command(doctor)
main.add_command(export)
main.add_command(import_)
main.add_command(fetch)
main.add_command(artifacts)
main.add_command(inspect)
main.add_command(publish)
main.add_command(parity)
main.add_command(eval_)
main.add_command(certify)
main.add_command(compare_lanes)

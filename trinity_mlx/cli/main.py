"""The command group: its commands by name, each imported when it is used, and how its failures are told."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import click

from ..contracts.errors import TrinityError
from . import preferences
from .options import PLACE
from .process import CANCELLED, Failure, last_word, outcome
from .settings import config_dir, prepare_process

LEVELS = ("debug", "info", "warning", "error")


class Verb(NamedTuple):
    """Where a command lies, as ``module:attribute`` below ``commands``, and what it does in one line."""

    place: str
    summary: str


GROUPS: Mapping[str, Mapping[str, Verb]] = {
    "Use": {
        "run": Verb("run:run", "Take a task to a verified answer, by the agents of a pool."),
        "route": Verb("route:route", "Say which agent slot speaks next, and in which role."),
        "serve": Verb("serve:serve", "Serve pools at one address that any client can use."),
    },
    "Pools": {
        "pool": Verb("pool:pool", "Look at the agents behind the slots, and check them."),
    },
    "Artifacts": {
        "fetch": Verb("fetch:fetch", "Get the published router, every file verified."),
        "artifacts": Verb("artifacts:artifacts", "List what is on this machine, or delete it."),
        "inspect": Verb("inspect:inspect", "Verify a bundle and show what it is."),
        "export": Verb("export:export", "Make a bundle from a base and a trained vector."),
        "import": Verb("import_:import_", "Make a bundle from what other programs made."),
        "publish": Verb("publish:publish", "Upload a bundle to the Hugging Face Hub."),
    },
    "Gates": {
        "eval": Verb("eval_:eval_", "Check decisions and margins against a lane."),
        "certify": Verb("certify:certify", "Measure a lane on this machine."),
        "compare-lanes": Verb("compare_lanes:compare_lanes", "Compare what two lanes recorded."),
        "parity": Verb("parity:parity", "Prove that two systems compute the same."),
    },
    "Train": {
        "table": Verb("table:table", "Look at tables of recorded answers."),
        "headroom": Verb("headroom:headroom", "Say what a router could gain on a table of answers."),
        "train": Verb("train:train", "Train a router for your own agents, with a report."),
    },
    "See": {
        "trace": Verb("trace:trace", "Show, verify and export the traces of runs."),
        "profiles": Verb("profiles:profiles", "List what can run here, and what the rest needs."),
        "doctor": Verb("doctor:doctor", "Check the installation by routing for real."),
        "config": Verb("config:config", "Set the defaults of options."),
    },
}
"""Every command, in the groups and the order in which help shows them."""


class Program(click.Group):
    """Imports a command when it is asked for, and ends the process with one line and an exit code, come what may."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, group by group."""
        return [name for group in GROUPS.values() for name in group]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        verb = next((group[cmd_name] for group in GROUPS.values() if cmd_name in group), None)
        if verb is None:
            return None
        module, _, attribute = verb.place.partition(":")
        command: click.Command = getattr(import_module(f".commands.{module}", __package__), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A section for each group; nothing is imported for it."""
        width = max(map(len, self.list_commands(ctx)))
        for title, group in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), verb.summary) for name, verb in group.items()])

    def main(
        self,
        args: Any = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command that ``args`` name, and exit."""
        if not standalone_mode or "_TRINITY_MLX_COMPLETE" in os.environ:
            return super().main(args, prog_name, complete_var, standalone_mode=standalone_mode, **extra)
        name = prog_name or "trinity-mlx"
        given = sys.argv[1:] if args is None else list(args)
        code = outcome(lambda: self._carried_out(given, name, extra), lambda error: explain(error, given))
        if args is None:
            last_word(code)
        sys.exit(code)

    def _carried_out(self, args: list[str], name: str, extra: dict[str, Any]) -> int:
        try:
            with self.make_context(name, args, **extra) as ctx:
                self.invoke(ctx)
        except click.exceptions.Exit as done:
            return done.exit_code
        return 0


def explain(error: Exception, args: Sequence[str] = ()) -> Failure | None:
    """What to tell about an error of ours, of click's, or of a text that is none; ``args`` name the command."""
    if isinstance(error, click.ClickException):
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        return Failure(error.format_message(), f"{command} --help" if command else "", error.exit_code)
    if isinstance(error, click.Abort):
        return Failure("there was no answer to the question", "", CANCELLED)
    if isinstance(error, UnicodeEncodeError):
        return Failure(f"{error.object[:200]!r} holds bytes that are no text", "", click.UsageError.exit_code)
    if isinstance(error, TrinityError):
        from .advice import advice

        return Failure(str(error), advice(error, _command_of(args)), error.exit_code)
    return None


def _command_of(args: Sequence[str]) -> click.Command:
    """The innermost command that ``args`` name."""
    command: click.Command = main
    for name in args:
        inner = command.get_command(click.Context(command), name) if isinstance(command, click.Group) else None
        command = inner or command
    return command


def _print_version(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"trinity-mlx, version {version('trinity-mlx')}")
        ctx.exit()


@click.group("trinity-mlx", cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--log-file", type=PLACE, envvar="TRINITY_LOG_FILE", help="Append a line of JSON for each event.")
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    envvar="TRINITY_LOG_LEVEL",
    help="The lowest level that is logged.",
)
@click.option("--debug-native-logs", is_flag=True, help="Show what the frameworks print about themselves.")
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version."
)
@click.pass_context
def main(ctx: click.Context, log_file: Path | None, log_level: str, debug_native_logs: bool) -> None:
    """Coordinate language models with a small adapted one.

    A transcript goes in; a small language model reads it once and says which agent speaks next, and in which role: that
    is `route`. A loop carries it out against real models until a Verifier accepts: that is `run`.

    \b
    Examples:
      trinity-mlx run
      trinity-mlx route "What is 17 + 25? Answer briefly."

    Exit codes: 0 done, 1 a gate failed, 2 usage, 3 profile or environment unavailable, 4 artifact invalid,
    5 provider failed, 6 budget exceeded, 7 the machine failed, 130 cancelled, 141 nobody reads the output.
    """
    prepare_process(debug_native_logs)
    chosen = {} if ctx.invoked_subcommand == "config" else preferences.read(config_dir())
    ctx.default_map = _for_every_command(ctx, chosen)
    if not debug_native_logs:
        ctx.with_resource(_quiet_warnings())
    if path := log_file or (preferences.place(chosen["log_file"]) if "log_file" in chosen else None):
        from .logs import log_to

        level = log_level if _is_given(ctx, "log_level") else chosen.get("log_level", log_level)
        ctx.with_resource(log_to(path, level, ctx.invoked_subcommand or ""))


def _for_every_command(ctx: click.Context, chosen: dict[str, str]) -> dict[str, Any]:
    """The user's own defaults for the command that is run, and for the commands in it."""
    name = ctx.invoked_subcommand or ""
    command = main.get_command(ctx, name)
    inner = command.list_commands(ctx) if isinstance(command, click.Group) else []
    return {name: {**chosen, **dict.fromkeys(inner, chosen)}}


def _is_given(ctx: click.Context, option: str) -> bool:
    return ctx.get_parameter_source(option) is not click.core.ParameterSource.DEFAULT


@contextmanager
def _quiet_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

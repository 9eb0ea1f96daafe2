"""What to try after an error: an option that the command has, or a command that there is."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from trinity_mlx import errors
from trinity_mlx.cli import main
from trinity_mlx.cli.advice import TABLE, Advice, advice
from trinity_mlx.cli.main import explain

ENTRIES = [entry for entries in TABLE.values() for entry in entries]


def commands(group: click.Group) -> list[click.Command]:
    """Every command below ``group``."""
    context = click.Context(group)
    inner = [command for name in group.list_commands(context) if (command := group.get_command(context, name))]
    deeper = [found for command in inner if isinstance(command, click.Group) for found in commands(command)]
    return [*inner, *deeper]


def names_of(command: click.Command) -> set[str | None]:
    return {parameter.name for parameter in command.params}


EVERY = commands(main)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.text[:40])
def test_every_option_and_command_that_is_named_exists(entry: Advice) -> None:
    having = [
        command for command in EVERY if not entry.option or entry.option in {each.name for each in command.params}
    ]
    assert having
    options = {option for command in having for each in command.params for option in each.opts}
    for named in re.findall(r"--[a-z-]+", entry.text.replace("--help", "").replace("--all", "")):
        assert named in options
    for named in re.findall(r"trinity-mlx ([a-z-]+)", entry.text):
        assert named in main.list_commands(click.Context(main))


def test_the_nearest_type_that_has_advice_for_the_command_gives_it() -> None:
    run, export = (main.get_command(click.Context(main), name) for name in ("run", "export"))
    assert "--live" in advice(errors.LiveCallRefused(), run)
    assert advice(errors.LiveCallRefused(), export) == ""
    assert "--resume" in advice(errors.OutputExists(), export)
    assert advice(errors.UsageError(), run) == ""
    assert advice(errors.OutputExists(), None) == ""


@pytest.mark.parametrize(
    ("args", "expected"),
    [(["run", "x", "--pool", "y"], "--live"), (["parity", "run", "--out", "x"], ""), ([], "")],
)
def test_the_command_is_found_in_the_arguments(args: list[str], expected: str) -> None:
    failure = explain(errors.LiveCallRefused("x"), args)
    assert failure
    assert failure.advice.partition(",")[0] == expected


def test_advice_stands_in_a_line_of_its_own() -> None:
    result = CliRunner().invoke(main, ["route", "hi", "--artifact", "no-such-artifact"])
    first, second = result.stderr.splitlines()
    assert first.startswith("error: no artifact 'no-such-artifact'")
    assert second.startswith("try: trinity-mlx artifacts")
